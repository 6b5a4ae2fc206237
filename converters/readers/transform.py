"""Caffe's data transformation of whole batches: crop, mirror, mean, scale.

y = (pixel - mean) · scale, in float32. A random crop in TRAIN, the centre in TEST; mirror by the
toss of a coin in both phases; a mean file is read at the uncropped position. Source: Caffe
data_transformer.cpp. `converters.readers` feeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.errors import CaffeError, DataError
from converters.proto import caffe_pb2 as pb

Images = NDArray[Any] | Sequence[NDArray[Any]]
Fail = Callable[[str], CaffeError]

LARGEST_TABLE = 16 << 20
"""Bytes: the windows of a mean image that take more are cut out for each batch."""


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
        self.crop = _crop(param, fail)
        self.mean: NDArray[np.float32] | None = None
        self._mean_windows: NDArray[np.float32] | None = None
        if param.HasField("mean_file"):
            from converters.records.mean import read_mean

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
        self.check(image)
        return (image[0], *self.crop) if self.crop else image

    def check(self, image: tuple[int, ...]) -> None:
        """Refuse images (C, H, W) of a shape that crop, mean or mean values do not fit."""
        channels, height, width = image
        values = len(self.param.mean_value)
        if self.crop and (self.crop[0] > height or self.crop[1] > width):
            size = self.param.crop_size or "{}×{}".format(*self.crop)
            raise self.fail(f"crop_size {size} is larger than the image {height}×{width}")
        if values not in (0, 1, channels):
            raise self.fail(
                f"has {values} mean_value for {channels} channels; give one, or one each"
            )
        if self.mean is not None and self.mean.shape != image:
            raise self.fail(
                f"mean_file {self.param.mean_file} has shape {self.mean.shape}, the images {image}"
            )

    def _check_alike(self, image: tuple[int, ...], first: tuple[int, ...]) -> None:
        fixed = 1 if self.crop else 3
        if image[:fixed] != first[:fixed]:
            raise self.fail(
                f"a batch has images of shape {first} and {image}; "
                + ("crop_size fits sizes, not channels" if fixed == 1 else "they need crop_size")
            )

    @property
    def draws(self) -> bool:
        """Whether anything is left to chance; without, no generator is needed."""
        return self.param.mirror or bool(self.train and self.crop)

    def __call__(self, images: Images, random: np.random.Generator | None) -> NDArray[np.float32]:
        """Transform images (N, C, H, W), or a list of (C, H, W) that may differ where cropped.

        Raises:
            CaffeError: the images do not fit the crop, the mean or each other.
        """
        return self.apply(images, self.choose(images, random))

    def choose(self, images: Images, random: np.random.Generator | None) -> Places:
        """The windows of images that are to be transformed; raises as the whole."""
        for image in images[:1] if isinstance(images, np.ndarray) else images:
            self.check(image.shape)
            self._check_alike(image.shape, images[0].shape)
        return self._places(images, random)

    def apply(self, images: Images, place: Places) -> NDArray[np.float32]:
        """Transform images whose windows were chosen."""
        pixels = images if self.crop else np.asarray(images)
        means = self.mean
        if self.crop or self.param.mirror:
            pixels = _windows(pixels, place)
            _mirror(pixels, place.flipped)
            if means is not None:
                means = self._means_of(means, place)
        if means is not None and means.shape == np.shape(pixels):
            # The means are this batch's own: their memory takes the result.
            result = np.subtract(pixels, means, out=means)
        else:
            result = np.asarray(pixels).astype(np.float32)
            if means is not None:
                result -= means
            elif self.param.mean_value:
                result -= np.array(self.param.mean_value, np.float32).reshape(-1, 1, 1)
        if self.param.scale != 1:
            result *= np.float32(self.param.scale)
        return result

    def undo(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels of images (N, C, H, W) that were transformed in TEST: y / scale + mean.

        What a crop cut off stays away, and a mirrored image stays mirrored.
        """
        pixels = images / np.float32(self.param.scale or 1)
        if self.mean is not None:
            height, width = images.shape[2:]
            top, left = (self.mean.shape[1] - height) // 2, (self.mean.shape[2] - width) // 2
            pixels += self.mean[:, top : top + height, left : left + width]
        elif self.param.mean_value:
            pixels += np.array(self.param.mean_value, np.float32).reshape(-1, 1, 1)
        return pixels

    def _means_of(self, mean: NDArray[np.float32], place: Places) -> NDArray[np.float32]:
        """The mean of each window (N, C, height, width): a pixel's is that of its uncropped place.

        All windows of a small mean image, and their mirror images, are made once.
        """
        top, left, flipped, height, width = place
        if self._mean_windows is None:
            windows = np.lib.stride_tricks.sliding_window_view(mean, (height, width), axis=(1, 2))
            windows = windows.transpose(1, 2, 0, 3, 4)
            if windows.nbytes > LARGEST_TABLE:
                chosen: NDArray[np.float32] = windows[top, left]
                _mirror(chosen, flipped)
                return chosen
            self._mean_windows = np.stack([windows, windows[..., ::-1]])
        return self._mean_windows[flipped, top, left]

    def _places(self, images: Images, random: np.random.Generator | None) -> Places:
        """Where to cut the images: a random place of each in TRAIN, else its middle."""
        count = len(images)
        height, width = self.crop or images[0].shape[1:]
        unmoved = np.zeros(count, np.int64)
        if not self.crop and not self.param.mirror:
            return Places(unmoved, unmoved, unmoved, height, width)
        if isinstance(images, np.ndarray):
            heights, widths = np.array(images.shape[2:])
        else:
            heights, widths = np.array([image.shape[1:] for image in images]).T
        if self.train and self.crop:
            assert random is not None
            top = random.integers(heights - height + 1, size=count)
            left = random.integers(widths - width + 1, size=count)
        else:
            top = np.broadcast_to((heights - height) // 2, count)
            left = np.broadcast_to((widths - width) // 2, count)
        flipped = unmoved
        if self.param.mirror:
            assert random is not None
            flipped = random.integers(2, size=count)
        return Places(top, left, flipped, height, width)


def _crop(param: pb.TransformationParameter, fail: Fail) -> tuple[int, int] | None:
    """Height and width that images are cut to; None where they are not."""
    if param.crop_size:
        return param.crop_size, param.crop_size
    if (param.crop_h == 0) != (param.crop_w == 0):
        raise fail(f"crop_h {param.crop_h}, crop_w {param.crop_w}: give both, or neither")
    return (param.crop_h, param.crop_w) if param.crop_h else None


class Places(NamedTuple):
    """The windows of N images: upper left corners, 1 where mirrored (N,), and their size."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flipped: NDArray[np.int64]
    height: int
    width: int


def _windows(images: Images, place: Places) -> NDArray[Any]:
    """New images (N, C, height, width): the windows of `images`."""
    top, left, _, height, width = place
    if not isinstance(images, np.ndarray):
        return np.stack(
            [
                image[:, y : y + height, x : x + width]
                for image, y, x in zip(images, top, left, strict=True)
            ]
        )
    # All in one indexing operation: three times as fast as slice by slice.
    shape = (images.shape[1], height, width)
    views = np.lib.stride_tricks.sliding_window_view(images, shape, axis=(1, 2, 3))
    chosen: NDArray[Any] = views[np.arange(len(images)), 0, top, left]
    return chosen


def _mirror(images: NDArray[Any], flipped: NDArray[np.int64]) -> None:
    """Mirror the images (N, C, H, W) where `flipped` is 1, in place."""
    chosen = np.flatnonzero(flipped)
    if images.dtype == np.uint8 and images.shape[3] % 8 == 0:
        # Eight pixels at a time: reversed eights, read and written in opposite byte orders.
        images.view("<u8")[chosen] = images.view(">u8")[chosen, :, :, ::-1]
    else:
        images[chosen] = images[chosen, :, :, ::-1]
