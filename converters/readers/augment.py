"""What SSD's data layer does to an image and its boxes before they are transformed as all images.

An image is distorted in its colours, laid on a larger canvas, cut to one of the windows that the
batch samplers draw, and resized, in this order. `converters.readers.boxes` has the boxes'
arithmetic. Source: weiliu89/caffe ssd layers/annotated_data_layer.cpp, data_transformer.cpp,
util/im_transforms.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.proto import caffe_pb2 as pb
from converters.readers import boxes as geometry
from converters.readers.boxes import Size
from converters.readers.transform import Fail
from converters.records.annotated import Boxes
from converters.records.images import LARGEST_IMAGE, Pixels, opencv

_BORDERS = {
    pb.ResizeParameter.CONSTANT: "BORDER_CONSTANT",
    pb.ResizeParameter.MIRRORED: "BORDER_REFLECT_101",
    pb.ResizeParameter.REPEAT_NEAREST: "BORDER_REPLICATE",
}


class Picture(NamedTuple):
    """An image (H, W, C) uint8 and the boxes on it."""

    pixels: Pixels
    boxes: Boxes

    @property
    def size(self) -> Size:
        """Of the image."""
        return Size(*self.pixels.shape[:2])


class Augmentation:
    """The random changes of one data layer, and its resizing.

    Args:
        fail: makes the error of the layer from a message.
    """

    def __init__(
        self,
        param: pb.TransformationParameter,
        samplers: Sequence[pb.BatchSampler],
        fail: Fail,
    ) -> None:
        self.param = param
        self.samplers = list(samplers)
        self.fail = fail
        self._check()

    def _check(self) -> None:
        param = self.param
        if param.HasField("resize_param"):
            height, width = param.resize_param.height, param.resize_param.width
            if not height or not width or height * width > LARGEST_IMAGE:
                raise self.fail(
                    f"resize_param height {height}, width {width}: both must be positive, and "
                    f"{LARGEST_IMAGE} pixels are the most"
                )
        if param.HasField("expand_param"):
            if not param.expand_param.max_expand_ratio > 1:
                raise self.fail(
                    f"expand_param max_expand_ratio {param.expand_param.max_expand_ratio:g} must "
                    "be above 1"
                )
            if param.HasField("mean_file"):
                raise self.fail(
                    "expand_param with mean_file: the canvas has a size of its own, and the mean "
                    "image another; give mean_value"
                )
        for name in ("contrast", "saturation"):
            distort = param.distort_param
            least, most = (getattr(distort, f"{name}_{end}") for end in ("lower", "upper"))
            if getattr(distort, f"{name}_prob") and not 0 <= least <= most:
                raise self.fail(
                    f"distort_param {name}_lower {least:g}, {name}_upper {most:g}: they must be 0 "
                    "or more, and rising"
                )
        for name in ("brightness", "hue"):
            delta = getattr(param.distort_param, f"{name}_delta")
            if getattr(param.distort_param, f"{name}_prob") and delta < 0:
                raise self.fail(f"distort_param {name}_delta {delta:g} must not be negative")
        for number, one in enumerate(self.samplers):
            sampler, place = one.sampler, f"batch_sampler {number}: sampler"
            if not 0 < sampler.min_scale <= sampler.max_scale <= 1:
                raise self.fail(
                    f"{place} min_scale {sampler.min_scale:g}, max_scale {sampler.max_scale:g}: "
                    "they must be above 0, at most 1, and rising"
                )
            least, most = sampler.min_aspect_ratio, sampler.max_aspect_ratio
            if not 0 < least <= most < np.inf:
                raise self.fail(
                    f"{place} min_aspect_ratio {least:g}, max_aspect_ratio {most:g}: they must be "
                    "above 0, and rising"
                )

    # The whole -----------------------------------------------------------------------------------

    def __call__(self, picture: Picture, random: np.random.Generator) -> Picture:
        """The picture, changed at random, and resized (its boxes are not: see `placed`)."""
        if self.param.HasField("distort_param"):
            picture = picture._replace(pixels=self.distorted(picture.pixels, random))
        if self.param.HasField("expand_param"):
            picture = self.expanded(picture, random)
        if self.samplers:
            windows = geometry.samples(self.samplers, picture.boxes.corners, random)
            if len(windows):
                picture = self.cut(picture, windows[random.integers(len(windows))])
        return picture

    def resize(self, pixels: Pixels, random: np.random.Generator) -> Pixels:
        """The image resized as `resize_param` says; the interpolation is any of those it names."""
        param = self.param.resize_param
        if not self.param.HasField("resize_param"):
            return pixels
        cv2 = opencv()
        modes = list(param.interp_mode) or [pb.ResizeParameter.LINEAR]
        mode = pb.ResizeParameter.Interp_mode.Name(modes[random.integers(len(modes))])
        interpolation = getattr(cv2, f"INTER_{mode}")
        size = Size(*pixels.shape[:2])
        whole = geometry.resized(param, size)
        padded = param.resize_mode == pb.ResizeParameter.FIT_LARGE_SIZE_AND_PAD
        inner = geometry.fitted(param, size) if padded else whole
        if not all(inner) or inner.height * inner.width > LARGEST_IMAGE:
            raise self.fail(
                f"an image of {size.height}×{size.width} becomes {inner.height}×{inner.width} by "
                f"{pb.ResizeParameter.Resize_mode.Name(param.resize_mode)}"
            )
        result = cv2.resize(pixels, inner[::-1], interpolation=interpolation)
        if inner != whole:
            above, before = (whole.height - inner.height) // 2, (whole.width - inner.width) // 2
            below, behind = whole.height - inner.height - above, whole.width - inner.width - before
            border = getattr(cv2, _BORDERS[param.pad_mode])
            value = self._padding(pixels.shape[2])
            result = cv2.copyMakeBorder(result, above, below, before, behind, border, value=value)
        return _with_channels(result)

    def _padding(self, channels: int) -> list[float]:
        values = list(self.param.resize_param.pad_value) or [0.0]
        if len(values) not in (1, channels):
            raise self.fail(
                f"resize_param has {len(values)} pad_value for {channels} channels; give one, or "
                "one each"
            )
        return values * channels if len(values) == 1 else values

    def placed(
        self, boxes: Boxes, image: Size, window: NDArray[np.float32], flipped: bool
    ) -> Boxes:
        """The boxes of an image in parts of what the net is given.

        The image was resized, cut to `window` (4,), in parts of the resized image, and mirrored.
        """
        param = self.param.resize_param
        corners = boxes.corners
        if self.param.HasField("resize_param"):
            corners = geometry.on_resized(param, image, corners)
        seen = self._seen(replace(boxes, corners=corners), window)
        corners = seen.corners
        if flipped:
            corners = corners[:, [2, 1, 0, 3]]
            corners[:, [0, 2]] = 1 - corners[:, [0, 2]]
        return replace(seen, corners=geometry.scaled_up(param, image, window, corners))

    def _seen(self, boxes: Boxes, window: NDArray[np.float32]) -> Boxes:
        """The boxes that a window keeps, in parts of it."""
        corners, kept = geometry.within(window, boxes.corners)
        if self.param.HasField("emit_constraint"):
            kept &= geometry.emitted(self.param.emit_constraint, window, boxes.corners)
        return boxes.chosen(kept, corners)

    # Its steps -----------------------------------------------------------------------------------

    def cut(self, picture: Picture, window: NDArray[np.float32]) -> Picture:
        """The picture's part in a window (4,)."""
        window = geometry.clipped(window)
        height, width = picture.size
        edges = window * np.array([width, height, width, height], np.float32)
        left, top = edges[:2].astype(int).tolist()
        across, down = np.maximum((edges[2:] - edges[:2]).astype(int), 1).tolist()
        pixels = picture.pixels[top : top + down, left : left + across]
        return Picture(pixels, self._seen(picture.boxes, window))

    def expanded(self, picture: Picture, random: np.random.Generator) -> Picture:
        """The picture somewhere on a canvas that is up to max_expand_ratio times as large.

        The canvas has the colour of mean_value, else it is black.
        """
        param = self.param.expand_param
        if random.uniform() > param.prob or abs(param.max_expand_ratio - 1) < 1e-2:
            return picture
        ratio = np.float32(random.uniform(1, param.max_expand_ratio))
        (height, width), channels = picture.size, picture.pixels.shape[2]
        down, across = int(np.float32(height) * ratio), int(np.float32(width) * ratio)
        if down * across > LARGEST_IMAGE:
            raise self.fail(
                f"max_expand_ratio {param.max_expand_ratio:g} makes an image of {height}×{width} "
                f"one of {down}×{across}; {LARGEST_IMAGE} pixels are the most"
            )
        # As the fork does: a whole number below the difference, which itself is next to never.
        top = int(np.floor(random.uniform(0, down - height)))
        left = int(np.floor(random.uniform(0, across - width)))
        values = list(self.param.mean_value) or [0.0]
        if len(values) not in (1, channels):
            raise self.fail(f"has {len(values)} mean_value for {channels} channels")
        colour = np.rint(values * (channels if len(values) == 1 else 1)).clip(0, 255).tolist()
        below, behind = down - height - top, across - width - left
        cv2, pixels = opencv(), np.ascontiguousarray(picture.pixels)
        canvas = cv2.copyMakeBorder(
            pixels, top, below, left, behind, cv2.BORDER_CONSTANT, value=colour
        )
        canvas = _with_channels(canvas)
        window = np.array([-left, -top, across - left, down - top], np.float32)
        window /= np.array([width, height, width, height], np.float32)
        return Picture(canvas, self._seen(picture.boxes, window))

    def distorted(self, pixels: Pixels, random: np.random.Generator) -> Pixels:
        """Brightness, contrast, saturation and hue changed, the channels put in another order.

        Contrast comes before or after saturation and hue, by the toss of a coin.
        """
        param = self.param.distort_param
        early = random.uniform() > 0.5
        pixels = self._brightness(pixels, random)
        if early:
            pixels = self._contrast(pixels, random)
        if random.uniform() < param.saturation_prob:
            factor = random.uniform(param.saturation_lower, param.saturation_upper)
            pixels = self._in_hsv(pixels, 1, factor, 0)
        if random.uniform() < param.hue_prob:
            pixels = self._in_hsv(pixels, 0, 1, random.uniform(-param.hue_delta, param.hue_delta))
        if not early:
            pixels = self._contrast(pixels, random)
        if random.uniform() < param.random_order_prob:
            self._require_colour(pixels)
            pixels = pixels[..., random.permutation(3)]
        return pixels

    def _brightness(self, pixels: Pixels, random: np.random.Generator) -> Pixels:
        param = self.param.distort_param
        if random.uniform() >= param.brightness_prob:
            return pixels
        return _adjusted(pixels, 1, random.uniform(-param.brightness_delta, param.brightness_delta))

    def _contrast(self, pixels: Pixels, random: np.random.Generator) -> Pixels:
        param = self.param.distort_param
        if random.uniform() >= param.contrast_prob:
            return pixels
        factor = random.uniform(param.contrast_lower, param.contrast_upper)
        return _adjusted(pixels, factor, 0) if abs(factor - 1) > 1e-3 else pixels

    def _in_hsv(self, pixels: Pixels, channel: int, factor: float, delta: float) -> Pixels:
        """With hue (channel 0, 0 to 180) or saturation (1) times `factor` plus `delta`."""
        self._require_colour(pixels)
        cv2 = opencv()
        hsv = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2HSV)
        tables = np.arange(256, dtype=np.uint8)[:, np.newaxis].repeat(3, axis=1)
        tables[:, channel] = _table(factor, delta)
        hsv = cv2.LUT(hsv, tables[np.newaxis])
        result: Pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return result

    def _require_colour(self, pixels: Pixels) -> None:
        if pixels.shape[2] != 3:
            raise self.fail(
                f"distort_param: saturation, hue and the order of channels need images of 3 "
                f"channels, not {pixels.shape[2]}"
            )


def _adjusted(pixels: Pixels, factor: float, delta: float) -> Pixels:
    """pixels · factor + delta, rounded and kept within 0 … 255."""
    return _with_channels(opencv().LUT(np.ascontiguousarray(pixels), _table(factor, delta)))


def _table(factor: float, delta: float) -> Pixels:
    """What each of 0 … 255 becomes."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(delta)
    table: Pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    return table


def _with_channels(pixels: NDArray[Any]) -> Pixels:
    """(H, W, C) of what OpenCV gives, which drops the axis of one channel."""
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
