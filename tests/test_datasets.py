"""converters.datasets and `python -m converters lmdb`: each set in its official format."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.datasets import matfile
from converters.datasets.registry import DATASETS, Dataset, register
from converters.datasets.sets.digits import enlarge
from converters.datasets.source import Source
from converters.datasets.tar_members import members
from converters.errors import DataError
from converters.records.lmdb_reader import LmdbReader
from converters.records.mean import read_mean

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
STREAMS = json.loads((GOLDEN / "lmdb_streams.json").read_text())


def stream_digest(path: Path) -> str:
    """As golden/lmdb_streams.json says: sha256 over every key and value with their lengths."""
    sha256 = hashlib.sha256()
    with LmdbReader(path) as reader:
        for key, value in reader:
            sha256.update(struct.pack("<I", len(key)) + key + struct.pack("<I", len(value)))
            sha256.update(value)
    return sha256.hexdigest()


def lmdb_command(*arguments: str | Path) -> int:
    """`python -m converters lmdb`, in this process."""
    return run_subcommand("converters", "", COMMANDS, ["lmdb", *map(str, arguments)])


class Written(NamedTuple):
    """What a test put into an archive: the records that must come out."""

    pixels: np.ndarray
    labels: np.ndarray


def random_images(count: int, channels: int, size: int, classes: int, seed: int) -> Written:
    rng = np.random.RandomState(seed)
    pixels = rng.randint(0, 256, (count, channels, size, size)).astype(np.uint8)
    return Written(pixels, rng.randint(0, classes, count).astype(np.uint8))


def stored(path: Path) -> Written:
    with LmdbReader(path) as reader:
        batch = next(reader.batches(len(reader)))
        return Written(batch.pixels, batch.labels)


def assert_equal(found: Written, expected: Written) -> None:
    assert found.pixels.shape == expected.pixels.shape
    assert (found.pixels == expected.pixels).all()
    assert found.labels.tolist() == expected.labels.tolist()


def identities(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """What tells whether a file was written again (not st_atime: reading moves it)."""
    found = {path: path.stat() for path in folder.rglob("*")}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in found.items()}


# ---------------------------------------------------------------- official formats, tiny


def write_idx(folder: Path, stem: str, records: Written, packed: bool) -> None:
    count, _, height, width = records.pixels.shape
    images = struct.pack(">4I", 2051, count, height, width) + records.pixels.tobytes()
    labels = struct.pack(">2I", 2049, count) + records.labels.tobytes()
    for name, data in (
        (f"{stem}-images-idx3-ubyte", images),
        (f"{stem}-labels-idx1-ubyte", labels),
    ):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def cifar_bytes(records: Written, coarse: np.ndarray | None = None) -> bytes:
    columns = [] if coarse is None else [coarse[:, np.newaxis]]
    columns += [records.labels[:, np.newaxis], records.pixels.reshape(len(records.pixels), -1)]
    return np.concatenate(columns, axis=1).astype(np.uint8).tobytes()


def write_cifar10(path: Path) -> tuple[Written, Written]:
    """Members in the order of the official archive, which is not the records' order."""
    batches = [random_images(7, 3, 32, 10, seed) for seed in range(5)]
    test = random_images(9, 3, 32, 10, 5)
    with tarfile.open(path, "w:gz") as archive:
        for name in ("data_batch_4", "readme", "data_batch_1", "test_batch", "data_batch_5"):
            number = int(name[-1]) if name[-1].isdigit() else 0
            records = test if name == "test_batch" else batches[number - 1]
            data = b"<html>" if name == "readme" else cifar_bytes(records)
            add_member(archive, f"cifar-10-batches-bin/{name}.bin", data)
        for number in (2, 3):
            data = cifar_bytes(batches[number - 1])
            add_member(archive, f"cifar-10-batches-bin/data_batch_{number}.bin", data)
    train = Written(
        np.concatenate([batch.pixels for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )
    return train, test


def write_svhn(path: Path, count: int, seed: int, compress: bool = True) -> Written:
    scipy_io = pytest.importorskip("scipy.io")
    records = random_images(count, 3, 32, 10, seed)
    matlab = np.asfortranarray(records.pixels.transpose(2, 3, 1, 0))
    labels = np.where(records.labels == 0, 10, records.labels).reshape(-1, 1)
    scipy_io.savemat(path, {"X": matlab, "y": labels.astype(np.float64)}, do_compression=compress)
    return records


# ---------------------------------------------------------------- each set


@pytest.mark.parametrize("packed", [True, False])
def test_mnist(tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = random_images(1203, 1, 28, 10, 0), random_images(5, 1, 28, 10, 1)
    write_idx(tmp_path, "train", train, packed)
    write_idx(tmp_path, "t10k", test, packed)
    out = tmp_path / "out"
    assert lmdb_command("mnist", "--source", tmp_path, "--out", out) == 0
    assert_equal(stored(out / "mnist_train"), train)
    assert_equal(stored(out / "mnist_test"), test)
    assert sorted(os.listdir(out)) == ["mnist_mean.binaryproto", "mnist_test", "mnist_train"]
    captured = capsys.readouterr()
    assert f"{out}/mnist_train: 1203 records of 1×28×28" in captured.out
    assert captured.err.count("is not the official file (md5") == 4
    with LmdbReader(out / "mnist_train") as reader:
        assert reader.keys[:2] == [b"00000000", b"00000001"]
    mean = read_mean(out / "mnist_mean.binaryproto")
    assert np.allclose(mean, train.pixels.mean(axis=0), rtol=1e-6)


def test_cifar10(tmp_path: Path) -> None:
    train, test = write_cifar10(tmp_path / "cifar-10-binary.tar.gz")
    out = tmp_path / "out"
    assert lmdb_command("cifar10", "--source", tmp_path, "--out", out) == 0
    assert_equal(stored(out / "cifar10_train"), train)
    assert_equal(stored(out / "cifar10_test"), test)
    with LmdbReader(out / "cifar10_train") as reader:
        assert reader.keys[-1] == b"00034"


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar10_unpacked(tmp_path: Path, folder: str) -> None:
    train, test = write_cifar10(tmp_path / "a.tar.gz")
    (tmp_path / "source" / folder).mkdir(parents=True)
    for member in members(tmp_path / "a.tar.gz"):
        place = tmp_path / "source" / folder / Path(member.name).name
        place.write_bytes(member.stream.read())
    out = tmp_path / "out"
    assert lmdb_command("cifar10", "--source", tmp_path / "source", "--out", out) == 0
    assert_equal(stored(out / "cifar10_train"), train)
    assert_equal(stored(out / "cifar10_test"), test)


def test_cifar10_plus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = write_cifar10(tmp_path / "any-name.tar.gz")
    out = tmp_path / "out"
    source = ("--source", tmp_path / "any-name.tar.gz", "--out", out)
    assert lmdb_command("cifar10_plus", *source) == 0
    padded = stored(out / "cifar10_plus_train")
    means = train.pixels.mean(axis=(0, 2, 3))
    expected = np.pad(train.pixels, ((0, 0), (0, 0), (4, 4), (4, 4))).astype(float)
    inside = np.zeros((40, 40), bool)
    inside[4:-4, 4:-4] = True
    for channel in range(3):
        expected[:, channel, ~inside] = np.rint(means[channel])
    assert_equal(padded, Written(expected.astype(np.uint8), train.labels))
    assert np.abs(padded.pixels[0, :, 0, 0] - means).max() <= 0.5
    assert_equal(stored(out / "cifar10_test"), test)
    assert read_mean(out / "cifar10_plus_mean.binaryproto").shape == (3, 32, 32)
    # The plain set's test database is shared: the second build keeps the first one's.
    before = identities(out / "cifar10_test")
    assert lmdb_command("cifar10", *source) == 0
    assert "cifar10_test: 9 records of 3×32×32 (kept: it was there)" in capsys.readouterr().out
    assert identities(out / "cifar10_test") == before
    assert_equal(stored(out / "cifar10_train"), train)


@pytest.mark.parametrize("label", [None, "fine", "coarse"])
def test_cifar100(tmp_path: Path, label: str | None) -> None:
    train, test = random_images(11, 3, 32, 100, 0), random_images(4, 3, 32, 100, 1)
    coarse = np.random.RandomState(2).randint(0, 20, 11)
    with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as archive:
        add_member(archive, "cifar-100-binary/train.bin", cifar_bytes(train, coarse))
        add_member(archive, "cifar-100-binary/test.bin", cifar_bytes(test, coarse[:4]))
    option = () if label is None else ("--label", label)
    out = tmp_path / "out"
    assert lmdb_command("cifar100", "--source", tmp_path, "--out", out, *option) == 0
    expected = coarse if label == "coarse" else train.labels
    assert_equal(stored(out / "cifar100_train"), Written(train.pixels, expected))
    assert stored(out / "cifar100_test").pixels.shape == (4, 3, 32, 32)


@pytest.mark.parametrize("compress", [True, False])
def test_svhn(tmp_path: Path, compress: bool) -> None:
    train = write_svhn(tmp_path / "train_32x32.mat", 12, 0, compress)
    extra = write_svhn(tmp_path / "extra_32x32.mat", 1030, 1, compress)
    test = write_svhn(tmp_path / "test_32x32.mat", 3, 2, compress)
    assert (train.labels == 0).any()
    assert lmdb_command("svhn", "--source", tmp_path, "--out", tmp_path / "a") == 0
    both = Written(*(np.concatenate(parts) for parts in zip(train, extra, strict=True)))
    assert_equal(stored(tmp_path / "a" / "svhn_train"), both)
    assert_equal(stored(tmp_path / "a" / "svhn_test"), test)
    (tmp_path / "extra_32x32.mat").unlink()
    small = ("svhn", "--source", tmp_path, "--out", tmp_path / "b")
    assert lmdb_command(*small) == 1
    assert not (tmp_path / "b" / "svhn_train").exists()
    assert lmdb_command(*small, "--without-extra") == 0
    assert_equal(stored(tmp_path / "b" / "svhn_train"), train)


def test_svhn_is_not_loaded_whole(tmp_path: Path) -> None:
    """80 MB of pixels in constant memory: what reading adds to the peak stays far below."""
    rng = np.random.RandomState(0)
    scipy_io = pytest.importorskip("scipy.io")
    pixels = np.zeros((32, 32, 3, 26_000), np.uint8, order="F")
    pixels[:, :, :, ::50] = rng.randint(0, 256, (32, 32, 3, 520))
    labels = np.full((26_000, 1), 10, np.uint8)
    scipy_io.savemat(tmp_path / "x.mat", {"X": pixels, "y": labels}, do_compression=True)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from converters.datasets.sets import svhn\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "count = sum(len(block.pixels) for block in svhn._images(Path(sys.argv[1])))\n"
        "print(count, peak() - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x.mat"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    count, added = map(int, run.stdout.split())
    assert count == 26_000
    assert added < 25_000  # KiB


BUILD = """
import sys
from pathlib import Path
import numpy as np
from converters.datasets.build import build
from converters.datasets.registry import Dataset, Images
from converters.datasets.source import Source

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

pixels = np.random.RandomState(0).randint(0, 256, (1000, 3, 32, 32)).astype(np.uint8)

def read(source, split, chosen):
    for _ in range(60 if split == "train" else 1):
        yield Images(pixels.copy(), np.arange(1000) % 10)

out = Path(sys.argv[1])
before = peak()
build(Dataset("large", "", read, {"train": 60_000, "test": 1000}), Source(out, out), out)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_stays_flat_while_writing(tmp_path: Path) -> None:
    """60,000 records, 185 MB: what building adds to the peak is a few blocks of them."""
    run = subprocess.run(
        [sys.executable, "-c", BUILD, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert (tmp_path / "large_train" / "data.mdb").stat().st_size > 185_000_000
    assert int(run.stdout) < 40_000  # KiB


def test_a_foreign_archive_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cifar10(tmp_path / "cifar-10-binary.tar.gz")
    assert lmdb_command("cifar10_plus", "--source", tmp_path, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().err.count("is not the official file") == 1


def test_digits(tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    assert lmdb_command("digits", "--out", tmp_path) == 0
    train, test = stored(tmp_path / "digits_train"), stored(tmp_path / "digits_test")
    assert train.pixels.shape == (1437, 1, 28, 28)
    assert test.pixels.shape == (360, 1, 28, 28)
    # Every digit is there once: the labels of both together are scikit-learn's.
    target = sklearn.load_digits().target
    both = np.concatenate([train.labels, test.labels])
    assert (np.bincount(both) == np.bincount(target)).all()
    assert len(set(train.labels[:60].tolist())) == 10  # shuffled
    assert len({image.tobytes() for image in [*train.pixels, *test.pixels]}) == 1797


def test_digits_are_enlarged_as_opencv_enlarges() -> None:
    cv2 = pytest.importorskip("cv2")
    small = np.random.RandomState(0).randint(0, 17, (20, 8, 8)).astype(np.float64)
    for image, large in zip(small, enlarge(small), strict=True):
        expected = cv2.resize(image * 255 / 16, (28, 28), interpolation=cv2.INTER_LINEAR)
        assert np.abs(large - expected).max() <= 0.5 + 1e-6


def write_jpegs(path: Path) -> dict[str, tuple[bytes, str]]:
    cv2 = pytest.importorskip("cv2")
    files = {}
    with tarfile.open(path, "w:gz") as archive:
        for split, count in (("train", 6), ("test", 2)):
            for number in range(count):
                for name in ("truck", "cat", "ship"):
                    seed = number + 100 * len(name) + 1000 * (split == "test")
                    pixels = random_images(1, 32, 3, 10, seed).pixels[0].repeat(11, axis=1)
                    data = cv2.imencode(".jpg", pixels[:, :32])[1].tobytes()
                    files[f"{split}/{name}/{number:04d}.jpg"] = (data, name)
        for name, (data, _) in files.items():
            add_member(archive, name, data)
    return files


@pytest.mark.parametrize("unpacked", [True, False])
def test_cifar10_jpeg(tmp_path: Path, unpacked: bool) -> None:
    cv2 = pytest.importorskip("cv2")
    files = write_jpegs(tmp_path / "cifar10-jpeg.tar.gz")
    source = tmp_path / "cifar10-jpeg.tar.gz"
    if unpacked:
        source = tmp_path / "folder"
        for name, (data, _) in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    out = tmp_path / "out"
    assert lmdb_command("cifar10_jpeg", "--source", source, "--out", out) == 0
    for split, count in (("train", 18), ("test", 6)):
        found = stored(out / f"cifar10_jpeg_{split}")
        expected = {
            cv2.imdecode(np.frombuffer(data, np.uint8), 1).transpose(2, 0, 1).tobytes(): label
            for name, (data, kind) in files.items()
            if name.startswith(split)
            for label in [["cat", "ship", "truck"].index(kind)]
        }
        assert len(found.labels) == count == len(expected)
        pairs = zip(found.pixels, found.labels, strict=True)
        assert {image.tobytes(): label for image, label in pairs} == expected
    assert sorted(stored(out / "cifar10_jpeg_train").labels[:6]) != [0] * 6  # shuffled


def test_cifar10_jpeg_needs_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lmdb_command("cifar10_jpeg", "--out", tmp_path) == 1
    assert "give cifar10-jpeg.tar.gz" in capsys.readouterr().err


# ---------------------------------------------------------------- byte equality with Caffe


def test_cifar10_stream_equals_caffes(tmp_path: Path) -> None:
    """golden/lmdb_streams.json says how its synthetic archive is made."""
    rng = np.random.RandomState(0)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        records = rng.randint(0, 256, (10_000, 3073)).astype(np.uint8)
        records[:, 0] = rng.randint(0, 10, 10_000)
        records.tofile(tmp_path / f"{name}.bin")
    out = tmp_path / "out"
    assert lmdb_command("cifar10", "--source", tmp_path, "--out", out) == 0
    for split in ("train", "test"):
        assert (
            stream_digest(out / f"cifar10_{split}")
            == (STREAMS[f"cifar10_{split}_synthetic"]["sha256"])
        )
    golden = GOLDEN / "cifar10_train_synthetic_mean.binaryproto"
    assert (out / "cifar10_mean.binaryproto").read_bytes() == golden.read_bytes()


def test_mnist_stream_equals_caffes(
    tmp_path: Path, mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lmdb_command("mnist", "--source", mnist_dir, "--out", tmp_path) == 0
    for split in ("train", "test"):
        expected = STREAMS[f"mnist_{split}"]
        assert stream_digest(tmp_path / f"mnist_{split}") == expected["sha256"]
        with LmdbReader(tmp_path / f"mnist_{split}") as reader:
            assert len(reader) == expected["records"]
    golden = GOLDEN / "mnist_train_mean.binaryproto"
    assert (tmp_path / "mnist_mean.binaryproto").read_bytes() == golden.read_bytes()
    captured = capsys.readouterr()
    assert captured.err == ""  # the official files: no note about digests
    assert "note:" not in captured.out  # the computed mean is the table's


def test_cifar10_jpeg_means_are_the_tables(tmp_path: Path, cifar10_jpeg_file: Path) -> None:
    assert lmdb_command("cifar10_jpeg", "--source", cifar10_jpeg_file, "--out", tmp_path) == 0
    means = read_mean(tmp_path / "cifar10_jpeg_mean.binaryproto").mean(axis=(1, 2))
    assert np.abs(means - DATASETS["cifar10_jpeg"].means.values).max() < 0.006
    labels = stored(tmp_path / "cifar10_jpeg_train").labels
    assert np.bincount(labels).tolist() == [5000] * 10


# ---------------------------------------------------------------- bad input


def test_an_existing_database_is_kept_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = write_cifar10(tmp_path / "cifar-10-binary.tar.gz")
    arguments = ("cifar10", "--source", tmp_path, "--out", tmp_path / "out")
    assert lmdb_command(*arguments) == 0
    files = identities(tmp_path / "out")
    assert lmdb_command(*arguments) == 1
    assert "cifar10_train: exists; --force replaces it" in capsys.readouterr().err
    assert identities(tmp_path / "out") == files
    assert lmdb_command(*arguments, "--force") == 0
    assert_equal(stored(tmp_path / "out" / "cifar10_train"), train)
    assert_equal(stored(tmp_path / "out" / "cifar10_test"), test)


def test_another_test_database_is_not_taken_for_this_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = random_images(4, 3, 32, 100, 0)
    with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as archive:
        for name in ("train", "test"):
            data = cifar_bytes(train, train.labels % 20 + 1)
            add_member(archive, f"cifar-100-binary/{name}.bin", data)
    source = ("--source", tmp_path, "--out", tmp_path / "out")
    assert lmdb_command("cifar100", *source) == 0
    assert lmdb_command("cifar100_plus", *source, "--label", "coarse") == 1
    assert "cifar100_test: exists with other records" in capsys.readouterr().err
    assert not (tmp_path / "out" / "cifar100_plus_train").exists()


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("name", "file", "keep", "message"),
    [
        ("mnist", "train-images-idx3-ubyte.gz", 2000, "cannot be read|truncated"),
        ("mnist", "train-labels-idx1-ubyte", 12, "truncated"),
        ("mnist", "train-images-idx3-ubyte", 10, "not an idx file"),
        ("cifar10", "cifar-10-binary.tar.gz", 50_000, "not a whole tar archive|has no|truncated"),
        ("cifar10", "data_batch_3.bin", 5000, "data_batch_3.bin: truncated: ends inside a record"),
        ("svhn", "train_32x32.mat", 20_000, "train_32x32.mat: truncated"),
        ("svhn", "train_32x32.mat", 60, "not a MATLAB 5 file"),
    ],
)
def test_damaged_archives_leave_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    file: str,
    keep: int,
    message: str,
) -> None:
    if name == "mnist":
        for stem in ("train", "t10k"):
            write_idx(tmp_path, stem, random_images(9, 1, 28, 10, 0), file.endswith(".gz"))
    elif name == "cifar10":
        write_cifar10(tmp_path / "cifar-10-binary.tar.gz")
        if file.endswith(".bin"):
            for member in members(tmp_path / "cifar-10-binary.tar.gz"):
                (tmp_path / Path(member.name).name).write_bytes(member.stream.read())
            (tmp_path / "cifar-10-binary.tar.gz").unlink()
    else:
        for split in ("train", "extra", "test"):
            write_svhn(tmp_path / f"{split}_32x32.mat", 20, 0)
    cut(tmp_path / file, keep)
    assert lmdb_command(name, "--source", tmp_path, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not (tmp_path / "out" / f"{name}_train").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_labels_and_images_must_be_as_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem in ("train", "t10k"):
        write_idx(tmp_path, stem, random_images(9, 1, 28, 10, 0), False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 8) + b"\0" * 8)
    assert lmdb_command("mnist", "--source", tmp_path, "--out", tmp_path / "out") == 1
    assert "8 labels for 9 images" in capsys.readouterr().err


def escaping(kind: str) -> Iterator[tarfile.TarInfo]:
    info = tarfile.TarInfo(
        {"absolute": "/etc/data_batch_1.bin", "up": "a/../../x.bin"}.get(kind, "l")
    )
    if kind == "link":
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    elif kind == "device":
        info.type = tarfile.CHRTYPE
    yield info


@pytest.mark.parametrize("kind", ["absolute", "up", "link", "device"])
def test_members_that_lead_out_are_refused(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for info in escaping(kind):
            archive.addfile(info)
    assert lmdb_command("cifar10", "--source", tmp_path, "--out", tmp_path / "out") == 1
    assert "leads out of the archive" in capsys.readouterr().err


def test_svhn_labels_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    for split in ("train", "extra", "test"):
        scipy_io.savemat(
            tmp_path / f"{split}_32x32.mat",
            {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [11]])},
        )
    assert lmdb_command("svhn", "--source", tmp_path, "--out", tmp_path / "out") == 1
    assert "labels from 1 to 11" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("imagenet",), "unknown data set 'imagenet'; known are cifar10, "),
        (("mnist", "--source", "/nowhere/at/all"), "/nowhere/at/all: no such file or folder"),
        (("mnist", "--label", "coarse"), "--label is for cifar100"),
        (("cifar10", "--without-extra"), "--without-extra is for svhn, not for cifar10"),
        (("mnist", "--source", "."), "has none of t10k-images-idx3-ubyte.gz, t10k-images"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert lmdb_command(*arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "lmdb").exists()


def test_an_unwritable_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cifar10(tmp_path / "cifar-10-binary.tar.gz")
    (tmp_path / "file").write_bytes(b"")
    out = tmp_path / "file" / "out"
    assert lmdb_command("cifar10", "--source", tmp_path, "--out", out) == 1
    assert "cannot be written" in capsys.readouterr().err


# ---------------------------------------------------------------- the registry, the means


def test_the_registry_has_all_sets() -> None:
    assert list(DATASETS) == [
        "cifar10",
        "cifar100",
        "cifar100_plus",
        "cifar10_jpeg",
        "cifar10_plus",
        "digits",
        "mnist",
        "svhn",
    ]
    assert DATASETS["svhn"].counts["train"] == 604_388
    with pytest.raises(ValueError, match=r"registered twice"):
        register(DATASETS["mnist"])


def test_a_set_yields_nothing_is_an_error(tmp_path: Path) -> None:
    from converters.datasets.build import build

    nothing = Dataset("nothing", "", lambda *_: iter(()), {"train": 0, "test": 0})
    with pytest.raises(DataError, match=r"nothing: no test images"):
        build(nothing, Source(None, tmp_path), tmp_path)
    assert os.listdir(tmp_path) == []


def test_means_are_compared_in_the_decimals_that_are_sure() -> None:
    assert DATASETS["cifar10"].compare_means(np.array([125.307, 122.95, 113.865])) == ()
    (note,) = DATASETS["cifar10"].compare_means(np.array([125.307, 122.94, 113.865]))
    assert "122.94" in note
    assert "published" in note
    assert DATASETS["svhn"].compare_means(np.array([1.0, 2.0, 3.0])) == ()
    assert DATASETS["mnist"].compare_means(np.array([33.3184])) == ()


def test_the_entries_need_no_library_but_numpy() -> None:
    """The generator reads them, and must be instant."""
    script = (
        "import sys; from converters.datasets.registry import DATASETS; len(DATASETS)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}"
        " & {'lmdb', 'torch', 'cv2', 'google', 'scipy', 'sklearn', 'urllib3', 'ssl'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert json.loads(run.stdout.replace("'", '"')) == []


def test_mat_files_of_other_types_and_orders(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    arrays = {
        "a": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "b": np.array([[300, -5]], np.int16),
        "c": np.array([[7]], np.uint8),
        "text": "not numeric",
        "z": np.array([[1 + 2j]]),
    }
    scipy_io.savemat(tmp_path / "x.mat", arrays, do_compression=True)
    found = matfile.variables(tmp_path / "x.mat")
    assert {"a", "b", "c"} <= set(found)
    assert "z" not in found
    for name in "abc":
        assert (found[name].array() == arrays[name]).all()
