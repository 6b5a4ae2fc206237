"""Databases from lists of image files (`image_list`), as Caffe's convert_imageset makes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.formats.input_files import read_file
from converters.records.datum import describe, encode_datum, encode_image
from converters.records.image_list import ImageList, read_image_list
from converters.records.images import LARGEST_IMAGE, decode, opencv, planes
from converters.records.lmdb_writer import create_lmdb
from converters.reporting import SILENT, Reporter

# Images that a thread decodes at once, as handing over small ones singly takes longer than decoding
# them; and such tasks before their records are written.
_TASK, _TASKS = 8, 8

_TOLD = 8
"""Images that are named, of those that are left out."""


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


class Settings(NamedTuple):
    """How each image is stored; `shuffle` is the seed of the order, None keeps the list's.

    `encode_type` ("png", "jpg" …) is the format to compress in where a file has another.
    """

    resize: Size | None = None
    gray: bool = False
    encoded: bool = False
    shuffle: int | None = None
    check_size: bool = False
    encode_type: str = ""


DEFAULT = Settings()


class Imported(NamedTuple):
    """How many records were written, and the names that could not be read."""

    records: int
    unreadable: list[str]


class _Record(NamedTuple):
    value: bytes
    shape: str


def convert_imageset(
    root: str | Path,
    list_file: str | Path,
    out: str | Path,
    settings: Settings = DEFAULT,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> Imported:
    """Write the images of a list to a new LMDB under keys `%08d_NAME`.

    The number counts the list's lines, after shuffling, those included that cannot be read (they
    are left out, and `reporter` is told). Pixels are BGR planes (C, H, W) as OpenCV decodes them,
    resized bilinearly; with `encoded` the file's own bytes are kept unless it is resized.

    Raises:
        DataError: a bad list, no image can be read, or with `check_size` two differ in size.
        OutputError: `out` exists or cannot be written.
        MissingExtraError: OpenCV is not installed.
    """
    resize = settings.resize
    if resize is not None and resize.height * resize.width > LARGEST_IMAGE:
        raise DataError(
            f"--resize {resize.height}x{resize.width}: {resize.height * resize.width} pixels; "
            f"{LARGEST_IMAGE} are the most"
        )
    images = read_image_list(list_file)
    order = np.arange(len(images.names))
    if settings.shuffle is not None:
        order = np.random.RandomState(settings.shuffle).permutation(len(order))
    folder = str(root).rstrip("/")
    paths = (f"{folder}/{os.fsdecode(name)}" for name in images.names)
    if images.names and not any(map(os.path.exists, paths)):
        raise DataError(
            f"{list_file}: none of its {len(order)} images can be read: "
            f"{folder}/{os.fsdecode(images.names[0])} does not exist, nor do the others; is "
            f"ROOT {folder or '/'} right?"
        )
    unreadable: list[str] = []
    first_shape = ""
    with create_lmdb(out, force, expected=len(order)) as writer:
        records = _read_all(folder, images, order.tolist(), settings)
        shown = reporter.progress(records, str(out), len(order), "images")
        for number, record in enumerate(shown):
            name = images.names[order[number]]
            if record is None:
                unreadable.append(os.fsdecode(name))
                if len(unreadable) <= _TOLD:
                    reporter.note(f"{folder}/{os.fsdecode(name)}: not a readable image, left out")
                continue
            first_shape = first_shape or record.shape
            if settings.check_size and record.shape != first_shape:
                raise DataError(
                    f"{folder}/{os.fsdecode(name)}: is {record.shape}, the images before it "
                    f"{first_shape}; give --resize, or leave --check-size out"
                )
            writer.put(b"%08d_%b" % (number, name), record.value)
        if len(unreadable) > _TOLD:
            reporter.note(f"and {len(unreadable) - _TOLD} more that are not")
        written = len(order) - len(unreadable)
        if not written:
            raise DataError(f"{list_file}: none of its {len(order)} images can be read")
    return Imported(written, unreadable)


def _read_all(
    folder: str, images: ImageList, order: Sequence[int], settings: Settings
) -> Iterator[_Record | None]:
    """The records in `order`; OpenCV decodes outside Python's lock, so threads help."""

    def read(start: int) -> list[_Record | None]:
        return [
            _read_image(f"{folder}/{os.fsdecode(images.names[row])}", images.labels[row], settings)
            for row in order[start : start + _TASK]
        ]

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(order), _TASK * _TASKS):
            tasks = range(start, min(start + _TASK * _TASKS, len(order)), _TASK)
            yield from chain.from_iterable(pool.map(read, tasks))


def _read_image(path: str, label: int, settings: Settings) -> _Record | None:
    """One image as a record; None if there is no image at `path`."""
    try:
        content = read_file(path)
    except (OSError, ValueError):  # ValueError: a name with a NUL byte
        return None
    try:
        pixels = decode(content, not settings.gray)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if pixels is None:
        return None
    if settings.resize is not None:
        pixels = opencv().resize(pixels, (settings.resize.width, settings.resize.height))
    image = planes(pixels)
    if not settings.encoded and not settings.encode_type:
        return _Record(encode_datum(image, label, write_encoded=True), describe(image))
    suffix = Path(path).suffix.lower()
    form = f".{settings.encode_type}" if settings.encode_type else suffix
    if settings.resize is not None or form not in (suffix, suffix.replace("jpeg", "jpg")):
        # As Caffe: compressed again, in the format asked for or that the name says.
        content = compressed(pixels, path if form == suffix else f"{path}{form}")
    return _Record(encode_image(content, label), describe(image))


def compressed(pixels: NDArray[Any], path: str) -> bytes:
    """An image in the format that its file's name says; raises DataError if it says none."""
    cv2 = opencv()
    suffix = Path(path).suffix.lower()
    try:
        done, buffer = cv2.imencode(suffix, pixels)
    except cv2.error:
        done = False
    if not done:
        raise DataError(f"{path}: {suffix or 'no suffix'!r} is no image format to compress to")
    return bytes(buffer)
