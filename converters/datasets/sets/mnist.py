"""MNIST: handwritten digits, 1×28×28; four idx files, gzip-compressed or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from converters.datasets.archive import Archive
from converters.datasets.registry import (
    BLOCK,
    ChannelMeans,
    Dataset,
    Images,
    Split,
    Training,
    register,
)
from converters.datasets.source import Source
from converters.errors import DataError

_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FILES = {
    "train": (
        ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    ),
}
_ARCHIVES = {
    split: tuple(
        Archive(f"{name}.gz", f"{_ADDRESS}{name}.gz", md5, unpacked=True) for name, md5 in files
    )
    for split, files in _FILES.items()
}

# idx, big-endian: two zero bytes, the type (8: unsigned byte), the number of dimensions, then each
# dimension as u32, then the values.
_UBYTE = 0x0800
# What announces more pixels of an image, or more images, is no set of this kind.
_MOST_PIXELS, _MOST_IMAGES = 1 << 16, 1 << 20


def _read(source: Source, split: Split, chosen: str) -> Iterator[Images]:
    paths = [
        source.find(archive, (archive.file.removesuffix(".gz"),)) for archive in _ARCHIVES[split]
    ]
    try:
        with _open(paths[0]) as images, _open(paths[1]) as labels:
            count, height, width = _dimensions(images, paths[0], 3)
            (label_count,) = _dimensions(labels, paths[1], 1)
            if not 0 < height * width <= _MOST_PIXELS:
                raise DataError(f"{paths[0]}: images of {height}×{width}, expected 28×28")
            if count > _MOST_IMAGES:
                raise DataError(
                    f"{paths[0]}: announces {count} images; {_MOST_IMAGES} are the most"
                )
            if count != label_count:
                raise DataError(f"{paths[1]}: {label_count} labels for {count} images")
            for start in range(0, count, BLOCK):
                size = min(BLOCK, count - start)
                pixels = _take(images, size * height * width, paths[0])
                numbers = _take(labels, size, paths[1])
                yield Images(
                    np.frombuffer(pixels, np.uint8).reshape(size, 1, height, width),
                    np.frombuffer(numbers, np.uint8),
                )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{paths[0].parent}: MNIST cannot be read: {error}") from error


def _open(path: Path) -> BinaryIO:
    with open(path, "rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")  # type: ignore[return-value]


def _dimensions(stream: BinaryIO, path: Path, number: int) -> tuple[int, ...]:
    header = stream.read(4 + 4 * number)
    if len(header) < 4 + 4 * number or header[:4] != struct.pack(">I", _UBYTE | number):
        raise DataError(f"{path}: not an idx file of unsigned bytes with {number} dimensions")
    return struct.unpack(f">{number}I", header[4:])


def _take(stream: BinaryIO, size: int, path: Path) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise DataError(f"{path}: truncated")
    return data


register(
    Dataset(
        name="mnist",
        summary="handwritten digits, 28×28 gray, 10 classes",
        read=_read,
        counts={"train": 60_000, "test": 10_000},
        archives=_ARCHIVES["train"] + _ARCHIVES["test"],
        size=28,
        order="gray",
        means=ChannelMeans((33.318,), "measured", 3),
        training=Training(epochs=200, base_lr=0.01),
    )
)
