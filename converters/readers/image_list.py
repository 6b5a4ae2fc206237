"""ImageData: image files named by a list; and what it shares with `window`, the files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.environment import find_file
from converters.errors import DataError
from converters.formats.input_files import read_file
from converters.proto import caffe_pb2 as pb
from converters.readers.reader import READERS, Reader, Shape
from converters.records.image_list import read_image_list
from converters.records.images import LARGEST_IMAGE, Pixels, decode, opencv, planes
from converters.reporting import SILENT, Reporter

_LONG = 10_000
"""Files whose absence shows in a moment: of more, a bar tells how far the search is."""
_SHOWN = 8


class ImageFileReader(Reader):
    """A reader of image files, whose names start with the layer's `root_folder` as it stands.

    `listed` is the file that names them.
    """

    listed: Path

    def image_file(self, name: str) -> Path:
        """The file that a name of the list means, its root folder included."""
        return find_file(self.find(name), self.listed.parent)

    def require_files(self, names: Sequence[str], root: str, reporter: Reporter) -> None:
        """Raise one DataError for all the names that no file has."""
        shown = reporter if len(names) > _LONG else SILENT
        looked_at = shown.progress(names, f"looking for the files of {self.listed}", len(names))
        absent = [name for name in looked_at if not self.image_file(root + name).exists()]
        if not absent:
            return
        first = self.image_file(root + absent[0])
        if len(absent) == len(names):
            raise self.fail(
                f"none of the {len(names)} files of {self.listed} exists, {first} to begin with: "
                f'is root_folder "{root}" right?'
            )
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise self.fail(
            f"{len(absent)} of the {len(names)} files of {self.listed} do not exist: "
            f"{', '.join(str(self.image_file(root + name)) for name in absent[:_SHOWN])}{more}"
        )

    def content(self, name: str) -> bytes:
        """The bytes of an image file."""
        path = self.image_file(name)
        try:
            return read_file(path)
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
            reason = getattr(error, "strerror", None) or error
            raise self.fail(f"image {path} cannot be read: {reason}") from error

    def decode(self, name: str, content: bytes, color: bool) -> NDArray[np.uint8]:
        """The pixels (H, W, 3) BGR or (H, W) of an image file's bytes."""
        try:
            pixels = decode(content, color)
        except DataError as error:
            raise self.fail(f"image {self.image_file(name)} {error}") from error
        if pixels is None:
            raise self.fail(f"image {self.image_file(name)} cannot be decoded")
        return pixels


@READERS.add("ImageData")
class ImageListReader(ImageFileReader):
    """Images named in a list of `NAME LABEL` lines. Source: layers/image_data_layer.cpp."""

    lines: list[tuple[str, Any]]

    @property
    def settings(self) -> pb.ImageDataParameter | pb.DenseImageDataParameter:
        """The message that says which list is read, and how."""
        return self.param.image_data_param

    def listed_lines(self) -> list[tuple[str, Any]]:
        """Name and label of each line; a blank line has no name (Caffe stops at its turn).

        Raises:
            DataError: the list cannot be read, or has a line that is none.
        """
        return [(os.fsdecode(name), label) for name, label in zip(*read_image_list(self.listed))]

    def open(self) -> None:
        param = self.settings
        self.batch_size = self.positive("batch_size", param.batch_size)
        if param.new_height * param.new_width > LARGEST_IMAGE:
            raise self.fail(
                f"new_height {param.new_height} × new_width {param.new_width} are "
                f"{param.new_height * param.new_width} pixels; {LARGEST_IMAGE} are the most"
            )
        if (param.new_height == 0) != (param.new_width == 0):
            raise self.fail("give both new_height and new_width, or neither")
        self.listed = self.find(param.source)
        try:
            self.lines = [line for line in self.listed_lines() if line[0]]
        except DataError as error:
            raise self.fail(f"list {error}") from error
        if not self.lines:
            raise self.fail(f"list {param.source} is empty")
        if param.rand_skip:
            self.position = int(np.random.default_rng(self.seed).integers(param.rand_skip))
            if self.position >= len(self.lines):
                raise self.fail(
                    f"rand_skip {param.rand_skip} may skip all {len(self.lines)} lines of "
                    f"{param.source}"
                )
        self.reopen()
        self._advance(self.share.first(self.batch_size))

    @property
    def items(self) -> int:
        return len(self.lines)

    def check(self, reporter: Reporter = SILENT) -> None:
        names = [name for name, _ in self.lines]
        self.require_files(names, self.settings.root_folder, reporter)

    def _advance(self, lines: int) -> None:
        """Step on; each round of the list has an order of its own."""
        rounds, self.position = divmod(self.position + lines, len(self.lines))
        if rounds:
            self.epoch += rounds
            self.reopen()

    def reopen(self) -> None:
        count = len(self.lines)
        if self.position >= count:
            raise ValueError(f"line {self.position} of {count}")
        shuffled = self.settings.shuffle
        self._order = self.random(1).permutation(count) if shuffled else np.arange(count)

    def shapes(self) -> list[Shape]:
        name = self.lines[self._order[self.position]][0]
        if not self.image_file(self.settings.root_folder + name).exists():
            self.check()
        image = planes(self.image(name))
        return [(self.batch_size, *self.transform.shape(image.shape)), (self.batch_size,)]

    def image(
        self, name: str, color: bool | None = None, nearest: bool = False, divided: int = 1
    ) -> Pixels:
        """The pixels (H, W, 3) or (H, W) of a file of the list, of the size that is wanted.

        `color` is what the settings say unless given; `nearest` takes pixels and no means of them;
        a size in the settings is `divided`.
        """
        param = self.settings
        path = param.root_folder + name
        color = param.is_color if color is None else color
        pixels = self.decode(path, self.content(path), color)
        if param.new_height:
            size, cv2 = (param.new_width // divided, param.new_height // divided), opencv()
            way = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
            pixels = cv2.resize(pixels, size, interpolation=way)
        return pixels

    def read(self) -> list[NDArray[np.float32]]:
        images, labels = [], []
        for _ in range(self.batch_size):
            name, label = self.lines[self._order[self.position]]
            images.append(planes(self.image(name)))
            labels.append(label)
            self._advance(self.share.step)
        self._advance(self.share.gap(self.batch_size))
        if not self.transform.param.crop_size and len({image.shape for image in images}) > 1:
            raise self.fail("images of different sizes need new_height and new_width, or crop_size")
        return [self.transform(images, self.chance()), np.array(labels, np.float32)]
