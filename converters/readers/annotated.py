"""AnnotatedData: records of an LMDB with boxes (`converters.records.annotated`), for detectors.

`converters.readers.augment` changes images and boxes, `converters.readers.transform` does the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.readers.augment import Augmentation, Picture
from converters.readers.boxes import Size
from converters.readers.database import RecordReader
from converters.readers.reader import READERS, Shape
from converters.records.annotated import COLUMNS, Boxes, decode_annotated
from converters.records.datum import RecordError
from converters.records.extents import views
from converters.records.images import Buffer, Pixels, planes
from converters.records.threads import in_threads


class _Numbered(NamedTuple):
    place: int  # in the batch
    record: Buffer
    random: np.random.Generator


class _Made(NamedTuple):
    """An image as the transformation takes it, resized, and what its boxes are in parts of."""

    pixels: Pixels  # (C, H, W)
    boxes: Boxes
    before: Size  # its resizing
    label: int
    typed: bool


@READERS.add("AnnotatedData")
class AnnotatedReader(RecordReader):
    """Images (N, C, H, W) and, a row a box, the ground truth (1, 1, M, 8).

    A row is the image's place in the batch, the label, the box's number among those of the label,
    xmin, ymin, xmax, ymax in parts of width and height, and 1 if it is difficult. A batch without a
    box has one row of -1. Where records tell no type the second top is the labels of their Datums.
    Source: weiliu89/caffe ssd layers/annotated_data_layer.cpp.
    """

    def open(self) -> None:
        super().open()
        param = self.param
        resize = param.transform_param.resize_param
        self.augmentation = Augmentation(
            param.transform_param, param.annotated_data_param.batch_sampler, self.fail
        )
        self._fits_each = (
            param.transform_param.HasField("resize_param")
            and resize.resize_mode == resize.FIT_SMALL_SIZE
        )
        if self._fits_each and self.batch_size != 1:
            raise self.fail(
                f"batch_size {self.batch_size} with resize_mode FIT_SMALL_SIZE, where each image "
                "has a size of its own: it must be 1"
            )
        self._typed: bool | None = None

    def shapes(self) -> list[Shape]:
        with self._named():
            record = next(self.records.values())
            try:
                first = self._made(_Numbered(0, record, np.random.default_rng(0)), plain=True)
            except RecordError as error:
                raise self.named(error, np.zeros(1, np.int64)) from error
        data = self.transform.shape(first.pixels.shape)
        boxes = (1, 1, max(len(first.boxes), 1), COLUMNS)
        label = boxes if self._has_boxes(first) else (self.batch_size,)
        return [(self.batch_size, *data), label][: len(self.param.top)]

    def read(self) -> list[NDArray[np.float32]]:
        random = self.random(0)
        with self._named():
            at, records = self.following()
            numbered = [
                _Numbered(place, record, own)
                for place, (record, own) in enumerate(
                    zip(views(records), random.spawn(self.batch_size))
                )
            ]
            try:
                made = in_threads(self._made, numbered)
                boxes = all(self._has_boxes(one, place) for place, one in enumerate(made))
            except RecordError as error:
                raise self.named(error, at) from error
        images = [one.pixels for one in made]
        places = self.transform.choose(images, random)
        data = self.transform.apply(images, places)
        rows = []
        for index, one in enumerate(made):
            height, width = one.pixels.shape[1:]
            top, left = int(places.top[index]), int(places.left[index])
            window = np.array([left, top, left + places.width, top + places.height], np.float32)
            window /= np.array([width, height, width, height], np.float32)
            flipped = bool(places.flipped[index])
            rows.append(
                self.augmentation.placed(one.boxes, one.before, window, flipped).rows(index)
            )
        self._advance()
        if not boxes:
            return [data, np.array([one.label for one in made], np.float32)]
        truth = np.concatenate(rows)
        if not len(truth):
            truth = np.full((1, COLUMNS), -1, np.float32)
        return [data, truth.reshape(1, 1, -1, COLUMNS)]

    def _made(self, one: _Numbered, plain: bool = False) -> _Made:
        """A record's image, changed at random (unless `plain`) and resized."""
        try:
            record = decode_annotated(one.record)
            image = record.datum.image(self.transform.color)
        except DataError as error:
            raise RecordError(one.place, str(error)) from error
        if image.dtype != np.uint8:
            raise RecordError(one.place, "holds float data; AnnotatedData reads pixels of 8 bits")
        picture = Picture(image.transpose(1, 2, 0), record.boxes)
        if not plain:
            picture = self.augmentation(picture, one.random)
        pixels = planes(self.augmentation.resize(np.ascontiguousarray(picture.pixels), one.random))
        return _Made(pixels, picture.boxes, picture.size, record.datum.label, record.typed)

    def _has_boxes(self, one: _Made, index: int = 0) -> bool:
        """Whether the second top has boxes: if the first record is typed, or the layer says so.

        Raises:
            RecordError: a record tells no type, and the first did.
        """
        if self.param.annotated_data_param.HasField("anno_type"):
            return True
        if self._typed is None:
            self._typed = one.typed
        if self._typed and not one.typed:
            raise RecordError(
                index, "tells no type of annotations, as the first does; give anno_type: BBOX"
            )
        return self._typed
