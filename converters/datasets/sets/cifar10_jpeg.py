"""CIFAR-10 (JPEG): the images as class folders of JPEG files, `train/CLASS/NNNN.jpg`; BGR.

Lossy, so figures from it are not CIFAR-10's. It exists to run the image path on a real set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

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
from converters.datasets.tar_members import members
from converters.errors import DataError
from converters.formats.input_files import read_file
from converters.records.datum import decode_image
from converters.records.images import Pixels

ARCHIVE = "cifar10-jpeg.tar.gz"
SEED = 0
_SUFFIXES = (".jpg", ".jpeg", ".png")
# Bytes: a file has about a thousand; those of an archive are held together.
_LARGEST_FILE, _LARGEST_SET = 1 << 20, 1 << 30


def _read(source: Source, split: Split, chosen: str) -> Iterator[Images]:
    if source.local is None:
        raise DataError(
            f"cifar10_jpeg cannot be downloaded: give {ARCHIVE}, or a folder with train/CLASS/*.jpg"
            " and test/CLASS/*.jpg, as --source"
        )
    path = source.local_path((ARCHIVE, split))
    files = _archived(path, split) if path.is_file() else _unpacked(path.parent, split)
    names = sorted(files)
    if not names:
        raise DataError(f"{path}: has no {split}/CLASS/*.jpg in it")
    classes = {name: label for label, name in enumerate(sorted({_class(name) for name in names}))}
    order = np.random.RandomState(SEED).permutation(len(names))
    for start in range(0, len(names), BLOCK):
        chosen_names = [names[row] for row in order[start : start + BLOCK]]
        images = [_decode(path, name, files[name]) for name in chosen_names]
        if any(image.shape != images[0].shape for image in images):
            raise DataError(f"{path}: images of several sizes; `imageset --resize` takes those")
        yield Images(np.stack(images), np.array([classes[_class(name)] for name in chosen_names]))


def _archived(path: Path, split: Split) -> dict[str, bytes | Path]:
    found: dict[str, bytes | Path] = {}
    total = 0
    for member in members(path):
        if not _belongs(PurePosixPath(member.name), split):
            continue
        total += member.size
        if member.size > _LARGEST_FILE or total > _LARGEST_SET:
            raise DataError(
                f"{path}: {member.name}: {member.size} bytes, {total} up to here; the most are "
                f"{_LARGEST_FILE} for an image and {_LARGEST_SET} together"
            )
        found[member.name] = member.stream.read()
    return found


def _unpacked(root: Path, split: Split) -> dict[str, bytes | Path]:
    names = {path: path.relative_to(root) for path in (root / split).glob("*/*")}
    return {
        name.as_posix(): path
        for path, name in names.items()
        if _belongs(PurePosixPath(name.as_posix()), split)
    }


def _belongs(name: PurePosixPath, split: Split) -> bool:
    return len(name.parts) >= 3 and name.parts[-3] == split and name.suffix.lower() in _SUFFIXES


def _class(name: str) -> str:
    return PurePosixPath(name).parent.name


def _decode(path: Path, name: str, content: bytes | Path) -> Pixels:
    try:
        data = read_file(content, _LARGEST_FILE) if isinstance(content, Path) else content
        return decode_image(data, color=True)
    except (OSError, DataError) as error:
        raise DataError(f"{path}: {name}: {error}") from error


register(
    Dataset(
        name="cifar10_jpeg",
        summary="CIFAR-10 as JPEG files in class folders (lossy), 10 classes; --source only",
        read=_read,
        counts={"train": 50_000, "test": 10_000},
        order="BGR",
        means=ChannelMeans((113.86, 122.93, 125.27), "measured", 2),
        training=Training(epochs=300),
    )
)
