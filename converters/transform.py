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

from converters.errors import CaffeError
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

            self.mean = read_mean(find(param.mean_file))

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

    def __call__(self, images: Images, random: np.random.Generator) -> NDArray[np.float32]:
        """Transform images (N, C, H, W), or a list of (C, H, W) that may differ where cropped."""
        first = images[0].shape
        for image in () if isinstance(images, np.ndarray) else images:
            if image.shape[0] != first[0]:
                raise self.fail(
                    f"images have {first[0]} and {image.shape[0]} channels in one batch"
                )
            self._check(image.shape)
        self._check(first)
        crop = self.param.crop_size
        if not crop and not isinstance(images, np.ndarray):
            images = np.stack(images)
        pixels, means = self._cropped(images, crop, random) if crop else (images, self.mean)
        result = np.asarray(pixels).astype(np.float32)
        if means is not None:
            result -= means
        if self.param.mean_value:
            result -= np.array(self.param.mean_value, np.float32).reshape(-1, 1, 1)
        if self.param.scale != 1:
            result *= np.float32(self.param.scale)
        if self.param.mirror:
            flipped = random.integers(0, 2, len(result)).astype(bool)
            result[flipped] = result[flipped, :, :, ::-1]
        return result

    def _cropped(
        self, images: Images, crop: int, random: np.random.Generator
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """The crops, and the mean at the same places."""
        count = len(images)
        sizes = np.array([image.shape[1:] for image in images])
        room = sizes - crop
        corners = random.integers(0, room + 1) if self.train else room // 2
        if isinstance(images, np.ndarray) and not self.train:
            (top, left), window = corners[0], slice(None)
            y, x = slice(top, top + crop), slice(left, left + crop)
            return images[window, :, y, x], None if self.mean is None else self.mean[:, y, x]
        out = np.empty((count, images[0].shape[0], crop, crop), images[0].dtype)
        means = None if self.mean is None else np.empty(out.shape, np.float32)
        for index, (top, left) in enumerate(corners):
            out[index] = images[index][:, top : top + crop, left : left + crop]
            if means is not None and self.mean is not None:
                means[index] = self.mean[:, top : top + crop, left : left + crop]
        return out, means
