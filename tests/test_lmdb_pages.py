"""converters.records.lmdb_pages: LMDB's order and values, one error for damage."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import lmdb
import numpy as np
import pytest

from converters.environment import Environment
from converters.errors import DataError
from converters.prototxt.text import parse_net
from converters.readers import open_reader
from converters.records.datum import encode_batch
from converters.records.lmdb_reader import LmdbReader
from converters.records.lmdb_writer import create_lmdb

ROOT = Path(__file__).parents[1]
PAGE = os.sysconf("SC_PAGESIZE")
HEADER = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
# Bytes in a meta page: where main database's fields and what follows them begin.
FLAGS, DEPTH, ENTRIES, ROOT_PAGE, LAST_PAGE, TRANSACTION = 92, 94, 120, 128, 136, 144


def sizes_of(kind: str, rng: random.Random) -> int:
    """A value's size: around 2,000 bytes one moves to overflow pages, of 4,096 bytes less 16."""
    return {
        "small": rng.randrange(200),
        "large": rng.choice([3000, 4080, 4081, 9000, 60_000]),
        "mixed": rng.choice([0, 10, 1500, 2030, 2040, 2050, 5000]),
    }[kind]


@pytest.mark.parametrize("kind", ["small", "large", "mixed"])
@pytest.mark.parametrize("seed", range(4))
def test_order_and_values_are_those_of_lmdbs_cursor(tmp_path: Path, seed: int, kind: str) -> None:
    """Keys of any bytes, in any order, in small and large transactions; some replaced or gone."""
    rng = random.Random(f"{seed} {kind}")
    count = rng.choice([1, 30, 400]) if kind == "large" else rng.choice([3, 300, 3000])
    keys = [b"%08d" % number for number in range(count)]
    if seed % 2:
        keys = list({rng.randbytes(rng.choice([1, 3, 8, 20, 511])): 0 for _ in range(count)})
        rng.shuffle(keys)
    with lmdb.open(str(tmp_path), map_size=1 << 27 + seed) as env:
        for start in range(0, len(keys), 500):
            with env.begin(write=True) as transaction:
                for key in keys[start : start + 500]:
                    transaction.put(key, rng.randbytes(sizes_of(kind, rng)))
        for _ in range(seed):
            with env.begin(write=True) as transaction:
                for key in rng.sample(keys[1:], len(keys) // 3):
                    if rng.random() < 0.5:
                        transaction.delete(key)
                    else:
                        transaction.put(key, rng.randbytes(sizes_of(kind, rng)))
        with env.begin() as transaction:
            expected = [(bytes(key), bytes(value)) for key, value in transaction.cursor()]
    with LmdbReader(tmp_path) as reader:
        assert [(key, bytes(value)) for key, value in reader] == expected
        assert reader.keys == [key for key, _ in expected]
        values = [value for _, value in expected]
        for position in (0, rng.randrange(len(values)), len(values) - 1):
            found = [bytes(value) for value in islice(reader.values(position), 2 * len(values))]
            assert found == (values * 3)[position : position + 2 * len(values)]
            assert bytes(reader[position]) == values[position]


def leaf(number: int, size: int, records: list[tuple[bytes, bytes]]) -> bytes:
    """A leaf page by hand."""
    page, upper, places = bytearray(size), size, []
    for key, value in records:
        node = struct.pack("=HHHH", len(value), 0, 0, len(key)) + key + value
        upper -= len(node) + len(node) % 2
        page[upper : upper + len(node)] = node
        places.append(upper)
    HEADER.pack_into(page, 0, number, 0, LEAF, 16 + 2 * len(places), upper)
    struct.pack_into(f"={len(places)}H", page, 16, *places)
    return bytes(page)


def write_one_leaf(folder: Path, size: int, records: list[tuple[bytes, bytes]]) -> None:
    """A database by hand: two meta pages of that size and a leaf."""
    pages = []
    for number in range(2):
        meta = HEADER.pack(number, 0, META, 0, 0) + struct.pack("=IIQQ", 0xBEEFC0DE, 1, 0, 1 << 20)
        meta += struct.pack("=IHHQQQQQ", size, 0, 0, 0, 0, 0, 0, (1 << 64) - 1)
        meta += struct.pack("=IHHQQQQQ", 0, 0, 1, 0, 1, 0, len(records), 2)
        pages.append((meta + struct.pack("=QQ", 2, number)).ljust(size, b"\0"))
    (folder / "data.mdb").write_bytes(b"".join([*pages, leaf(2, size, records)]))


@pytest.mark.parametrize("size", [512, 8192, 16384, 32768])
def test_page_sizes_of_other_machines(tmp_path: Path, size: int) -> None:
    """LMDB takes the page size of the machine that made the file, which the meta pages say."""
    records = [(b"%04d" % number, b"value %d" % number) for number in range(10)]
    write_one_leaf(tmp_path, size, records)
    with LmdbReader(tmp_path) as reader:
        assert [(key, bytes(value)) for key, value in reader] == records


def test_keys_that_damage_left_empty(tmp_path: Path) -> None:
    """LMDB writes none, but a damaged size may say so."""
    records = [(b"", b"value %d" % number) for number in range(3)]
    write_one_leaf(tmp_path, 4096, records)
    with LmdbReader(tmp_path) as reader:
        assert [(key, bytes(value)) for key, value in reader] == records


# ---------------------------------------------------------------- damage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two levels of pages and values in leaves, then a value in overflow pages."""
    with create_lmdb(tmp_path / "db") as writer:
        for number in range(300):
            writer.put(b"%08d" % number, bytes([number % 256]) * (9000 if number == 280 else 500))
    return tmp_path / "db" / "data.mdb"


def pages_of(data: bytes, kind: int) -> list[int]:
    """Where the pages of a kind begin."""
    places = range(2 * PAGE, len(data), PAGE)
    return [place for place in places if HEADER.unpack_from(data, place)[2] == kind]


def damaged(data: bytearray, how: str) -> None:
    """Damage that LMDB would die of, loop over, or not notice."""
    metas, leaves = (0, PAGE), pages_of(data, LEAF)
    (branch,), (big,) = pages_of(data, BRANCH), pages_of(data, OVERFLOW)
    node = struct.unpack_from("=H", data, leaves[5] + 16)[0] + leaves[5]

    def put(form: str, place: int, *values: int) -> None:
        struct.pack_into(f"={form}", data, place, *values)

    def in_metas(form: str, place: int, value: int) -> None:
        for meta in metas:
            put(form, meta + place, value)

    if how == "page number":
        put("Q", leaves[5], 7)
    elif how == "leaf for branch":
        put("H", branch + 10, LEAF)
    elif how == "branch for leaf":
        put("H", leaves[5] + 10, BRANCH)
    elif how == "bounds":
        put("HH", leaves[5] + 12, 4000, 20)
    elif how == "odd bounds":
        put("H", leaves[5] + 12, 19)
    elif how == "no records":
        put("HH", leaves[5] + 12, 16, PAGE)
    elif how == "node place":
        put("H", leaves[5] + 16, PAGE - 2)
    elif how == "value size":
        put("HH", node, 0, 9)
    elif how == "key size":
        put("H", node + 6, 5000)
    elif how == "node flags":
        put("H", node + 4, 0x40)
    elif how == "subtree":
        put("H", node + 4, 2)
    elif how == "child beyond the file":
        put("HHH", branch + struct.unpack_from("=H", data, branch + 18)[0], 0, 1, 0)
    elif how == "branch below itself":
        put("HHH", branch + struct.unpack_from("=H", data, branch + 18)[0], branch // PAGE, 0, 0)
    elif how == "exchanged leaves":
        one, two = leaves[5], leaves[6]
        data[one : one + PAGE], data[two : two + PAGE] = (
            data[two : two + PAGE],
            data[one : one + PAGE],
        )
        put("Q", one, one // PAGE)
        put("Q", two, two // PAGE)
    elif how == "whole page":
        data[leaves[5] : leaves[5] + PAGE] = random.Random(0).randbytes(PAGE)
    elif how == "overflow number":
        put("Q", big, 1 << 40)
    elif how == "overflow pages":
        put("I", big + 12, 1)
    elif how == "entries raised":
        in_metas("Q", ENTRIES, 1000)
    elif how == "entries of 2^62":
        in_metas("Q", ENTRIES, 1 << 62)
    elif how == "entries lowered":
        in_metas("Q", ENTRIES, 200)
    elif how == "depth":
        in_metas("H", DEPTH, 3)
    elif how == "depth of 60,000":
        in_metas("H", DEPTH, 60_000)
    elif how == "root":
        in_metas("Q", ROOT_PAGE, 1 << 50)
    elif how == "last page":
        in_metas("Q", LAST_PAGE, 1 << 60)
    elif how == "page size":
        in_metas("I", 40, 1 << 31)
    elif how == "no page size":
        in_metas("I", 40, 0)


DAMAGES = {
    "page number": "damaged: page [0-9]+: it has another number",
    "leaf for branch": "it is no branch page",
    "branch for leaf": "it is no leaf page",
    "bounds": "its bounds are wrong",
    "odd bounds": "its bounds are wrong",
    "no records": "its bounds are wrong",
    "node place": "a node lies outside it",
    "value size": "a record passes its end",
    "key size": "a record passes its end",
    "node flags": "a record passes its end",
    "subtree": "holds named databases or several values for a key",
    "child beyond the file": "a page below it lies outside the file",
    "branch below itself": "it is no leaf page",
    "exchanged leaves": "its keys come before those of the page before it",
    "whole page": "it has another number",
    "overflow number": "it begins no 3 pages for a value of 9000 bytes",
    "overflow pages": "it begins no 3 pages",
    "entries raised": "300 records found, 1000 announced",
    "entries of 2^62": "its meta page announces 4611686018427387904 records",
    "entries lowered": "more records found, 200 announced",
    "depth": "it is no branch page",
    "depth of 60,000": "in a tree of depth 60000",
    "root": "at page 1125899906842624",
    "last page": "truncated",
    "page size": "not an LMDB data file",
    "no page size": "not an LMDB data file",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_one_error(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    damaged(data, how)
    assert data != file.read_bytes()
    file.write_bytes(data)
    with pytest.raises(DataError, match=DAMAGES[how]), LmdbReader(file.parent) as reader:
        for _ in islice(reader.values(), 2 * len(reader)):
            pass
    with pytest.raises(DataError), LmdbReader(file.parent) as reader:
        list(reader)


def test_no_record_is_yielded_twice_or_beyond_those_announced(file: Path) -> None:
    """The position of a training is counted in records: the round may not be longer than said."""
    for how, most in (("entries lowered", 200), ("entries raised", 300)):
        data = bytearray(file.read_bytes())
        damaged(data, how)
        other = file.parent.parent / how.replace(" ", "_")
        other.mkdir()
        (other / "data.mdb").write_bytes(data)
        with LmdbReader(other) as reader:
            found = 0
            with pytest.raises(DataError, match="announced"):
                for _ in reader.values():
                    found += 1
        assert found <= most


# ---------------------------------------------------------------- a file that changes


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def other_build(path: Path) -> None:
    """In place, as `cp` does: the same inode, other pages."""
    with create_lmdb(path.parent.parent / "second") as writer:
        for number in range(300):
            writer.put(b"%08d" % number, b"x" * (9000 if number == 280 else 500))
    path.write_bytes((path.parent.parent / "second" / "data.mdb").read_bytes())


def renamed_over(path: Path) -> None:
    (path.parent / "new").write_bytes(path.read_bytes())
    os.replace(path.parent / "new", path)


def removed(path: Path) -> None:
    path.unlink()


CHANGES = [cut, overwritten, other_build, renamed_over, removed]


@pytest.mark.parametrize("change", CHANGES)
def test_a_database_that_changes_ends_the_round(file: Path, change: Callable[[Path], None]) -> None:
    """In its middle or at its end, in one error; a map would end the process (SIGBUS)."""
    with LmdbReader(file.parent) as reader:
        values = reader.values()
        for _ in range(10):
            next(values)
        stat = file.stat()
        change(file)
        if file.exists():  # within the clock's grain the time could be the same
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        with pytest.raises(DataError, match=r"changed while it was read|truncated"):
            for _ in range(300):
                next(values)


def test_a_data_layer_names_itself_and_goes_on_once_the_file_is_whole(file: Path) -> None:
    """An error leaves the reader at the same batch."""
    records = encode_batch(np.zeros((300, 1, 40, 40), np.uint8), np.arange(300) % 7)
    with create_lmdb(file.parent, force=True) as writer:
        writer.put_all([b"%08d" % number for number in range(300)], records)
    text = f'''layer {{ name: "d" type: "Data" top: "data" top: "label"
      data_param {{ source: "{file.parent}" batch_size: 20 }} }}'''
    reader = open_reader(parse_net(text).layer[0], Environment("net", "TRAIN"), 1)
    reader.next()
    content, stat = file.read_bytes(), file.stat()
    os.truncate(file, 3 * PAGE)
    for _ in range(2):
        with pytest.raises(DataError, match=r'layer "d" \(Data\): .*truncated: it ends at byte'):
            for _ in range(20):
                reader.next()
    position = reader.position
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for step in range(20):
        expected = (position + step * 20 + np.arange(20)) % 300 % 7
        assert reader.next()["label"].tolist() == expected.tolist()


def test_one_commit_of_another_process_changes_nothing(file: Path) -> None:
    """A second one may write to pages of the tree that is read."""
    with LmdbReader(file.parent) as reader:
        before = [bytes(value) for _, value in reader]
        for commit in range(3):
            script = f"""
import lmdb, sys
with lmdb.open(sys.argv[1]) as env, env.begin(write=True) as transaction:
    transaction.put(b"00000{commit}", b"new")
    transaction.delete(b"00000100")
"""
            subprocess.run([sys.executable, "-c", script, file.parent], check=True)
            values = reader.values()
            if commit == 0:
                assert [bytes(value) for value in islice(values, 600)] == before * 2
            else:
                with pytest.raises(DataError, match="changed while it was read"):
                    list(islice(values, 600))
    with LmdbReader(file.parent) as reader:
        assert len(reader) == 302


def test_only_pages_that_are_asked_for_are_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time to the first batch does not grow with the file."""
    with create_lmdb(file.parent.parent / "large") as writer:
        for number in range(20_000):
            writer.put(b"%08d" % number, bytes(700))
    read, preadv = 0, os.preadv

    def counted(handle: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal read
        got = preadv(handle, buffers, offset)
        read += got
        return got

    monkeypatch.setattr(os, "preadv", counted)
    with LmdbReader(file.parent.parent / "large") as reader:
        list(islice(reader.values(), 128))
    assert 128 * 700 < read < 1 << 20


# ---------------------------------------------------------------- equal builds


BUILD = """
import sys
import numpy as np
from converters.records.datum import encode_batch
from converters.records.lmdb_writer import create_lmdb
junk = [np.random.bytes(3000) for _ in range(int(sys.argv[2]))]
del junk[::2]
rng = np.random.RandomState(0)
with create_lmdb(sys.argv[1], map_size=1 << 18) as writer:
    for block in range(5):
        pixels = rng.randint(0, 256, (500, 1, 28 + 10 * block, 28)).astype(np.uint8)
        keys = [b"%08d" % (block * 500 + number) for number in range(500)]
        writer.put_all(keys, encode_batch(pixels, np.arange(500) % 10))
"""


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path) -> None:
    """Whatever lay in their memory before; the map grows on the way."""
    files = []
    for number, junk in enumerate((0, 4001)):
        path = tmp_path / f"db{number}"
        subprocess.run([sys.executable, "-c", BUILD, path, str(junk)], check=True, cwd=ROOT)
        files.append((path / "data.mdb").read_bytes())
    assert files[0] == files[1]


def test_a_reader_keeps_values_after_it_closed(tmp_path: Path) -> None:
    pixels = np.zeros((3, 1, 2, 2), np.uint8)
    with create_lmdb(tmp_path / "db") as writer:
        writer.put_all([b"0", b"1", b"2"], encode_batch(pixels, np.arange(3)))
    with LmdbReader(tmp_path / "db") as reader:
        values = [value for _, value in reader]
    assert [value[-1] for value in values] == [0, 1, 2]
