"""Mean images as Caffe's compute_image_mean makes them, and the files that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.formats.blob import encode_blob, read_blob
from converters.formats.whole_files import written_beside
from converters.formats.wire import write_chunks
from converters.records.datum import describe

_EXACT = 1 << 24  # below it, float32 sums of bytes are exact in any order


class MeanImage:
    """Sums images in record order, in float32 as Caffe does: the result is equal bit for bit."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: NDArray[np.float32] | None = None
        self._exact = True

    def add(self, images: NDArray[Any]) -> None:
        """Add `images` (N, C, H, W).

        Raises:
            DataError: they have another shape than the images before.
        """
        if self._sum is None:
            self._sum = np.zeros(images.shape[1:], np.float32)
        if images.shape[1:] != self._sum.shape:
            raise DataError(
                f"an image has shape {describe(images[0])}, those before it "
                f"{describe(self._sum.astype(np.uint8))}; a mean needs one shape"
            )
        self.count += len(images)
        self._exact &= images.dtype == np.uint8 and self.count * 255 < _EXACT
        if self._exact:
            self._sum += images.sum(axis=0, dtype=np.float32)
        else:
            for image in images:
                self._sum += image

    def image(self) -> NDArray[np.float32]:
        """The mean image (C, H, W).

        Raises:
            DataError: nothing was added.
        """
        if self._sum is None:
            raise DataError("no images to take the mean of")
        return self._sum / np.float32(self.count)

    def channels(self) -> NDArray[np.float64]:
        """The mean of each channel (C,)."""
        mean: NDArray[np.float64] = self.image().mean(axis=(1, 2), dtype=np.float64)
        return mean


def mean_of(batches: Iterable[NDArray[Any]]) -> MeanImage:
    """The mean of all images in `batches`, each (N, C, H, W)."""
    mean = MeanImage()
    for images in batches:
        mean.add(images)
    return mean


def write_mean(path: str | Path, mean: NDArray[np.float32]) -> None:
    """Write a mean image (C, H, W) as Caffe does: a BlobProto with num 1.

    Raises:
        OutputError: `path` cannot be written.
    """
    with written_beside(path) as partial, open(partial, "wb") as file:
        write_chunks(file, encode_blob(mean, legacy=True))


def read_mean(path: str | Path) -> NDArray[np.float32]:
    """The mean image (C, H, W) in a `.binaryproto` file.

    Raises:
        DataError: no such file, or it holds no mean image.
    """
    # Looked at first: a pipe would wait for somebody to write, and a device has no size.
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{path}: no regular file, so no mean file")
    array = read_blob(path, DataError, "mean file (a BlobProto)")
    shape = array.shape[-3:]
    if len(shape) < 3 or array.size == 0 or array.size != np.prod(shape):
        raise DataError(
            f"{path}: {array.size} values of shape {array.shape}; a mean file holds one image"
        )
    return array.reshape(shape)
