"""CIFAR-10 and CIFAR-100, plain and augmented: 3×32×32, RGB planes, the binary archives.

Source of the format: the sets' own page. A `.bin` file is records of one or two label bytes (CIFAR-
100: coarse, fine) and 3,072 pixels, red plane first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from converters.datasets.archive import Archive
from converters.datasets.registry import (
    BLOCK,
    ChannelMeans,
    Dataset,
    Images,
    Option,
    Split,
    Training,
    register,
)
from converters.datasets.source import Source
from converters.datasets.tar_members import Readable, members
from converters.errors import DataError

_PIXELS = 3 * 32 * 32
_BORDER = 4


class _Format(NamedTuple):
    """Where a set's records are: the folder in the archive, its files, label bytes a record."""

    archive: Archive
    folder: str
    files: Mapping[Split, tuple[str, ...]]
    labels: tuple[str, ...]
    records: int  # of the largest file

    @property
    def record(self) -> int:
        """Bytes of a record."""
        return len(self.labels) + _PIXELS


_CIFAR10 = _Format(
    Archive(
        "cifar-10-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
    ),
    "cifar-10-batches-bin",
    {
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    ("fine",),
    10_000,
)
_CIFAR100 = _Format(
    Archive(
        "cifar-100-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
    ),
    "cifar-100-binary",
    {"train": ("train.bin",), "test": ("test.bin",)},
    ("coarse", "fine"),
    50_000,
)


def _read(form: _Format, source: Source, split: Split, chosen: str) -> Iterator[Images]:
    names = form.files[split]
    path = source.find(form.archive, (form.folder, names[0]))
    label = form.labels.index(chosen or "fine")
    if path.is_dir() or path.suffix == ".bin":
        folder = path if path.is_dir() else path.parent
        streams = _files(folder, names)
    else:
        streams = _archived(path, names, form.records * form.record)
    for name, stream in streams:
        yield from _records(stream, form, label, name)


def _files(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Readable]]:
    for name in names:
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: no such file, or no regular one")
        try:
            with open(folder / name, "rb") as stream:
                yield str(folder / name), stream
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read: {error.strerror}") from error


def _archived(path: Path, names: tuple[str, ...], largest: int) -> Iterator[tuple[str, Readable]]:
    """The members `names`, in that order, from one pass; those that come too early are kept."""
    early: dict[str, bytes] = {}
    due = list(names)
    for member in members(path):
        name = PurePosixPath(member.name).name
        if name in due and member.size > largest:
            raise DataError(
                f"{path}: {member.name} announces {member.size} bytes; the set's has {largest}"
            )
        if due and name == due[0]:
            yield f"{path}: {member.name}", member.stream
            due.pop(0)
        elif name in due:
            early[name] = member.stream.read()
        while due and due[0] in early:
            yield f"{path}: {due[0]}", io.BytesIO(early.pop(due.pop(0)))
        if not due:
            return
    raise DataError(f"{path}: has no {', '.join(due)} in it")


def _records(stream: Readable, form: _Format, label: int, name: str) -> Iterator[Images]:
    size, labels, count = form.record, len(form.labels), 0
    while block := stream.read(BLOCK * size):
        if len(block) % size:
            raise DataError(f"{name}: truncated: ends inside a record of {size} bytes")
        rows = np.frombuffer(block, np.uint8).reshape(-1, size)
        count += len(rows)
        if count > form.records:
            raise DataError(f"{name}: has more than {form.records} records")
        yield Images(rows[:, labels:].reshape(-1, 3, 32, 32), rows[:, label])


def _register(
    name: str,
    form: _Format,
    classes: int,
    means: tuple[float, float, float],
    option: Option | None = None,
) -> None:
    plain = Dataset(
        name=name,
        summary=f"32×32 colour photographs, {classes} classes",
        read=partial(_read, form),
        counts={"train": 50_000, "test": 10_000},
        archives=(form.archive,),
        key="%05d",
        classes=classes,
        option=option,
        means=ChannelMeans(means, "published", 1),
        training=Training(epochs=300),
    )
    register(plain)
    about = f"{plain.summary}, padded to 40×40 for crops"
    register(replace(plain, name=f"{name}_plus", summary=about, pad=_BORDER, test_of=name))


_register("cifar10", _CIFAR10, 10, (125.3, 123.0, 113.9))
_register(
    "cifar100",
    _CIFAR100,
    100,
    (129.3, 124.1, 112.4),
    Option("--label", "CIFAR-100's 100 classes or its 20 superclasses", ("fine", "coarse")),
)
