"""WindowData: windows of images, resized to one size, background first and then foreground.

A window file lists images and the windows in them:

    # IMAGE_INDEX
    PATH
    CHANNELS
    HEIGHT
    WIDTH
    NUMBER_OF_WINDOWS
    CLASS OVERLAP X1 Y1 X2 Y2        (once for each window, corners included)

A window whose overlap reaches `fg_threshold` is foreground and keeps its class, one below
`bg_threshold` is background with label 0, others are left out. Source: Caffe
layers/window_data_layer.cpp.
"""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.formats.input_files import byte_order_mark, read_file
from converters.readers.image_list import ImageFileReader
from converters.readers.reader import READERS, Shape
from converters.records.image_list import shown, whole_number
from converters.records.images import opencv, planes
from converters.reporting import SILENT, Reporter

Value = TypeVar("Value")
_CHANNELS = 3  # images are always decoded in colour


class Window(NamedTuple):
    """A window: its image by position in the file, its corners in pixels, its line in the file."""

    image: int
    label: int
    x1: int
    y1: int
    x2: int
    y2: int
    line: int


class WindowFile(NamedTuple):
    """Image paths, and the windows as rows of `Window`'s fields (N, 7) int32."""

    images: list[str]
    background: NDArray[np.int32]
    foreground: NDArray[np.int32]


class Settings(NamedTuple):
    """What the place of a window depends on besides the window."""

    crop: int
    context_pad: int
    square: bool


class Placement(NamedTuple):
    """The region of the image that is resized to height × width and put at (top, left)."""

    x1: int
    y1: int
    x2: int
    y2: int
    height: int
    width: int
    top: int
    left: int


def read_windows(path: Path, fg_threshold: float, bg_threshold: float) -> WindowFile:
    """Read a window file.

    Raises:
        DataError: the file cannot be read, ends within an image's entry, or holds a value that
            Caffe would refuse or misread; names file and line.
    """
    images: list[str] = []
    background, foreground = array("i"), array("i")
    try:
        words = _Words(path, read_file(path))
        while words.more():
            image = words.take("an image index", whole_number)
            images.append(words.take("an image path", os.fsdecode))
            channels = words.take("a number of channels", whole_number)
            if channels != _CHANNELS:
                raise words.fail(f"{channels} channels; images are read in colour, {_CHANNELS}")
            for what in ("a height", "a width"):
                words.take(what, whole_number)
            for _ in range(words.take("a number of windows", _count)):
                label = words.take("a class", whole_number)
                overlap = np.float32(words.take("an overlap", _fraction))
                box = [words.take("a corner", whole_number) for _ in range(4)]
                if overlap >= fg_threshold:
                    if label < 1:
                        raise words.fail(f"class {label} of a foreground window: 1 is the least")
                    foreground.extend((image, label, *box, words.line))
                elif overlap < bg_threshold:
                    background.extend((image, 0, *box, words.line))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    found = WindowFile(images, _rows(background), _rows(foreground))
    for windows in (found.background, found.foreground):
        wrong = (windows[:, 0] < 0) | (windows[:, 0] >= len(images))
        if wrong.any():
            window = Window(*windows[wrong.argmax()].tolist())
            raise DataError(
                f"{path}:{window.line}: image index {window.image}, but there are {len(images)} "
                "images, counted from 0"
            )
    return found


class _Words:
    """The words of a window file in turn, and the line of the last one."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.line = 1
        self._path = path
        if mark := byte_order_mark(content):
            raise self.fail(f"begins with {mark}")
        rows = enumerate(io.BytesIO(content), 1)
        self._words = ((number, word) for number, row in rows for word in row.split())

    def more(self) -> bool:
        """Step over the `#` of the next image; False at the end of the file."""
        self.line, word = next(self._words, (self.line, b""))
        if word not in (b"", b"#"):
            raise self.fail(f"{shown(word)} where the # of an image is expected")
        return bool(word)

    def take(self, what: str, kind: Callable[[bytes], Value]) -> Value:
        """The next word as a `kind`; `what` names it in the error."""
        self.line, word = next(self._words, (self.line, b""))
        try:
            if word:
                return kind(word)
        except ValueError as error:
            raise self.fail(f"{shown(word)} where {what} is expected ({error})") from error
        raise self.fail(f"the file ends where {what} is expected")

    def fail(self, message: str) -> DataError:
        """An error that names the file and the line."""
        return DataError(f"{self._path}:{self.line}: {message}")


def _fraction(word: bytes) -> float:
    value = float(word)
    if value != value:
        raise ValueError("not a number")
    return value


def _count(word: bytes) -> int:
    value = whole_number(word)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value


def _rows(windows: array[int]) -> NDArray[np.int32]:
    return np.frombuffer(windows, np.int32).reshape(-1, len(Window._fields))


def place(
    window: Window, height: int, width: int, settings: Settings, mirrored: bool
) -> Placement | None:
    """Where a window of an image (height, width) is read and written; None if it cannot be.

    With `context_pad` the region grows so that this many pixels surround the window after resizing;
    with `square` its shorter side grows to the longer one first. What of it lies outside the image
    stays empty. All in float32 and rounded half away from zero, as Caffe does.
    """
    crop, pad = settings.crop, settings.context_pad
    x1, y1, x2, y2 = window[2:6]
    if not pad and not settings.square:
        inside = 0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height
        return Placement(x1, y1, x2, y2, crop, crop, 0, 0) if inside else None
    context_scale = np.float32(crop) / np.float32(crop - 2 * pad)
    half_height = np.float32((y2 - y1 + 1) / 2)
    half_width = np.float32((x2 - x1 + 1) / 2)
    if settings.square:
        reach_y = reach_x = max(half_height, half_width)
    else:
        reach_y, reach_x = half_height, half_width
    first_x, last_x = _reach(np.float32(x1) + half_width, reach_x * context_scale)
    first_y, last_y = _reach(np.float32(y1) + half_height, reach_y * context_scale)
    column = _resized(first_x, last_x, width, crop, mirrored)
    row = _resized(first_y, last_y, height, crop, False)
    if column is None or row is None:
        return None
    return Placement(
        column.first, row.first, column.last, row.last, row.size, column.size, row.at, column.at
    )


class _Axis(NamedTuple):
    """One axis of a placement: the image's first and last pixel, the size and place they get."""

    first: int
    last: int
    size: int
    at: int


def _reach(center: np.float32, reach: np.float32) -> tuple[int, int]:
    return _round(center - reach), _round(center + reach)


def _resized(first: int, last: int, length: int, crop: int, mirrored: bool) -> _Axis | None:
    """The part of first … last that lies in an image of `length` pixels, scaled to `crop`."""
    if last < first:
        return None
    scale = np.float32(crop) / np.float32(last - first + 1)
    before, after = max(0, -first), max(0, last - length + 1)
    first, last = first + before, last - after
    # Mirroring moves what is missing at the end to the beginning.
    at = _round(np.float32(after if mirrored else before) * scale)
    size = min(_round(np.float32(last - first + 1) * scale), crop - at)
    return _Axis(first, last, size, at) if size > 0 else None


def _round(value: np.float32) -> int:
    """Half away from zero."""
    return int(np.copysign(np.floor(abs(np.float64(value)) + 0.5), value))


@READERS.add("WindowData")
class WindowReader(ImageFileReader):
    """Random windows, `fg_fraction` of each batch foreground, at its end."""

    def open(self) -> None:
        param = self.param.window_data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        self.settings = Settings(
            self.positive("transform_param.crop_size", self.transform.param.crop_size),
            param.context_pad,
            param.crop_mode == "square",
        )
        if self.settings.crop <= 2 * param.context_pad:
            raise self.fail(
                f"context_pad {param.context_pad} leaves nothing of crop_size {self.settings.crop}"
            )
        if not 0 <= param.fg_fraction <= 1:
            raise self.fail(f"fg_fraction {param.fg_fraction:g} must lie between 0 and 1")
        self._foreground = int(np.float32(self.batch_size) * np.float32(param.fg_fraction))
        self._mean = self._means()
        self._path = self.listed = self.find(param.source)
        try:
            self.file = read_windows(self._path, param.fg_threshold, param.bg_threshold)
        except DataError as error:
            raise self.fail(str(error)) from error
        lacking = self._foreground > 0 and not len(self.file.foreground)
        if lacking or (self._foreground < self.batch_size and not len(self.file.background)):
            raise self.fail(
                f"{self._path} has {len(self.file.foreground)} foreground windows (overlap "
                f"{param.fg_threshold:g} or more) and {len(self.file.background)} background "
                f"windows (below {param.bg_threshold:g}); a batch takes {self._foreground} and "
                f"{self.batch_size - self._foreground}"
            )
        self._kept: dict[int, bytes] = {}

    def check(self, reporter: Reporter = SILENT) -> None:
        root = self.param.window_data_param.root_folder
        self.require_files(self.file.images, root, reporter)

    def _means(self) -> NDArray[np.float32] | None:
        """What is subtracted, (3, crop, crop) or (C, 1, 1)."""
        crop, mean = self.settings.crop, self.transform.mean
        values = self.transform.param.mean_value
        if len(values) not in (0, 1, _CHANNELS):
            raise self.fail(f"has {len(values)} mean_value; give one, or {_CHANNELS}")
        if mean is None:
            return np.array(values, np.float32).reshape(-1, 1, 1) if values else None
        # As Caffe: the width's margin is that of both axes.
        margin = (mean.shape[2] - crop) // 2
        if mean.shape[0] != _CHANNELS or margin < 0 or mean.shape[1] < margin + crop:
            raise self.fail(
                f"mean_file {self.transform.param.mean_file} has shape {mean.shape}, whose "
                f"middle is no {_CHANNELS}×{crop}×{crop}"
            )
        return mean[:, margin : margin + crop, margin : margin + crop]

    def shapes(self) -> list[Shape]:
        crop = self.settings.crop
        return [(self.batch_size, _CHANNELS, crop, crop), (self.batch_size,)]

    def read(self) -> list[NDArray[np.float32]]:
        random = self.random(0)
        chosen = [
            Window(*row)
            for windows, count in (
                (self.file.background, self.batch_size - self._foreground),
                (self.file.foreground, self._foreground),
            )
            if count
            for row in windows[random.integers(len(windows), size=count)].tolist()
        ]
        flipped = random.integers(1 + self.transform.param.mirror, size=self.batch_size)
        data = np.zeros(self.shapes()[0], np.float32)
        for window, top, mirrored in zip(chosen, data, flipped.tolist()):
            self._fill(window, top, bool(mirrored))
        return [data, np.array([window.label for window in chosen], np.float32)]

    def _fill(self, window: Window, top: NDArray[np.float32], mirrored: bool) -> None:
        """Write a window's values into `top` (3, crop, crop), which is zero."""
        name = self.param.window_data_param.root_folder + self.file.images[window.image]
        content = self._kept.get(window.image) or self.content(name)
        image = self.decode(name, content, color=True)
        if self.param.window_data_param.cache_images:
            self._kept[window.image] = content
        placed = place(window, image.shape[0], image.shape[1], self.settings, mirrored)
        if placed is None:
            raise self.fail(
                f"{self._path}:{window.line}: window ({window.x1}, {window.y1}) to ({window.x2}, "
                f"{window.y2}) does not lie in {name}, {image.shape[0]}×{image.shape[1]}"
            )
        region = image[placed.y1 : placed.y2 + 1, placed.x1 : placed.x2 + 1]
        pixels = planes(opencv().resize(region, (placed.width, placed.height)))
        inner = np.s_[
            :, placed.top : placed.top + placed.height, placed.left : placed.left + placed.width
        ]
        values = pixels[:, :, ::-1] if mirrored else pixels
        means = self._mean
        if means is not None and means.shape[1] > 1:
            means = means[inner]
        scale = np.float32(self.param.window_data_param.scale)
        top[inner] = (values.astype(np.float32) - (0 if means is None else means)) * scale
