"""SVHN: house numbers, 3×32×32 RGB; MATLAB files, streamed. Label 10 there is the digit 0."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.datasets.archive import Archive
from converters.datasets.matfile import Variable, variables
from converters.datasets.registry import BLOCK, Dataset, Images, Option, Split, Training, register
from converters.datasets.source import Source
from converters.errors import DataError

_ADDRESS = "http://ufldl.stanford.edu/housenumbers/"  # no https there; the digest decides
_TRAIN, _TEST, _EXTRA = (
    Archive(name, _ADDRESS + name, md5)
    for name, md5 in (
        ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
        ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ("extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7"),
    )
)


def _read(source: Source, split: Split, without_extra: str) -> Iterator[Images]:
    archives = {"train": [_TRAIN, _EXTRA], "test": [_TEST]}[split]
    # All are found before the first is read: a missing one should not cost an hour.
    paths = [
        source.find(archive) for archive in archives if not (without_extra and archive is _EXTRA)
    ]
    for path in paths:
        yield from _images(path)


def _images(path: Path) -> Iterator[Images]:
    found = variables(path)
    if not {"X", "y"} <= found.keys():
        raise DataError(f"{path}: has no variables X and y; is it SVHN's format 2 (32×32)?")
    pixels, count = found["X"], prod(found["y"].shape)
    # Before the labels are read: of a damaged file they may be any number.
    if pixels.shape != (32, 32, 3, count) or pixels.dtype != np.uint8:
        raise DataError(
            f"{path}: X is {pixels.shape} of {pixels.dtype}, expected 32×32×3×{count} bytes"
        )
    labels = _labels(path, found["y"])
    # MATLAB's first index runs fastest: a file's image is (channel, column, row).
    size = 32 * 32 * 3
    for start, data in pixels.blocks(BLOCK * size):
        images = np.frombuffer(data, np.uint8).reshape(-1, 3, 32, 32).transpose(0, 1, 3, 2)
        first = start // size
        yield Images(images, labels[first : first + len(images)])


def _labels(path: Path, variable: Variable) -> NDArray[np.uint8]:
    values = variable.array().ravel()
    if not np.isin(values, range(1, 11)).all():
        raise DataError(
            f"{path}: labels from {values.min()} to {values.max()}, expected 1 to 10 (10 is 0)"
        )
    return (values % 10).astype(np.uint8)


register(
    Dataset(
        name="svhn",
        summary="house numbers, 32×32 colour, 10 classes; train and extra together",
        read=_read,
        counts={"train": 73_257 + 531_131, "test": 26_032},
        archives=(_TRAIN, _EXTRA, _TEST),
        training=Training(epochs=200, test_batch=16),
        option=Option("--without-extra", "SVHN's training set alone (73,257 images)"),
    )
)
