"""Records of images with boxes: SSD's AnnotatedDatum, encoded and decoded.

An AnnotatedDatum is a Datum (`converters.records.datum`), and groups of annotations: a group is a
label, an annotation a number within it and a box, whose corners are parts of width and height.
`converters.records.annotated_set` makes such databases, `converters.readers.annotated` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from converters.errors import DataError
from converters.proto import caffe_pb2 as pb
from converters.records.datum import Datum
from converters.records.images import Buffer

Floats = NDArray[np.float32]
COLUMNS = 8
"""Of a row of ground truth: image, label, number, xmin, ymin, xmax, ymax, difficult."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one image: corners (M, 4) as xmin, ymin, xmax, ymax; labels, numbers, flags (M,)."""

    corners: Floats
    labels: NDArray[np.int32]
    numbers: NDArray[np.int32]
    difficult: NDArray[np.bool_]

    def chosen(self, which: NDArray[np.bool_], corners: Floats) -> Boxes:
        """Those of a mask (M,), with other `corners` (M, 4)."""
        return Boxes(corners[which], self.labels[which], self.numbers[which], self.difficult[which])

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, image: int) -> Floats:
        """As SSD's data layer gives them (M, 8); `image` is the image's place in its batch."""
        rows = np.empty((len(self), COLUMNS), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2] = image, self.labels, self.numbers
        rows[:, 3:7], rows[:, 7] = self.corners, self.difficult
        return rows


class Annotated(NamedTuple):
    """A decoded record; `typed` where it says that its annotations are boxes."""

    datum: Datum
    boxes: Boxes
    typed: bool


def boxes_of(
    corners: Sequence[Sequence[float]], labels: Sequence[int], difficult: Sequence[bool]
) -> Boxes:
    """Boxes as SSD's tool groups them: by label, in the order of each label's first, and numbered.

    A box's number is its place among those of its label.
    """
    first = {label: place for place, label in reversed(list(enumerate(labels)))}
    order = sorted(range(len(labels)), key=lambda place: first[labels[place]])
    grouped = groupby(order, key=lambda place: labels[place])
    numbers = [number for _, group in grouped for number, _ in enumerate(group)]
    return Boxes(
        np.array(corners, np.float32).reshape(-1, 4)[order],
        np.array(labels, np.int32)[order],
        np.array(numbers, np.int32),
        np.array(difficult, np.bool_)[order],
    )


def encode_annotated(datum: pb.Datum, boxes: Boxes) -> bytes:
    """One record of type BBOX; boxes of one label that follow each other are one group."""
    record = pb.AnnotatedDatum(datum=datum, type=pb.AnnotatedDatum.BBOX)
    for label, places in groupby(range(len(boxes)), key=lambda place: int(boxes.labels[place])):
        group = record.annotation_group.add(group_label=label)
        for place in places:
            xmin, ymin, xmax, ymax = boxes.corners[place].tolist()
            one = group.annotation.add(instance_id=int(boxes.numbers[place]))
            one.bbox.MergeFrom(
                pb.NormalizedBBox(
                    xmin=xmin,
                    ymin=ymin,
                    xmax=xmax,
                    ymax=ymax,
                    difficult=bool(boxes.difficult[place]),
                )
            )
    return record.SerializeToString()


def decode_annotated(record: Buffer) -> Annotated:
    """Decode one record.

    Raises:
        DataError: the bytes are no AnnotatedDatum, or its annotations are not boxes.
    """
    try:
        message = pb.AnnotatedDatum.FromString(bytes(record))
    except DecodeError as error:
        raise DataError(f"is not an AnnotatedDatum record ({len(record)} bytes)") from error
    if not message.HasField("datum"):
        raise DataError("is not an AnnotatedDatum record (a Datum is read by Data, not here)")
    if message.type != pb.AnnotatedDatum.BBOX:
        kind = pb.AnnotatedDatum.AnnotationType.Name(message.type)
        raise DataError(f"has annotations of type {kind}; only BBOX is read")
    found = [
        (group.group_label, one.instance_id, one.bbox)
        for group in message.annotation_group
        for one in group.annotation
    ]
    boxes = Boxes(
        np.array([(b.xmin, b.ymin, b.xmax, b.ymax) for _, _, b in found], np.float32).reshape(
            -1, 4
        ),
        np.array([label for label, _, _ in found], np.int32),
        np.array([number for _, number, _ in found], np.int32),
        np.array([b.difficult for _, _, b in found], np.bool_),
    )
    datum = message.datum
    floats = np.array(datum.float_data, np.float32) if datum.float_data else None
    return Annotated(
        Datum(
            datum.channels,
            datum.height,
            datum.width,
            memoryview(datum.data),
            datum.label,
            datum.encoded,
            floats,
        ),
        boxes,
        message.HasField("type"),
    )
