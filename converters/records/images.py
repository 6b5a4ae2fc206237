"""OpenCV, as Caffe uses it: compressed images to pixels, planes of channels; PNG files.

`converters.records.datum` decodes records with it, `converters.records.imageset` and the readers of
image files decode files. OpenCV is an extra: it is imported when the first image is decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converters.errors import import_extra
from converters.formats.whole_files import written_beside

Buffer: TypeAlias = bytes | bytearray | memoryview
Pixels: TypeAlias = NDArray[np.uint8]


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
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = opencv()
    flags = {None: cv2.IMREAD_UNCHANGED, True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE}
    data = np.frombuffer(image, np.uint8)
    try:
        pixels: NDArray[Any] | None = cv2.imdecode(data, flags[color]) if data.size else None
    except cv2.error:
        # Such as one that announces more pixels than OpenCV allows.
        return None
    return pixels


def write_png(path: Path, picture: Pixels) -> None:
    """Write a picture (H, W) gray or (H, W, 3) BGR.

    Raises:
        MissingExtraError: OpenCV is not installed.
        OutputError: `path` cannot be written.
    """
    _, data = opencv("writing a picture").imencode(".png", picture)
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
