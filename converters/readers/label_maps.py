"""Images with a label for each pixel, of files that a list names in pairs.

The image and its map of labels are resized, cropped and mirrored alike; means and scale are the
image's alone.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.formats.input_files import byte_order_mark, read_file
from converters.proto import caffe_pb2 as pb
from converters.readers.image_list import ImageListReader
from converters.readers.reader import READERS, Shape
from converters.records.image_list import LARGEST_LIST
from converters.records.images import Pixels, opencv, planes
from converters.reporting import SILENT, Reporter


class Pair(NamedTuple):
    """An image (C, H, W), its labels (H, W), and its mean, which broadcasts to it, or None."""

    image: NDArray[Any]
    labels: NDArray[Any]
    mean: NDArray[np.float32] | None

    def part(self, top: int, left: int, height: int, width: int, mirrored: bool) -> Pair:
        """A window, mirrored if so; the mean of a pixel is that of its place."""
        rows, columns = slice(top, top + height), slice(left, left + width)
        back = slice(None, None, -1 if mirrored else None)
        mean = self.mean
        if mean is not None and mean.shape[1] > 1:
            mean = mean[:, rows, columns][:, :, back]
        labels = self.labels[rows, columns][:, back]
        return Pair(self.image[:, rows, columns][:, :, back], labels, mean)


class LabelMapReader(ImageListReader):
    """Pairs of an image and its labels, as two tops (N, C, H, W) and (N, 1, H, W)."""

    crop: tuple[int, int] | None
    """Height and width of what is cut out of each image."""
    centred = False
    """Whether that is the middle where the phase is TEST."""

    def open(self) -> None:
        self.crop = self.cropped()
        super().open()

    def cropped(self) -> tuple[int, int] | None:
        """What the settings say is cut out."""
        size = self.transform.param.crop_size
        return (size, size) if size else None

    def listed_lines(self) -> list[tuple[str, Any]]:
        """Names two by two, with any space between them."""
        words = self.content_of_list().split()
        if len(words) % 2:
            raise DataError(
                f"{self.listed}: {os.fsdecode(words[-1])} has no file of labels: the list names "
                "pairs of files"
            )
        names = list(map(os.fsdecode, words))
        return list(zip(names[::2], names[1::2]))

    def content_of_list(self) -> bytes:
        """The list's bytes.

        Raises:
            DataError: it cannot be read, or is no plain text.
        """
        try:
            content = read_file(self.listed, LARGEST_LIST)
        except OSError as error:
            raise DataError(f"{self.listed}: cannot be read: {error.strerror}") from error
        if mark := byte_order_mark(content):
            raise DataError(f"{self.listed}: begins with {mark}")
        return content

    def check(self, reporter: Reporter = SILENT) -> None:
        names = [name for line in self.lines for name in line]
        self.require_files(names, self.settings.root_folder, reporter)

    def shapes(self) -> list[Shape]:
        line = self.lines[self._order[self.position]]
        if not self.image_file(self.settings.root_folder + line[0]).exists():
            self.check()
        pixels = self.image(line[0])
        height, width = self.crop or pixels.shape[:2]
        channels = 3 if pixels.ndim == 3 else 1
        number = self.batch_size
        tops: list[Shape] = [
            (number, channels, height, width),
            (number, 1, *self.labels_of((height, width))),
            (number, 1, 1, 2),
        ]
        return tops[: len(self.param.top)]

    def read(self) -> list[NDArray[np.float32]]:
        random = self.random(0)
        parts, sizes = [], []
        for _ in range(self.batch_size):
            line = self.lines[self._order[self.position]]
            pixels = self.image(line[0])
            sizes.append(pixels.shape[:2])
            labels = self.labels(line[1], pixels)
            wanted = self.labels_of((pixels.shape[0], pixels.shape[1]))
            if labels.shape != wanted:
                raise self.fail(
                    f"image {line[0]} has {pixels.shape[0]}×{pixels.shape[1]} pixels, its labels "
                    f"{line[1]} {labels.shape[0]}×{labels.shape[1]}, not {wanted[0]}×{wanted[1]}"
                )
            parts.append(self.part(pixels, labels, random))
            self._advance(self.share.step)
        self._advance(self.share.gap(self.batch_size))
        if len({part.image.shape for part in parts}) > 1:
            raise self.fail("images of different sizes need new_height and new_width, or a crop")
        data = np.stack([self.values(part) for part in parts])
        labels = np.stack([part.labels for part in parts])[:, None].astype(np.float32)
        # As far as the top has the image.
        seen = np.minimum(np.array(sizes), data.shape[2:]).astype(np.float32)
        return [data, labels, seen.reshape(-1, 1, 1, 2)][: len(self.param.top)]

    def labels(self, name: str, pixels: Pixels) -> NDArray[Any]:
        """The labels (H, W) of an image from the second word of its line."""
        raise NotImplementedError

    def labels_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the labels of an image of this size."""
        return size

    def part(self, pixels: Pixels, labels: NDArray[Any], random: np.random.Generator) -> Pair:
        """What the top has of an image: a window at random, perhaps mirrored."""
        return self.window(Pair(planes(pixels), labels, self.mean_of(planes(pixels))), random)

    def window(self, pair: Pair, random: np.random.Generator) -> Pair:
        """The crop of a pair, and its mirror image every other time if the settings say so."""
        height, width = pair.image.shape[1:]
        high, wide = self.crop or (height, width)
        if high > height or wide > width:
            raise self.fail(f"the crop {high}×{wide} is larger than the image {height}×{width}")
        if self.centred and not self.transform.train:
            top, left = (height - high) // 2, (width - wide) // 2
        else:
            top, left = (int(random.integers(n + 1)) for n in (height - high, width - wide))
        mirrored = self.mirrors() and bool(random.integers(2))
        return pair.part(top, left, high, wide, mirrored)

    def mirrors(self) -> bool:
        """Whether every other image, on average, is mirrored."""
        return self.transform.param.mirror

    def mean_of(self, image: NDArray[Any]) -> NDArray[np.float32] | None:
        """What is subtracted from an image (C, H, W)."""
        values, mean = self.transform.param.mean_value, self.transform.mean
        if len(values) not in (0, 1, len(image)):
            raise self.fail(
                f"has {len(values)} mean_value for {len(image)} channels; give one, or one each"
            )
        if mean is None:
            return np.array(values, np.float32).reshape(-1, 1, 1) if values else None
        if mean.shape != image.shape:
            raise self.fail(
                f"mean_file {self.transform.param.mean_file} has shape {mean.shape}, the images "
                f"{image.shape}"
            )
        return mean

    def values(self, part: Pair) -> NDArray[np.float32]:
        """(pixel - mean) · scale."""
        data: NDArray[np.float32] = part.image.astype(np.float32)
        if part.mean is not None:
            data = data - part.mean
        return data * np.float32(self.transform.param.scale)


@READERS.add("ImageSegData")
class ImageSegReader(LabelMapReader):
    """Lines `IMAGE LABELS`, a file, a number or nothing; a third top has the images' sizes.

    Source: hszhao/PSPNet image_seg_data_layer.cpp, data_transformer.cpp (TransformImgAndSeg).
    """

    centred = True

    def open(self) -> None:
        super().open()
        if self.transform.mean is not None:
            raise self.fail("takes mean_value, and no mean_file")
        factors = self.transform.param.scale_factors
        if any(factor <= 0 for factor in factors):
            raise self.fail(f"scale_factors {list(factors)} must be positive")
        if self.crop is None and any(factor != 1 for factor in factors):
            raise self.fail("scale_factors need crop_size, or crop_height and crop_width")

    def cropped(self) -> tuple[int, int] | None:
        param = self.transform.param
        given = [param.HasField(f"crop_{name}") for name in ("size", "height", "width")]
        if given[1] != given[2] or (given[0] and given[1]):
            raise self.fail("give crop_size, or both crop_height and crop_width")
        if given[1]:
            size = (param.crop_height, param.crop_width)
            return size if all(size) else None
        return super().cropped()

    def listed_lines(self) -> list[tuple[str, Any]]:
        lines = []
        for line in self.content_of_list().split(b"\n"):
            words = [*map(os.fsdecode, line.split()), "", ""]
            lines.append((words[0], words[1]))
        return lines

    def check(self, reporter: Reporter = SILENT) -> None:
        pixel = self._label_type == pb.ImageDataParameter.PIXEL
        names = [name for line in self.lines for name in line[: 1 + pixel]]
        self.require_files(names, self.settings.root_folder, reporter)

    @property
    def _label_type(self) -> int:
        return self.param.image_data_param.label_type

    def labels(self, name: str, pixels: Pixels) -> NDArray[Any]:
        if self._label_type == pb.ImageDataParameter.PIXEL:
            return self.image(name, color=False)
        if self._label_type == pb.ImageDataParameter.NONE:
            return np.full(pixels.shape[:2], self._ignored, np.uint8)
        try:
            label = int(name or 0)
        except ValueError as error:
            raise self.fail(
                f"{self.listed}: label {name} is no number; files of labels need label_type: PIXEL"
            ) from error
        return np.full(pixels.shape[:2], min(max(label, 0), 255), np.uint8)

    @property
    def _ignored(self) -> int:
        # A pixel of OpenCV's, which holds 0 to 255.
        return min(max(self.param.image_data_param.ignore_label, 0), 255)

    def part(self, pixels: Pixels, labels: NDArray[Any], random: np.random.Generator) -> Pair:
        factors = self.transform.param.scale_factors
        factor = np.float32(factors[int(random.integers(len(factors)))] if factors else 1)
        if factor != 1:
            height, width = (int(np.float32(size) * factor) for size in labels.shape)
            if min(height, width) < 1:
                raise self.fail(f"scale_factors {factor:g} leaves nothing of an image")
            cv2 = opencv()
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
            labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
        image = planes(pixels)
        mean = self.mean_of(image)
        high, wide = self.crop or labels.shape
        beyond = [(0, max(high - labels.shape[0], 0)), (0, max(wide - labels.shape[1], 0))]
        if any(more for _, more in beyond):
            labels = np.pad(labels, beyond, constant_values=self._ignored)
            padded = np.empty((len(image), *labels.shape), np.float32)
            padded[:] = 0 if mean is None else mean
            padded[:, : image.shape[1], : image.shape[2]] = image
            image = padded
        return self.window(Pair(image, labels, mean), random)


@READERS.add("DenseImageData")
class DenseImageReader(LabelMapReader):
    """Pairs of files, mirrored and cropped at random as dense_image_data_param says.

    Source: alexgkendall/caffe-segnet dense_image_data_layer.cpp.
    """

    @property
    def settings(self) -> pb.DenseImageDataParameter:
        return self.param.dense_image_data_param

    def cropped(self) -> tuple[int, int] | None:
        for name in ("mirror", "crop_size"):
            if getattr(self.transform.param, name):
                raise self.fail(
                    f"transform_param.{name} would change images without their labels; "
                    "dense_image_data_param has mirror, crop_height and crop_width"
                )
        self.factor = self.positive("label_divide_factor", self.settings.label_divide_factor)
        size = (self.settings.crop_height, self.settings.crop_width)
        if any(size) and self.factor > 1:
            raise self.fail("a crop is for labels of the images' size: label_divide_factor 1")
        if all(size):
            return size
        if any(size):
            raise self.fail("give both crop_height and crop_width, or neither")
        return None

    def labels_of(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // self.factor, size[1] // self.factor

    def mirrors(self) -> bool:
        return self.settings.mirror

    def labels(self, name: str, pixels: Pixels) -> NDArray[Any]:
        return self.image(name, color=False, nearest=True, divided=self.factor)

    def part(self, pixels: Pixels, labels: NDArray[Any], random: np.random.Generator) -> Pair:
        # Mirrored before it is cut: the same windows, as often. The mean is the crop's.
        part = self.window(Pair(planes(pixels), labels, None), random)
        return part._replace(mean=self.mean_of(part.image))


@READERS.add("ImageLabelmapData")
class ImageLabelmapReader(LabelMapReader):
    """Pairs of files; labels are 1 from 128 on, else 0. Source: s9xie/hed
    image_labelmap_data_layer.cpp, data_transformer.cpp (LocTransform).
    """

    def labels(self, name: str, pixels: Pixels) -> NDArray[Any]:
        return self.image(name, color=False) >= 128
