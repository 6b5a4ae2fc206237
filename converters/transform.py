"""Caffe's data transformation of whole batches: crop, mirror, mean, scale.

y = (pixel - mean) · scale, in float32. A random crop in TRAIN, the centre in TEST; mirror by the
toss of a coin in both phases; a mean file is read at the uncropped position. Source: Caffe
data_transformer.cpp. `converters.readers` feeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import CaffeError, DataError
from converters.proto import caffe_pb2 as pb

Images = NDArray[Any] | Sequence[NDArray[Any]]
Fail = Callable[[str], CaffeError]


class Transform:
    """The transformation of one data layer.

    Args:
        fail: makes the error of the layer from a message.
        find: resolves a path inside the prototxt.
    """

    def __init__(
        self,
        param: pb.TransformationParameter,
        phase: str,
        fail: Fail,
        find: Callable[[str], Path],
    ) -> None:
        self.param = param
        self.train = phase == "TRAIN"
        self.fail = fail
        if param.HasField("mean_file") and param.mean_value:
            raise fail("give mean_file or mean_value, not both")
        if param.force_color and param.force_gray:
            raise fail("give force_color or force_gray, not both")
        self.mean: NDArray[np.float32] | None = None
        if param.HasField("mean_file"):
            from converters.mean import read_mean

            try:
                self.mean = read_mean(find(param.mean_file))
            except DataError as error:
                raise fail(f"mean_file {error}") from error

    @property
    def color(self) -> bool | None:
        """How to decode compressed images: True 3 planes, False one, None as they are."""
        return True if self.param.force_color else False if self.param.force_gray else None

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) after the transformation of an image (C, H, W)."""
        crop = self.param.crop_size
        self._check(image)
        return (image[0], crop, crop) if crop else image

    def _check(self, image: tuple[int, ...]) -> None:
        channels, height, width = image
        crop, values = self.param.crop_size, len(self.param.mean_value)
        if crop > min(height, width):
            raise self.fail(f"crop_size {crop} is larger than the image {height}×{width}")
        if values not in (0, 1, channels):
            raise self.fail(
                f"has {values} mean_value for {channels} channels; give one, or one each"
            )
        if self.mean is not None and self.mean.shape != image:
            raise self.fail(
                f"mean_file {self.param.mean_file} has shape {self.mean.shape}, the images {image}"
            )

    def _check_alike(self, image: tuple[int, ...], first: tuple[int, ...]) -> None:
        fixed = 1 if self.param.crop_size else 3
        if image[:fixed] != first[:fixed]:
            raise self.fail(
                f"a batch has images of shape {first} and {image}; "
                + ("crop_size fits sizes, not channels" if fixed == 1 else "they need crop_size")
            )

    def __call__(self, images: Images, random: np.random.Generator) -> NDArray[np.float32]:
        """Transform images (N, C, H, W), or a list of (C, H, W) that may differ where cropped.

        Raises:
            CaffeError: the images do not fit the crop, the mean or each other.
        """
        stacked = isinstance(images, np.ndarray)
        for image in images[:1] if stacked else images:
            self._check(image.shape)
            if image.shape[0] != images[0].shape[0]:
                raise self.fail(
                    f"images have {images[0].shape[0]} and {image.shape[0]} channels in one batch"
                )
        crop = self.param.crop_size
        if crop:
            sizes = np.array(images.shape[2:] if stacked else [x.shape[1:] for x in images])
            room = np.broadcast_to(sizes - crop, (len(images), 2))
            corners = random.integers(0, room + 1) if self.train else room // 2
            pixels = _windows(images, corners, crop)
        else:
            pixels = np.asarray(images)
        flipped = np.flatnonzero(random.integers(0, 2, len(images))) if self.param.mirror else None
        # Bytes are flipped before they become floats four times their size; with a mean image the
        # difference to it has to come first.
        if flipped is not None and self.mean is None:
            pixels = pixels if crop else pixels.copy()
            pixels[flipped] = pixels[flipped, :, :, ::-1]
        result = pixels.astype(np.float32)
        if self.mean is not None:
            means = np.broadcast_to(self.mean, (len(images), *self.mean.shape))
            result -= _windows(means, corners, crop) if crop else self.mean
            if flipped is not None:
                result[flipped] = result[flipped, :, :, ::-1]
        elif self.param.mean_value:
            result -= np.array(self.param.mean_value, np.float32).reshape(-1, 1, 1)
        if self.param.scale != 1:
            result *= np.float32(self.param.scale)
        return result


def _windows(images: Images, corners: NDArray[np.int64], size: int) -> NDArray[Any]:
    """A new array of the squares (C, size, size) whose upper left corners (N, 2) are given."""
    if isinstance(images, np.ndarray):
        squares = (images.shape[1], size, size)
        views = np.lib.stride_tricks.sliding_window_view(images, squares, axis=(1, 2, 3))
        return views[np.arange(len(images)), 0, corners[:, 0], corners[:, 1]]
    return np.stack(
        [
            image[:, top : top + size, left : left + size]
            for image, (top, left) in zip(images, corners, strict=True)
        ]
    )
