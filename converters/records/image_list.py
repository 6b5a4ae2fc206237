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


class ImageList(NamedTuple):
    """Names (bytes, relative to a root folder) and labels, line by line."""

    names: list[bytes]
    labels: list[int]


def read_image_list(path: str | Path) -> ImageList:
    """Read a list of images; a blank line counts, as in Caffe, as an image without a name.

    Raises:
        DataError: the file is missing, or a line has no label or one beyond 32 bits:
            `list.txt:3: …`.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if lines[-1] == b"":
        lines.pop()
    names, labels = [], []
    for number, line in enumerate(lines, 1):
        name, _, label = line.rstrip().rpartition(b" ")
        if line.strip() and not (name and re.fullmatch(rb"[+-]?\d+", label)):
            text = line.decode("utf-8", "backslashreplace")
            raise DataError(f"{path}:{number}: {text!r} has no label; a line is NAME LABEL")
        # Python refuses to read a number of thousands of digits.
        if len(label) > 99 or not -(1 << 31) <= int(label or 0) < 1 << 31:
            raise DataError(f"{path}:{number}: a label needs more than 32 bits")
        names.append(name)
        labels.append(int(label or 0))
    return ImageList(names, labels)
