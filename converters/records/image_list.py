"""Lists of image files, a line `NAME LABEL` each, as ImageData and convert_imageset read them.

The label is what follows the last space, but for space at the end of the line. Names are bytes, as
they are on disk: they need not be UTF-8. Source: Caffe layers/image_data_layer.cpp,
tools/convert_imageset.cpp.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from converters.errors import DataError
from converters.formats.input_files import byte_order_mark, read_file

LARGEST_LIST = 1 << 31  # bytes
_SHOWN = 80
_WHOLE = re.compile(rb"[+-]?[0-9]+")


class ImageList(NamedTuple):
    """Names (bytes, relative to a root folder) and labels, line by line."""

    names: list[bytes]
    labels: list[int]


def read_image_list(path: str | Path) -> ImageList:
    """Read a list of images; a blank line counts, as in Caffe, as an image without a name.

    Raises:
        DataError: the file cannot be read or begins with a byte order mark, or a line has no label,
            or one that is no whole number of 32 bits: `list.txt:3: …`.
    """
    try:
        content = read_file(path, LARGEST_LIST)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if mark := byte_order_mark(content):
        raise DataError(f"{path}: begins with {mark}")
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    names, labels = [], []
    for number, line in enumerate(lines, 1):
        name, _, label = line.rstrip().rpartition(b" ")
        if not label:
            names.append(b"")
            labels.append(0)
            continue
        if not name:
            raise DataError(f"{path}:{number}: {shown(line)} has no label; a line is NAME LABEL")
        if b"\0" in name:
            raise DataError(f"{path}:{number}: {shown(name)}: no file can be called so")
        try:
            labels.append(whole_number(label))
        except ValueError as error:
            raise DataError(f"{path}:{number}: label {shown(label)}: {error}") from error
        names.append(name)
    return ImageList(names, labels)


def whole_number(word: bytes) -> int:
    """A word as Caffe's labels are stored.

    Raises:
        ValueError: it is no whole number, or needs more than 32 bits; says which.
    """
    if not _WHOLE.fullmatch(word):
        raise ValueError("it is no whole number")
    # Python refuses to read a number of thousands of digits.
    if len(word) > 99 or not -(1 << 31) <= int(word) < 1 << 31:
        raise ValueError("it needs more than 32 bits")
    return int(word)


def shown(text: bytes) -> str:
    """Part of a file as messages show it: quoted, and not longer than can be read."""
    some = text if len(text) <= _SHOWN else text[:_SHOWN] + b" ..."
    return repr(some.decode("utf-8", "backslashreplace"))
