"""Damaged databases, archives, lists, images and means: every one a result or one clear error.

Each kind is read in a child process, many files in each; a child that dies is a failed row, and the
next one goes on behind it. `python -m tests.torture.databases KIND FIRST COUNT` is that child.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.errors import CaffeError
from converters.records.datum import encode_batch
from converters.records.lmdb_reader import DATA_FILE
from converters.records.lmdb_writer import create_lmdb
from tests.test_any_bytes import FORMATS
from tests.torture import child

FILES = 500  # of each kind
_AT_ONCE = 50
_SECONDS = 60  # for one file
_LMDB = "LMDB, "
_PAGE = 4096


def tallies(scale: float, part: int = 0) -> Iterator[child.Tally]:
    """500 damaged files of each kind at scale 1. Each part has other damage."""
    for kind in [_LMDB + command for command in _COMMANDS] + [f for f in FORMATS if f != "LMDB"]:
        yield attack(kind, part * FILES, math.ceil(FILES * scale))


def attack(kind: str, first: int, count: int) -> child.Tally:
    """`count` damaged files of a kind, from number `first` on, read in children."""
    failures: list[str] = []
    ends: Counter[str] = Counter()
    done = 0
    while done < count:
        some = min(_AT_ONCE, count - done)
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["tests.torture.databases", kind, str(first + done), str(some)]
            ended = child.run(arguments, Path(folder), seconds=_SECONDS * some)
        rows = [line.partition("\t")[2] for line in ended.text.splitlines() if "\t" in line]
        for number, row in enumerate(rows, first + done):
            end, _, why = row.partition(": ")
            ends[end] += 1
            if end == "failed":
                failures.append(f"{kind}, file {number}: {why}")
        done += len(rows)
        if len(rows) < some:
            ends["failed"] += 1
            failures.append(f"{kind}, file {first + done}: {child.wrong(ended) or 'no result'}")
            done += 1
    return child.Tally(f"damaged files: {kind}", count, tuple(failures), dict(ends))


# ---------------------------------------------------------------- the child


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut off or exchanged; the beginning, where headers are, most often."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(min(len(data), rng.choice([64, 300, len(data)])) or 1)
        length = rng.choice([1, 1, 2, 4, 8])
        how = rng.randrange(6)
        if how == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[place : place + length] = b"\xff" * length
        elif how == 2:
            data[place : place + length] = bytes(length)
        elif how == 3:
            data[place : place + length] = rng.randbytes(length)
        elif how == 4:
            del data[rng.randrange(len(data) + 1) :]
        else:
            data[place:place] = data[place : place + rng.choice([1, 8, 100])]
    return bytes(data)


def damaged_pages(content: bytes, rng: random.Random) -> bytes:
    """An LMDB file with damage to page heads, nodes, whole pages, meta fields, or its length."""
    data = bytearray(content)
    pages = len(data) // _PAGE
    for _ in range(rng.choice([1, 1, 1, 3])):
        page = rng.randrange(pages) * _PAGE
        how = rng.choice(["head", "head", "node", "page", "meta", "meta", "cut", "swap", "bits"])
        if how == "head":
            struct.pack_into("<H", data, page + 2 * rng.randrange(8), _number(rng, 16))
        elif how == "node":
            struct.pack_into("<H", data, page + 2 * rng.randrange(_PAGE // 2), _number(rng, 16))
        elif how == "page":
            other = rng.randrange(pages) * _PAGE
            data[page : page + _PAGE] = rng.choice(
                [bytes(_PAGE), rng.randbytes(_PAGE), data[other : other + _PAGE]]
            )
        elif how == "meta":
            # Both, or LMDB takes the other one.
            place, form, bits = rng.choice(_META_FIELDS)
            value = _number(rng, bits)
            for meta in (0, _PAGE):
                struct.pack_into(form, data, meta + place, value)
        elif how == "cut":
            length = rng.randrange(len(data))
            data[length:] = bytes(rng.choice([0, len(data) - length]))
            data += bytes(-len(data) % _PAGE) if rng.random() < 0.5 else b""
            data += bytes(max(0, 2 * _PAGE - len(data)))
            pages = max(2, len(data) // _PAGE)
        elif how == "swap":
            # Each says that it is where it is: only the order of the keys is wrong.
            other = rng.randrange(2, max(3, pages)) * _PAGE
            one, two = bytes(data[page : page + _PAGE]), bytes(data[other : other + _PAGE])
            if len(one) == len(two) == _PAGE:
                data[page : page + _PAGE] = one[:8] + two[8:]
                data[other : other + _PAGE] = two[:8] + one[8:]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


# Place, form and bits: page number, flags, magic, version, map size; of both databases pad, flags,
# depth, counts of pages and entries, root; last page, transaction.
_META_FIELDS = [(0, "<Q", 64), (10, "<H", 16), (16, "<I", 32), (20, "<I", 32), (32, "<Q", 64)]
for _at in (40, 88):
    _META_FIELDS += [(_at, "<I", 32), (_at + 4, "<H", 16), (_at + 6, "<H", 16)]
    _META_FIELDS += [(_at + 8 * part, "<Q", 64) for part in range(1, 6)]
_META_FIELDS += [(136, "<Q", 64), (144, "<Q", 64)]


def _number(rng: random.Random, bits: int) -> int:
    """A small number, one of the corners, or any."""
    large = (1 << bits) - 1
    return rng.choice([0, 1, 2, 3, 5, 16, 4096, 1 << bits - 1, large, rng.randint(0, large)])


NET = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.01 }
  data_param { source: "db" batch_size: 50 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """
train_net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 12 snapshot_prefix: "s/t"
snapshot_after_train: false solver_mode: CPU random_seed: 1
"""


def _train() -> int:
    from gmnet_pt.train import main

    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    return main(["solver.prototxt", "--device", "cpu"])


def _converters(*arguments: str) -> Callable[[], int]:
    return lambda: run_subcommand("converters", "", COMMANDS, arguments)


_COMMANDS: dict[str, Callable[[], int]] = {
    "mean": _converters("mean", "db", "mean.binaryproto"),
    "verify": _converters("verify", "db"),
    "show": _converters("show", "db", "sheet.png"),
    "train": _train,
}


def _healthy(folder: Path) -> list[bytes]:
    """Databases whose values lie in leaves, in overflow pages, and in one page alone."""
    rng, contents = np.random.RandomState(0), []
    for count, shape in ((500, (1, 12, 12)), (300, (3, 40, 40)), (5, (1, 4, 4))):
        pixels = rng.randint(0, 256, (count, *shape)).astype(np.uint8)
        path = folder / f"healthy{count}"
        with create_lmdb(path) as writer:
            keys = [b"%08d" % number for number in range(count)]
            writer.put_all(keys, encode_batch(pixels, np.arange(count) % 10))
        contents.append((path / DATA_FILE).read_bytes())
    return contents


def _read_database(command: str, content: bytes) -> str:
    """How a command ended on a database of these bytes."""
    Path("db").mkdir(exist_ok=True)
    Path("db", DATA_FILE).write_bytes(content)
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = _COMMANDS[command]()
    ended = child.Ended(status, err.getvalue() + out.getvalue())
    if why := child.wrong(ended):
        return f"failed: {why}"
    return "refused" if status else "unharmed"


def _read_file(kind: str, seed: int) -> str:
    """How reading a damaged file of `kind` ended."""
    name, make, read = FORMATS[kind]
    folder = Path(f"file{seed}")
    path = folder / name
    path.parent.mkdir(parents=True)
    try:
        path.write_bytes(damaged(make(path), random.Random(f"{kind} {seed}")))
        read(path)
    except CaffeError as error:
        return "refused" if str(error) else "failed: an error without a text"
    finally:
        shutil.rmtree(folder)
    return "unharmed"


def main() -> int:
    """Read damaged files in the working directory, and print how each reading ended."""
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    healthy = _healthy(Path("healthy")) if kind.startswith(_LMDB) else []
    shown = os.fdopen(os.dup(1), "w")
    for seed in range(first, first + count):
        signal.alarm(_SECONDS)  # ends the process: a reading that does not end is a failed row
        try:
            if healthy:
                rng = random.Random(f"{kind} {seed}")
                content = damaged_pages(rng.choice(healthy), rng)
                end = _read_database(kind.removeprefix(_LMDB), content)
            else:
                end = _read_file(kind, seed)
        except BaseException as error:  # noqa: BLE001 (a command's traceback, the row's failure)
            end = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        print(f"{seed}\t{end}", file=shown, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
