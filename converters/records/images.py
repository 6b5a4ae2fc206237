"""OpenCV, as Caffe uses it: compressed images to pixels, planes of channels; picture files.

`converters.records.datum` decodes records with it, `converters.records.imageset` and the readers of
image files decode files. OpenCV is an extra: it is imported when the first image is decoded.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError, import_extra
from converters.formats.whole_files import written_beside

Buffer: TypeAlias = bytes | bytearray | memoryview
Pixels: TypeAlias = NDArray[np.uint8]

LARGEST_IMAGE = 1 << 28
"""Pixels: a small file can announce any number, and decoding takes memory for all of them."""


def opencv(purpose: str = "reading images") -> Any:
    """The module cv2.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    return import_extra("cv2", "OpenCV", "images", purpose)


def decode(image: Buffer, color: bool | None) -> NDArray[Any] | None:
    """OpenCV's pixels of a compressed image, BGR (H, W, 3) or gray (H, W); None if it is none.

    `color` None keeps the file's own channels and depth, True and False force three and one of
    8 bits.

    Raises:
        DataError: a PNG or JPEG that announces more pixels than `LARGEST_IMAGE`.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = opencv()
    height, width = announced_size(image)
    if height * width > LARGEST_IMAGE:
        raise DataError(
            f"announces {height}×{width} pixels; {LARGEST_IMAGE} are the most that are decoded"
        )
    flags = {None: cv2.IMREAD_UNCHANGED, True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE}
    data = np.frombuffer(image, np.uint8)
    try:
        pixels: NDArray[Any] | None = cv2.imdecode(data, flags[color]) if data.size else None
    except cv2.error:
        # Such as one of another format that announces more pixels than OpenCV allows.
        return None
    return pixels


def announced_size(image: Buffer) -> tuple[int, int]:
    """Height and width in the header of a PNG or JPEG; zeros if it is neither, or damaged there."""
    head = bytes(image[:24])
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 24:
        width, height = struct.unpack(">II", head[16:])
        return height, width
    # A JPEG is segments, each FF, its kind, and the length of what follows it; the size is in the
    # start of frame: kinds C0 to CF, but for tables (C4, CC) and one that is reserved (C8).
    at, end = 2, len(image)
    while head.startswith(b"\xff\xd8") and at + 9 <= end and image[at] == 0xFF:
        kind = image[at + 1]
        if kind == 0xFF:  # padding
            at += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", image, at + 5)
            return height, width
        elif kind == 0x01 or 0xD0 <= kind <= 0xD8:  # these have no length
            at += 2
        else:
            at += 2 + max(2, image[at + 2] << 8 | image[at + 3])
    return 0, 0


def write_png(path: Path, picture: Pixels) -> None:
    """Write a picture (H, W) gray or (H, W, 3) BGR as PNG; raises as `write_picture`."""
    write_picture(path, picture, ".png")


def write_picture(path: Path, picture: Pixels, form: str) -> None:
    """Write a picture (H, W) gray or (H, W, 3) BGR; `form` is ".png" or ".jpg", of quality 95.

    Raises:
        MissingExtraError: OpenCV is not installed.
        OutputError: `path` cannot be written.
    """
    _, data = opencv("writing a picture").imencode(form, picture)
    with written_beside(path) as partial:
        partial.write_bytes(bytes(data))


def planes(pixels: NDArray[Any]) -> Pixels:
    """OpenCV's (H, W) or (H, W, C) as Caffe's (C, H, W), contiguous."""
    if pixels.ndim == 2:
        return pixels[np.newaxis]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def picture_of(image: NDArray[Any], rgb: bool) -> Pixels:
    """Values 0 … 255 (C, H, W) as a picture (H, W, 3) in OpenCV's order, BGR.

    `rgb` says that the three channels are RGB. Other numbers of channels show their first as gray.
    """
    three = image if image.shape[0] == 3 else image[:1].repeat(3, axis=0)
    ordered = three[::-1] if rgb else three
    picture: Pixels = np.rint(ordered.transpose(1, 2, 0)).clip(0, 255).astype(np.uint8)
    return picture
