"""Whatever bytes a file holds: a result, or one of the project's own errors, never another one."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.commands.show import contact_sheet
from converters.datasets.registry import DATASETS
from converters.datasets.source import Source
from converters.environment import Environment
from converters.errors import CaffeError
from converters.prototxt.text import parse_net
from converters.readers import open_reader
from converters.records.datum import decode_batch, decode_datum, encode_datum, encode_image
from converters.records.imageset import Settings, Size, convert_imageset
from converters.records.lmdb_reader import DATA_FILE, LmdbReader
from converters.records.lmdb_writer import create_lmdb
from converters.records.mean import read_mean, write_mean

cv2 = pytest.importorskip("cv2")
h5py = pytest.importorskip("h5py")

PIXELS = np.random.RandomState(0).randint(0, 256, (3, 8, 6)).astype(np.uint8)
JPEG = bytes(cv2.imencode(".jpg", PIXELS.transpose(1, 2, 0))[1])


class Format(NamedTuple):
    """A kind of file: its name, a valid one made in a folder, and what reads it there."""

    name: str
    make: Callable[[Path], bytes]
    read: Callable[[Path], object]


def made_by(write: Callable[[Path], object]) -> Callable[[Path], bytes]:
    """The bytes that `write` puts into a file."""

    def make(path: Path) -> bytes:
        write(path)
        return path.read_bytes()

    return make


def read_set(name: str, chosen: str = "") -> Callable[[Path], object]:
    """Read a set's training images from the folder of a file."""

    def read(path: Path) -> object:
        dataset = DATASETS[name]
        return list(dataset.read(Source(path.parent, path.parent), "train", chosen))

    return read


def idx(path: Path) -> bytes:
    labels = struct.pack(">2I", 2049, 2) + b"\x03\x04"
    (path.parent / "train-labels-idx1-ubyte").write_bytes(labels)
    return struct.pack(">4I", 2051, 2, 3, 4) + bytes(24)


def cifar(path: Path) -> bytes:
    for number in range(2, 6):
        (path.parent / f"data_batch_{number}.bin").write_bytes(bytes(3073))
    return bytes(2 * 3073)


def tar(path: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for number in range(1, 6):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/data_batch_{number}.bin")
            info.size = 2 * 3073
            archive.addfile(info, io.BytesIO(bytes(2 * 3073)))
    return file.getvalue()


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def mat(path: Path, pack: bool = False) -> bytes:
    """MATLAB 5 by hand: X is 32×32×3×2, y is 2×1."""
    parts = [b"MATLAB 5".ljust(124) + struct.pack("<H", 0x0100) + b"IM"]
    for name, shape, data in ((b"X", (32, 32, 3, 2), bytes(6144)), (b"y", (2, 1), b"\x01\x0a")):
        flags, sizes = struct.pack("<II", 9, 0), struct.pack(f"<{len(shape)}i", *shape)
        fields = ((6, flags), (5, sizes), (1, name), (2, data))
        whole = element(14, b"".join(element(*field) for field in fields))
        packed = zlib.compress(whole)
        parts.append(struct.pack("<II", 15, len(packed)) + packed if pack else whole)
    return b"".join(parts)


def read_layer(kind: str, fields: str) -> Callable[[Path], object]:
    """A batch of a data layer whose files lie in the folder of a file."""

    def read(path: Path) -> object:
        text = f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {fields} }}'
        reader = open_reader(
            parse_net(text).layer[0], Environment("net", "TRAIN", str(path.parent)), 1
        )
        return reader.shapes(), reader.next(), reader.next()

    return read


def image_list(path: Path) -> bytes:
    (path.parent / "a.jpg").write_bytes(JPEG)
    return b"a.jpg 1\na.jpg 2\n"


def image(path: Path) -> bytes:
    (path.parent / "list.txt").write_bytes(b"a.jpg 1\n")
    return JPEG


def windows(path: Path) -> bytes:
    (path.parent / "a.jpg").write_bytes(JPEG)
    return b"# 0\na.jpg\n3 8 6\n2\n5 0.9 0 0 3 3\n0 0.1 1 1 4 5\n"


def hdf5(path: Path) -> bytes:
    (path.parent / "files.txt").write_bytes(b"a.h5\n")
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
    return path.read_bytes()


def database(path: Path) -> bytes:
    with create_lmdb(path.parent / "db") as writer:
        writer.put(b"0", encode_datum(PIXELS, 1))
    return (path.parent / "db" / DATA_FILE).read_bytes()


def read_database(path: Path) -> object:
    with LmdbReader(path.parent) as reader:
        return list(reader), list(reader.once()), list(islice(reader.values(), 5))


def read_record(path: Path) -> object:
    record = path.read_bytes()
    found = decode_batch([record, record])
    return found, contact_sheet({0: [decode_datum(record).image(True)]}, rgb=True)


IMAGES = 'image_data_param { source: "list.txt" batch_size: 2 rand_skip: 2 shuffle: true '
FORMATS = {
    "Datum": Format("record", lambda path: encode_datum(PIXELS, 7), read_record),
    "encoded Datum": Format("record", lambda path: encode_image(JPEG, 7), read_record),
    "idx": Format("train-images-idx3-ubyte", idx, read_set("mnist")),
    "idx.gz": Format(
        "train-images-idx3-ubyte.gz", lambda path: gzip.compress(idx(path)), read_set("mnist")
    ),
    "cifar .bin": Format("data_batch_1.bin", cifar, read_set("cifar10")),
    "cifar .tar.gz": Format("cifar-10-binary.tar.gz", tar, read_set("cifar10")),
    "cifar .tar": Format(
        "cifar-10-binary.tar.gz", lambda path: gzip.decompress(tar(path)), read_set("cifar10")
    ),
    "mat": Format("train_32x32.mat", mat, read_set("svhn", "yes")),
    "packed mat": Format(
        "train_32x32.mat", lambda path: mat(path, pack=True), read_set("svhn", "yes")
    ),
    "mean": Format(
        "mean", made_by(lambda path: write_mean(path, np.ones((3, 4, 5), np.float32))), read_mean
    ),
    "imageset list": Format(
        "list.txt",
        image_list,
        lambda path: convert_imageset(
            path.parent, path, path.parent / "out", Settings(Size(4, 4)), force=True
        ),
    ),
    "ImageData list": Format("list.txt", image_list, read_layer("ImageData", IMAGES + "}")),
    "ImageData image": Format(
        "a.jpg", image, read_layer("ImageData", IMAGES + "new_height: 4 new_width: 5 }")
    ),
    "window file": Format(
        "windows.txt",
        windows,
        read_layer(
            "WindowData",
            "transform_param { crop_size: 5 mirror: true } "
            'window_data_param { source: "windows.txt" batch_size: 4 context_pad: 1 }',
        ),
    ),
    "HDF5": Format(
        "a.h5",
        hdf5,
        read_layer("HDF5Data", 'hdf5_data_param { source: "files.txt" batch_size: 2 }'),
    ),
    "LMDB": Format("db/" + DATA_FILE, database, read_database),
}


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Any bytes, or `valid` with some of them changed and its end cut off; headers most often."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=300))
    place = st.integers(0, len(valid)) | st.integers(0, min(200, len(valid)))
    content = bytearray(valid)
    patches = st.binary(min_size=1, max_size=4) | st.just(b"\xff" * 8)
    for start, patch in draw(st.lists(st.tuples(place, patches), max_size=4)):
        content[start : start + len(patch)] = patch
    return bytes(content[: draw(st.just(len(content)) | place)])


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=100)
@given(data=st.data())
def test_any_bytes(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, make, read = FORMATS[kind]
    path = tmp_path_factory.mktemp("bytes") / name
    content = data.draw(damaged(make(path)))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        read(path)
    except CaffeError as error:
        assert str(error)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_valid_file_is_read(kind: str, tmp_path: Path) -> None:
    name, make, read = FORMATS[kind]
    path = tmp_path / name
    content = make(path)
    path.write_bytes(content)
    read(path)
