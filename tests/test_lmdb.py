"""converters.records.lmdb_reader and the commands mean, verify and show: whole or absent, in order,
checked."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import re
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.errors import DataError, OutputError
from converters.proto import caffe_pb2 as pb
from converters.records.datum import encode_batch, encode_datum, encode_image
from converters.records.lmdb_reader import LmdbReader, check_lmdb
from converters.records.lmdb_writer import create_lmdb
from converters.records.mean import MeanImage, read_mean

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"


def command(*arguments: str | Path) -> int:
    return run_subcommand("converters", "", COMMANDS, [str(argument) for argument in arguments])


def images(count: int, shape: tuple[int, int, int] = (3, 32, 32)) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (count, *shape)).astype(np.uint8)


def build(path: Path, count: int = 100, shape: tuple[int, int, int] = (3, 32, 32)) -> Path:
    records = encode_batch(images(count, shape), np.arange(count) % 10)
    with create_lmdb(path) as writer:
        writer.put_all([b"%08d" % number for number in range(len(records))], records)
    return path


# ---------------------------------------------------------------- writing


def test_a_database_reads_back(tmp_path: Path) -> None:
    path = build(tmp_path / "deep" / "er" / "db", 2500, (1, 6, 5))
    with LmdbReader(path) as reader:
        assert len(reader) == 2500
        assert reader.keys[0] == b"00000000"
        assert reader.keys[-1] == b"00002499"
        batch = next(reader.batches(2500))
    assert (batch.pixels == images(2500, (1, 6, 5))).all()
    assert os.listdir(path) == ["data.mdb"]
    assert os.listdir(path.parent) == ["db"]


def test_liblmdb_reads_it_in_the_same_order(tmp_path: Path) -> None:
    """As Caffe opens it: read-only, with a lock file."""
    path = build(tmp_path / "db")
    with lmdb.open(str(path), readonly=True) as env, env.begin() as transaction:
        keys = [key for key, _ in transaction.cursor()]
    assert keys == [b"%08d" % number for number in range(100)]


def test_the_map_grows(tmp_path: Path) -> None:
    records = encode_batch(images(3000), np.zeros(3000, int))
    with create_lmdb(tmp_path / "db", map_size=1 << 17) as writer:
        writer.put_all([b"%08d" % number for number in range(len(records))], records)
    with LmdbReader(tmp_path / "db") as reader:
        assert len(reader) == 3000
        assert bytes(reader[2999]) == bytes(records[2999])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([b"b", b"a"], "'a' must sort after the last one, 'b'"),
        ([b"a", b"a"], "'a' must sort after"),
        ([b""], "'' must sort after"),
        ([b"k" * 512], "has 512 bytes, LMDB takes at most 511"),
    ],
)
def test_keys_must_ascend_and_fit(tmp_path: Path, keys: list[bytes], message: str) -> None:
    with pytest.raises(DataError, match=message), create_lmdb(tmp_path / "db") as writer:
        writer.put_all(keys, [b"value"] * len(keys))
    assert os.listdir(tmp_path) == []


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), create_lmdb(tmp_path / "db") as writer:
        for number in range(5000):
            writer.put(b"%08d" % number, b"x" * 100)
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = build(tmp_path / "db", 3)
    before = (path / "data.mdb").read_bytes()
    with pytest.raises(OutputError, match=r"exists; --force"), create_lmdb(path):
        pass
    assert (path / "data.mdb").read_bytes() == before
    with pytest.raises(ZeroDivisionError), create_lmdb(path, force=True):
        raise ZeroDivisionError
    assert (path / "data.mdb").read_bytes() == before
    assert os.listdir(path) == ["data.mdb"]


def test_force_replaces_under_an_open_reader(tmp_path: Path) -> None:
    path = build(tmp_path / "db", 3)
    with LmdbReader(path) as old:
        with create_lmdb(path, force=True) as writer:
            writer.put(b"new", encode_datum(images(1)[0], 5))
        with LmdbReader(path) as new:
            assert new.keys == [b"new"]
        assert len(list(old)) == 3
    assert os.listdir(path) == ["data.mdb"]


def test_force_touches_nothing_but_a_database(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"precious")
    (tmp_path / "file").write_bytes(b"precious")
    for name in ("photos", "file"):
        message = "is no LMDB; remove it"
        with pytest.raises(OutputError, match=message), create_lmdb(tmp_path / name, force=True):
            pass
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(OutputError, match=r"file/db: cannot be written"),
        create_lmdb(tmp_path / "file" / "db"),
    ):
        pass


FILL = """
import sys, resource
import numpy as np
from converters.command_line.program import run_guarded
from converters.records.datum import encode_batch
from converters.records.lmdb_writer import create_lmdb
def main():
    records = encode_batch(np.zeros((1000, 3, 32, 32), np.uint8), np.zeros(1000, int))
    with create_lmdb(sys.argv[1], expected=20000) as writer:
        if len(sys.argv) > 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        print("open", flush=True)
        for block in range(20):
            writer.put_all([b"%08d" % (block * 1000 + i) for i in range(1000)], records)
    return 0
sys.exit(run_guarded(main))
"""


def test_a_file_that_cannot_grow_is_reported_with_the_bytes_needed(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path / "db", str(10 << 20)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 1, run.stderr
    assert run.stderr.count("\n") == 1
    words = run.stderr.split()
    needed = int(words[words.index("bytes") - 1])
    assert 20_000 * 3086 < needed < 20_000 * 3086 * 1.5
    assert "are free" in run.stderr
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """On a file system of 10 MB of its own, where the machine lets a test mount one."""
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=10m none {tmp_path}/disk"
    isolated = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    probe = subprocess.run([*isolated, mount], capture_output=True)
    if probe.returncode:
        pytest.skip("cannot mount a file system here")
    script = f'{mount} && "$0" -c "$1" {tmp_path}/disk/db; s=$?; ls -A {tmp_path}/disk; exit $s'
    run = subprocess.run(
        [*isolated, script, sys.executable, FILL], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 1, run.stderr
    assert "the disk is full: about" in run.stderr
    assert run.stdout == "open\n"  # and the folder is empty again


def test_kill_leaves_nothing_or_the_whole(tmp_path: Path) -> None:
    """And the next build of the same name removes what the killed one had begun."""
    rng = random.Random(0)
    outcomes, begun_ones = set(), 0
    took = 0.3
    for attempt in range(8):
        path = tmp_path / f"db{attempt}"
        process = subprocess.Popen(
            [sys.executable, "-c", FILL, path], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.monotonic()
        # The first run is not killed: it says how long the others last.
        if attempt:
            time.sleep(rng.uniform(0, took))
            process.send_signal(signal.SIGKILL)
        process.wait()
        if not attempt:
            took = time.monotonic() - begun
        process.stdout.close()
        outcomes.add(path.exists())
        if path.exists():
            with LmdbReader(path) as reader:
                assert len(list(reader)) == 20_000
        begun_ones += len(list(tmp_path.rglob("*.partial")))
        with create_lmdb(path, force=True) as writer:
            writer.put(b"0", b"whole")
        assert not list(tmp_path.rglob("*.partial"))
    assert outcomes == {True, False}
    assert begun_ones > 0


def test_a_build_by_another_process_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "db"
    script = f"""
from converters.command_line.program import run_guarded
from converters.records.lmdb_writer import create_lmdb
def main():
    with create_lmdb({str(path)!r}, force=True) as second:
        second.put(b"0", b"second")
    return 0
raise SystemExit(run_guarded(main))
"""
    command = [sys.executable, "-c", script]
    with create_lmdb(path) as first:
        first.put(b"0", b"first")
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: {path}: another build writes there (process {os.getpid()}); wait for its end, or "
        "choose another name\n"
    )
    with LmdbReader(path) as reader:
        assert [bytes(record) for _, record in reader] == [b"first"]
    assert os.listdir(tmp_path) == ["db"]
    # The lock is gone with its holder.
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert os.listdir(tmp_path) == ["db"]


def test_two_builds_of_one_name_end_with_the_first(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"db: exists; --force replaces it"),
        create_lmdb(tmp_path / "db") as slow,
    ):
        slow.put(b"0", b"slow")
        with create_lmdb(tmp_path / "db") as fast:
            fast.put(b"0", b"fast")
    with LmdbReader(tmp_path / "db") as reader:
        assert [bytes(record) for _, record in reader] == [b"fast"]
    assert os.listdir(tmp_path) == ["db"]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("start", [0, 7, 99, 100, 253])
def test_batches_wrap_around_from_any_position(tmp_path: Path, start: int) -> None:
    path = build(tmp_path / "db")
    pixels = images(100)
    with LmdbReader(path) as reader:
        batches = reader.batches(64, start)
        for step in range(4):
            rows = (start + step * 64 + np.arange(64)) % 100
            batch = next(batches)
            assert (batch.pixels == pixels[rows]).all()
            assert batch.labels.tolist() == (rows % 10).tolist()


def test_a_batch_larger_than_the_database(tmp_path: Path) -> None:
    with LmdbReader(build(tmp_path / "db", 7)) as reader:
        assert next(reader.batches(20)).labels.tolist() == [i % 7 for i in range(20)]


def test_two_readers_and_two_processes_at_once(tmp_path: Path) -> None:
    path = build(tmp_path / "db")
    with LmdbReader(path) as first, LmdbReader(path) as second:
        assert [key for key, _ in first] == second.keys
        second.close()
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            assert pool.map(len, [first, first]) == [100, 100]
        assert bytes(first[99]) == bytes(encode_datum(images(100)[99], 9))
    copy = pickle.loads(pickle.dumps(first))
    assert len(copy) == 100


def test_a_reader_survives_a_fork(tmp_path: Path) -> None:
    path = build(tmp_path / "db")
    with LmdbReader(path) as reader:
        child = os.fork()
        if not child:
            with LmdbReader(path) as again:
                os._exit(0 if bytes(again[5]) == bytes(reader[5]) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_reader_needs_no_write_access_and_writes_nothing(tmp_path: Path) -> None:
    path = build(tmp_path / "db")
    path.chmod(0o555)
    with LmdbReader(path) as reader:
        list(reader)
        assert os.listdir(path) == ["data.mdb"]
    path.chmod(0o755)


@pytest.mark.parametrize("fraction", [0.0, 0.0001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_before_it_is_read(
    tmp_path: Path, fraction: float, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(tmp_path / "db", 2000)
    file = path / "data.mdb"
    size = file.stat().st_size
    os.truncate(file, int(size * fraction))
    with pytest.raises(DataError, match=r"data\.mdb: (truncated|empty|not an LMDB)"):
        LmdbReader(path)
    assert command("verify", path) == 1
    assert "db/data.mdb" in capsys.readouterr().err


def test_the_truncation_message_has_both_sizes(tmp_path: Path) -> None:
    file = build(tmp_path / "db", 2000) / "data.mdb"
    size = file.stat().st_size
    os.truncate(file, size - 1)
    with pytest.raises(DataError, match=f"truncated: {size - 1} bytes of {size}"):
        check_lmdb(tmp_path / "db")


def test_what_is_no_lmdb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such database"):
        LmdbReader(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match=r"is a file"):
        LmdbReader(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no data\.mdb"):
        LmdbReader(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.mdb").write_bytes(b"x" * 20_000)
    with pytest.raises(DataError, match=r"not an LMDB data file"):
        LmdbReader(tmp_path / "other")


@pytest.mark.parametrize(
    "names", [("CURRENT", "000005.log"), ("MANIFEST-000004",), ("000007.ldb",)]
)
def test_a_leveldb_is_refused_with_the_way_out(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"a LevelDB; only LMDB is read.*gmnet imageset"):
        LmdbReader(tmp_path)


def test_an_empty_database_is_refused(tmp_path: Path) -> None:
    with create_lmdb(tmp_path / "db"):
        pass
    with pytest.raises(DataError, match=r"holds no records"):
        LmdbReader(tmp_path / "db")


def test_a_record_of_another_shape_is_named(tmp_path: Path) -> None:
    with create_lmdb(tmp_path / "db") as writer:
        for number in range(10):
            size = 9 if number == 7 else 8
            writer.put(b"%04d" % number, encode_datum(images(1, (1, size, 8))[0], 0))
    with LmdbReader(tmp_path / "db") as reader:
        batches = reader.batches(5)
        next(batches)
        with pytest.raises(DataError, match=r"db: record '0007' has shape 1×9×8"):
            next(batches)


@pytest.mark.parametrize("golden", ["data_plain", "data_mean_value_crop", "data_float_data"])
def test_caffes_own_databases_are_read(golden: str) -> None:
    with LmdbReader(GOLDEN / "data" / golden / "lmdb") as reader:
        assert len(reader) == 20
        for (_, value), batch in zip(reader, reader.once(1), strict=True):
            message = pb.Datum.FromString(bytes(value))
            values = np.frombuffer(message.data, np.uint8) if message.data else message.float_data
            assert (batch.pixels[0].ravel() == np.array(values, batch.pixels.dtype)).all()
            assert batch.labels[0] == message.label


# ---------------------------------------------------------------- mean


def test_float32_sums_go_in_record_order() -> None:
    """Beyond 2^24 float32 sums depend on the order: Caffe's is one image after the other."""
    pixels = np.random.RandomState(0).randint(245, 256, (70_000, 1, 2, 3)).astype(np.uint8)
    mean = MeanImage()
    for start in range(0, len(pixels), 999):
        mean.add(pixels[start : start + 999])
    total = [np.float32(0)] * 6
    for image in pixels.reshape(-1, 6).astype(np.float32):
        total = [one + value for one, value in zip(total, image, strict=True)]
    expected = np.array(total, np.float32) / np.float32(70_000)
    assert (mean.image().ravel() == expected).all()
    assert total[0] > 1 << 24


@pytest.mark.parametrize("golden", ["data_float_data", "data_plain"])
def test_the_mean_command(tmp_path: Path, golden: str) -> None:
    database = GOLDEN / "data" / golden / "lmdb"
    assert command("mean", database, tmp_path / "mean.binaryproto") == 0
    with LmdbReader(database) as reader:
        pixels = next(reader.batches(len(reader))).pixels
    total = np.zeros(pixels.shape[1:], np.float32)
    for image in pixels:
        total += image
    found = read_mean(tmp_path / "mean.binaryproto")
    assert (found == total / np.float32(len(pixels))).all()
    blob = pb.BlobProto.FromString((tmp_path / "mean.binaryproto").read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, *pixels.shape[1:])


def test_the_mean_is_that_of_all_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More than a thousand, which are read at once, and no multiple of it."""
    path, out = build(tmp_path / "db", 1205, (3, 4, 5)), tmp_path / "mean"
    assert command("mean", path, out) == 0
    mean = images(1205, (3, 4, 5)).astype(np.float64).mean(axis=0)
    assert np.abs(read_mean(out) - mean).max() < 1e-4
    channels = ", ".join(f"{value:.4f}" for value in mean.mean(axis=(1, 2)))
    shown = capsys.readouterr().out
    assert shown == f"{out}: mean of 1205 images, channel means {channels}\n"


def test_threads_open_and_close_readers_of_one_database() -> None:
    path = GOLDEN / "data" / "data_mean_value_crop" / "lmdb"
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: open_and_read(path), range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert len(set(found)) == 1


def open_and_read(path: Path) -> bytes:
    with LmdbReader(path) as reader:
        return bytes(reader[0])


def test_double_data_wins_in_a_mean_file(tmp_path: Path) -> None:
    """As in Caffe's Blob::FromProto, and as in every weight file here."""
    both = pb.BlobProto(num=1, channels=1, height=1, width=2, data=[1, 2], double_data=[3, 4])
    (tmp_path / "mean").write_bytes(both.SerializeToString())
    assert read_mean(tmp_path / "mean").tolist() == [[[3, 4]]]


def test_mean_needs_one_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("mean", GOLDEN / "imageset" / "encoded_lmdb", tmp_path / "m") == 1
    assert "00000001_a/img1.png" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_bad_mean_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read"):
        read_mean(tmp_path / "absent")
    (tmp_path / "junk").write_bytes(b"\xff" * 30)
    with pytest.raises(DataError, match=r"not a mean file"):
        read_mean(tmp_path / "junk")
    (tmp_path / "short").write_bytes(
        pb.BlobProto(num=1, channels=3, height=2, width=2, data=[1.0] * 11).SerializeToString()
    )
    with pytest.raises(DataError, match=r"11 values"):
        read_mean(tmp_path / "short")


# ---------------------------------------------------------------- verify and show


def test_verify_prints_the_contents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(tmp_path / "db", 1205)
    assert command("verify", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 1205 records, {1205 * (9 + 3072 + 2)} bytes"
    assert lines[1] == "shape: 3×32×32 (1205)"
    assert lines[2:12] == [f"class {label}: {121 if label < 5 else 120}" for label in range(10)]
    means = images(1205).mean(axis=(0, 2, 3))
    shown = [float(word) for word in lines[12].removeprefix("channel means: ").split(", ")]
    assert np.abs(np.array(shown) - means).max() < 2e-3


def test_verify_names_every_bad_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = images(1, (1, 4, 4))[0]
    bad = {
        3: b"\xff\xff\xff",
        5: encode_datum(images(1, (1, 4, 5))[0], 0),
        8: encode_datum(good, -2),
        9: pb.Datum(channels=1, height=4, width=4, data=b"x" * 15, label=1).SerializeToString(),
        11: encode_datum(good, 12),
    }
    with create_lmdb(tmp_path / "db") as writer:
        for number in range(20):
            writer.put(b"%04d" % number, bad.get(number, encode_datum(good, number % 10)))
    assert command("verify", tmp_path / "db", "--classes", "10") == 1
    captured = capsys.readouterr()
    reasons = {
        "0003": "is not a Datum",
        "0005": "has shape 1×4×5, most records 1×4×4",
        "0008": "has label -2, expected 0 to 9",
        "0009": "holds 15 values",
        "0011": "has label 12, expected 0 to 9",
    }
    for key, reason in reasons.items():
        assert f"record '{key}' {reason}" in captured.out
    assert captured.out.count("record '") == len(bad)
    assert "5 of 20 records are bad" in captured.err


def test_verify_counts_classes_bad_and_compressed_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Class 7 comes first and is the smallest; 25 labels, more than are listed, are 8."""
    labels = [7, *[2] * 3, *[5] * 2, *[8] * 25]
    with create_lmdb(tmp_path / "db") as writer:
        for number, label in enumerate(labels):
            writer.put(b"%04d" % number, encode_datum(images(1, (1, 2, 2))[0], label))
    assert command("verify", tmp_path / "db", "--classes", 9) == 0
    classes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("class ")]
    assert classes == ["class 2: 3", "class 5: 2", "class 7: 1", "class 8: 25"]
    assert command("verify", tmp_path / "db", "--classes", 8) == 1
    captured = capsys.readouterr()
    assert "25 of 31 records are bad, the first is '0006': has label 8" in captured.err
    assert captured.out.count("record '") == 20
    assert "class 8" not in captured.out
    golden = GOLDEN / "imageset" / "encoded_lmdb"
    command("verify", golden)
    assert re.search(
        "encoded_lmdb: 6 records, [0-9]+ bytes, 6 compressed\n", capsys.readouterr().out
    )


def test_verify_says_after_which_record_a_database_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record that claims to end behind the file: whoever mapped it would get SIGBUS."""
    path = build(tmp_path / "db", 400)
    file = path / "data.mdb"
    data = bytearray(file.read_bytes())
    page = os.sysconf("SC_PAGESIZE")
    leaf_flag, header = 0x02, 16
    leaves = [
        start
        for start in range(2 * page, len(data), page)
        if struct.unpack_from("<H", data, start + 10)[0] == leaf_flag
    ]
    (node,) = struct.unpack_from("<H", data, leaves[0] + header)  # its first record
    length, key_size = 40 << 20, 8
    struct.pack_into("<HH", data, leaves[0] + node, length & 0xFFFF, length >> 16)
    key = bytes(data[leaves[0] + node + 8 :][:key_size])
    assert key == b"%08d" % int(key)
    file.write_bytes(data)
    assert command("verify", path) == 1
    error = capsys.readouterr().err
    assert "damaged: page" in error
    assert f"a value of {length} bytes there passes the last page" in error
    assert re.search(r"\(after (no record|record '[0-9]{8}')\)$", error)


def test_show_draws_a_row_for_each_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2 = pytest.importorskip("cv2")
    colours = np.zeros((30, 3, 8, 8), np.uint8)
    for number in range(30):
        colours[number, number % 3] = 200  # class n is the n-th of R, G, B
    with create_lmdb(tmp_path / "svhn_test") as writer:
        records = encode_batch(colours, np.arange(30) % 3)
        writer.put_all([b"%08d" % number for number in range(len(records))], records)
    assert command("show", tmp_path / "svhn_test", tmp_path / "out" / "s.png") == 0
    assert "30 records, 3 classes" in capsys.readouterr().out
    sheet = cv2.imread(str(tmp_path / "out" / "s.png"))
    for label in range(3):
        centre = sheet[2 + label * 58 + 28, 40 + 28]
        assert centre[::-1].tolist() == [200 * (channel == label) for channel in range(3)]
    assert command("show", tmp_path / "svhn_test", tmp_path / "b.png", "--order", "bgr") == 0
    assert cv2.imread(str(tmp_path / "b.png"))[30, 68].tolist() == [200, 0, 0]


def test_show_sorts_classes_and_shows_images_that_are_not_square(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2 = pytest.importorskip("cv2")
    # Two records of class 7, then one of class 2; RGB, as SVHN's are.
    pixels = images(3, (3, 8, 16))
    with create_lmdb(tmp_path / "svhn_train") as writer:
        writer.put_all([b"0", b"1", b"2"], encode_batch(pixels, np.array([7, 7, 2])))
    out = tmp_path / "s.png"
    assert command("show", tmp_path / "svhn_train", out) == 0
    assert capsys.readouterr().out == f"{out}: 3 records, 2 classes, a row each (classes 2, 7)\n"
    sheet = cv2.imread(str(out))
    # Eight rows of pixels are enlarged seven times, to 56.
    assert sheet.shape == (2 * 58 + 2, 40 + 2 * 114, 3)
    for image, (top, left) in zip(pixels, ((60, 40), (60, 154), (2, 40))):
        shown = sheet[top : top + 56 : 7, left : left + 112 : 7]
        assert (shown == image[::-1].transpose(1, 2, 0)).all()


NETS = """
layer { name: "a" type: "Data" top: "a" data_param { source: "gone/first" }
  transform_param { mirror: true scale: 0.5 mean_value: 90 force_gray: true } }
layer { name: "b" type: "Data" top: "b" data_param { source: "gone/second" }
  transform_param { crop_size: 2 } }
"""


def test_show_takes_the_layer_of_the_database_and_spreads_its_values(tmp_path: Path) -> None:
    """Never mirrored; (pixel - mean) · scale from the least, 0, to the largest, 255."""
    cv2 = pytest.importorskip("cv2")
    gray = 50 + images(8, (1, 7, 7)) // 4
    (tmp_path / "net.prototxt").write_text(NETS)
    for name in ("first", "second", "other"):
        with create_lmdb(tmp_path / name) as writer:
            for number, image in enumerate(gray):
                pixels = image[0][:, :, None].repeat(3, 2)
                png = bytes(cv2.imencode(".png", pixels)[1])
                writer.put(b"%d" % number, encode_image(png, 0))
    sheets = {}
    for name in ("first", "second", "other"):
        out = tmp_path / f"{name}.png"
        assert command("show", tmp_path / name, out, "--net", tmp_path / "net.prototxt") == 0
        sheets[name] = cv2.imread(str(out))
    first = sheets["first"][2:-2:8, 40:]
    low, high = int(gray.min()), int(gray.max())
    for number, image in enumerate(gray):
        shown = first[:, number * 58 : number * 58 + 56 : 8]
        wanted = np.rint((image[0] - low) * (255.0 / (high - low)))
        assert np.abs(shown - wanted[:, :, None]).max() <= 1
    # Cropped to 2×2; a database that no layer names takes the last layer.
    assert sheets["second"].shape == sheets["other"].shape == (60, 40 + 8 * 58, 3)
    assert (sheets["second"] == sheets["other"]).all()


def test_show_with_force_gray_decodes_gray(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "net.prototxt").write_text(NETS)
    png = bytes(cv2.imencode(".png", images(1, (8, 8, 3))[0])[1])
    with create_lmdb(tmp_path / "first") as writer:
        writer.put(b"0", encode_image(png, 0))
    out = tmp_path / "s.png"
    assert command("show", tmp_path / "first", out, "--net", tmp_path / "net.prototxt") == 0
    sheet = cv2.imread(str(out))[2:58, 40:96]
    assert (sheet == sheet[:, :, :1]).all()
    assert len(np.unique(sheet)) > 10


def test_show_applies_what_caffes_data_layer_applied() -> None:
    """What the sheet shows with --net is what Caffe handed on in TEST."""
    from converters.commands.show import read_transform

    folder = GOLDEN / "data" / "data_mean_file_crop"
    expected = np.load(folder / "golden.npz")["batch0/data"]
    transform = read_transform(str(folder / "net.prototxt"), folder / "lmdb")
    with LmdbReader(folder / "lmdb") as reader:
        found = transform(next(reader.batches(len(expected))).pixels, np.random.default_rng(0))
    assert found.shape == expected.shape
    assert (found == expected).all()


def test_show_with_a_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2 = pytest.importorskip("cv2")
    folder = GOLDEN / "data" / "data_mean_value_crop"
    out = tmp_path / "s.png"
    net = folder / "net.prototxt"
    assert command("show", folder / "lmdb", out, "--net", net, "--columns", 2) == 0
    shape = cv2.imread(str(out)).shape
    assert shape[1] == 40 + 2 * (2 * 32 + 2)  # cropped to 32, enlarged twice
    (tmp_path / "net.prototxt").write_text('layer { name: "a" type: "Input" top: "a" }')
    assert command("show", folder / "lmdb", out, "--net", tmp_path / "net.prototxt") == 1
    assert "has no Data layer" in capsys.readouterr().err
