"""One record of a database: Caffe's Datum message, encoded and decoded as bytes.

A record holds one image and its label. This is its layout, the same bytes that Caffe's tools write
(protobuf's wire format, `converters.formats.wire`: each field is its tag byte, then a varint or a
length and bytes):

    08 channels   10 height   18 width   22 length data   28 label   [38 encoded]

The MNIST and CIFAR tools leave `encoded` out, `convert_imageset` writes `38 00`; a record with a
compressed image is `22 length data 28 label 38 01`. The label is always written, except beside
float data: `08 channels 10 height 18 width`, then `35` and four bytes a value. Whatever else a
Datum may hold (float_data, other orders) is decoded through protobuf.
`converters.records.lmdb_writer` stores the records, `converters.records.imageset` and
`converters.datasets` make them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.formats.wire import decode_varint, encode_varint
from converters.records.images import Buffer, Pixels, decode, planes
from converters.records.threads import in_threads

# Tag bytes: field number << 3 | wire type (0 varint, 2 length and bytes, 5 four bytes).
CHANNELS, HEIGHT, WIDTH, DATA, LABEL, ENCODED = 0x08, 0x10, 0x18, 0x22, 0x28, 0x38
FLOAT_DATA = 0x35


class Datum(NamedTuple):
    """A decoded record; `data` is raw planes, a compressed image if `encoded`, or empty."""

    channels: int
    height: int
    width: int
    data: memoryview
    label: int
    encoded: bool = False
    float_data: NDArray[np.float32] | None = None

    def image(self, color: bool | None = None) -> NDArray[Any]:
        """The record's values (C, H, W): uint8, or float32 for float data.

        A compressed image is decoded as Caffe does, to BGR; `color` forces three channels (True)
        or one (False), None keeps the file's own.

        Raises:
            DataError: the values do not fill channels × height × width, or the image is damaged.
        """
        if self.encoded:
            return decode_image(self.data, color)
        shape = (self.channels, self.height, self.width)
        values: NDArray[Any] = np.frombuffer(self.data, np.uint8)
        if not len(self.data) and self.float_data is not None:
            values = self.float_data
        if values.size != self.channels * self.height * self.width or min(shape) < 1:
            raise DataError(
                f"holds {values.size} values, but channels × height × width is "
                f"{self.channels} × {self.height} × {self.width}"
            )
        return values.reshape(shape)


class Batch(NamedTuple):
    """Records of one shape: `pixels` (N, C, H, W) uint8 or float32, `labels` (N,)."""

    pixels: NDArray[Any]
    labels: NDArray[np.int32]


# ---------------------------------------------------------------- encode


def _sizes(shape: tuple[int, ...]) -> bytes:
    channels, height, width = shape
    return (
        b"\x08"
        + encode_varint(channels)
        + b"\x10"
        + encode_varint(height)
        + b"\x18"
        + encode_varint(width)
    )


def _prefix(shape: tuple[int, ...]) -> bytes:
    return _sizes(shape) + b"\x22" + encode_varint(math.prod(shape))


def encode_datum(pixels: Pixels, label: int, write_encoded: bool = False) -> bytes:
    """One record of raw `pixels` (C, H, W) uint8; `write_encoded` adds `encoded: false`."""
    tail = b"\x28" + encode_varint(int(label)) + (b"\x38\x00" if write_encoded else b"")
    return _prefix(pixels.shape) + pixels.tobytes() + tail


def encode_floats(values: NDArray[np.float32]) -> bytes:
    """One record of `values` (C, H, W) as float_data, without a label: Caffe's feature records."""
    # Not packed: every value has its tag.
    data = np.empty(values.size, np.dtype([("tag", "u1"), ("value", "<f4")]))
    data["tag"], data["value"] = FLOAT_DATA, values.ravel()
    return _sizes(values.shape) + data.tobytes()


def encode_image(image: bytes, label: int) -> bytes:
    """One record of a compressed `image` (the bytes of a JPEG or PNG file)."""
    return (
        b"\x22"
        + encode_varint(len(image))
        + image
        + b"\x28"
        + encode_varint(int(label))
        + b"\x38\x01"
    )


def encode_batch(pixels: Pixels, labels: NDArray[Any]) -> list[Buffer]:
    """The records of `pixels` (N, C, H, W) uint8 and `labels` (N,), as `encode_datum` gives them.

    Labels of one byte (0 to 127) take one pass of NumPy for all records; the results are views of
    one block of memory.
    """
    if len(labels) and (labels.min() < 0 or labels.max() > 0x7F):
        return [encode_datum(image, label) for image, label in zip(pixels, labels, strict=True)]
    prefix = np.frombuffer(_prefix(pixels.shape[1:]), np.uint8)
    count, size = len(pixels), prefix.size + pixels[:1].size + 2
    block = np.empty((count, size), np.uint8)
    block[:, : prefix.size] = prefix
    block[:, prefix.size : -2] = pixels.reshape(count, -1)
    block[:, -2] = LABEL
    block[:, -1] = labels
    view = block.reshape(-1).data
    return [view[start : start + size] for start in range(0, count * size, size)]


# ---------------------------------------------------------------- decode


def decode_datum(record: Buffer) -> Datum:
    """Decode one record, in whatever field order it was written.

    Raises:
        DataError: the bytes are no Datum.
    """
    fields = {CHANNELS: 0, HEIGHT: 0, WIDTH: 0, LABEL: 0, ENCODED: 0}
    data = memoryview(b"")
    offset, end = 0, len(record)
    try:
        while offset < end:
            tag = record[offset]
            if tag == DATA:
                length, start = decode_varint(record, offset + 1, 32)
                offset = start + length
                if length < 0 or offset > end:
                    return _decode_by_protobuf(record)
                data = memoryview(record)[start:offset]
            elif tag in fields:
                fields[tag], offset = decode_varint(record, offset + 1, 32)
            else:
                return _decode_by_protobuf(record)
    except (IndexError, ValueError):
        return _decode_by_protobuf(record)
    return Datum(
        fields[CHANNELS],
        fields[HEIGHT],
        fields[WIDTH],
        data,
        fields[LABEL],
        bool(fields[ENCODED]),
    )


def _decode_by_protobuf(record: Buffer) -> Datum:
    from google.protobuf.message import DecodeError

    from converters.proto import caffe_pb2 as pb

    try:
        message = pb.Datum.FromString(bytes(record))
    except DecodeError as error:
        raise DataError(f"is not a Datum record ({len(record)} bytes)") from error
    if not (message.data or message.float_data):
        with suppress(DecodeError):
            if pb.AnnotatedDatum.FromString(bytes(record)).datum.ListFields():
                raise DataError("is an AnnotatedDatum, image and boxes, which AnnotatedData reads")
    floats = np.array(message.float_data, np.float32) if message.float_data else None
    return Datum(
        message.channels,
        message.height,
        message.width,
        memoryview(message.data),
        message.label,
        message.encoded,
        floats,
    )


def decode_batch(records: Sequence[Buffer], color: bool | None = None) -> Batch:
    """Decode records of one shape together.

    Records that differ in pixels and one-byte label alone are one copy and one comparison; the
    pixels are then a writable view (N, C, H, W) of that copy. Others are decoded one by one.

    Raises:
        RecordError: a record is damaged, or of another shape than the first.
    """
    if not records:
        raise DataError("no records to decode")
    size, layout = len(records[0]), layout_of(records[0])
    if layout and all(len(record) == size for record in records):
        block = np.frombuffer(bytearray().join(records), np.uint8).reshape(-1, size)
        start, stop = layout.start, layout.stop
        labels = labels_of(np.delete(block, slice(start, stop), axis=1), start)
        if labels is not None:
            return Batch(block[:, start:stop].reshape(-1, *layout.shape), labels)
    images, labels = decode_images(records, color)
    for index, image in enumerate(images):
        if (image.shape, image.dtype) != (images[0].shape, images[0].dtype):
            raise RecordError(
                index,
                f"has shape {describe(image)}, the first of its batch {describe(images[0])}; "
                "records of different shapes need crop_size",
            )
    return Batch(np.stack(images), labels)


def decode_images(
    records: Sequence[Buffer], color: bool | None = None
) -> tuple[list[NDArray[Any]], NDArray[np.int32]]:
    """The images (C, H, W), each of its own shape, and the labels (N,) of `records`.

    Raises:
        RecordError: a record is damaged.
    """
    if not records:
        return [], np.zeros(0, np.int32)
    images, labels = zip(*in_threads(partial(_decode_one, color), list(enumerate(records))))
    return list(images), np.array(labels, np.int32)


def _decode_one(color: bool | None, numbered: tuple[int, Buffer]) -> tuple[NDArray[Any], int]:
    index, record = numbered
    try:
        datum = decode_datum(record)
        return datum.image(color), datum.label
    except DataError as error:
        raise RecordError(index, str(error)) from error


class Layout(NamedTuple):
    """A record's shape, and where its data begin and end."""

    shape: tuple[int, int, int]
    start: int
    stop: int


def labels_of(around: Pixels, start: int) -> NDArray[np.int32] | None:
    """The labels of records (N, size) without their pixels, which stood at `start`.

    None if they differ from the first in more than one-byte labels.
    """
    labels = around[:, start + 1]
    same = (around == around[0]).all(axis=0)
    same[start + 1] = True
    if not same.all() or around[0, start] != LABEL or (labels > 0x7F).any():
        return None
    return labels.astype(np.int32)


def layout_of(record: Buffer) -> Layout | None:
    """The layout if a record has the common form with a one-byte label."""
    offset, shape = 0, []
    try:
        for tag in (CHANNELS, HEIGHT, WIDTH, DATA):
            if record[offset] != tag:
                return None
            value, offset = decode_varint(record, offset + 1, 32)
            shape.append(value)
    except (IndexError, ValueError):
        return None
    length = shape.pop()
    stop = offset + length
    channels, height, width = shape
    whole = channels * height * width == length and min(shape) > 0
    plain_tail = len(record) - stop == 2 or bytes(record[stop + 2 :]) == b"\x38\x00"
    return Layout((channels, height, width), offset, stop) if whole and plain_tail else None


class RecordError(DataError):
    """A bad record of a batch; `index` is its place in the batch, `reason` what is wrong."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"record {index} of the batch {reason}")
        self.index = index
        self.reason = reason


def describe(image: NDArray[Any]) -> str:
    """An image's shape for messages, e.g. `3×32×32`."""
    shape = "×".join(str(size) for size in image.shape)
    return shape if image.dtype == np.uint8 else f"{shape} ({image.dtype})"


# ---------------------------------------------------------------- compressed images


def decode_image(image: Buffer, color: bool | None = None) -> Pixels:
    """The pixels (C, H, W) of a compressed image: BGR planes, or one plane of gray.

    `color` None keeps the file's channels, True and False force three and one, as Caffe's
    `force_color` and `force_gray` do.

    Raises:
        DataError: the bytes are no image that OpenCV can read, or not 8 bits deep.
        MissingExtraError: OpenCV is not installed.
    """
    try:
        pixels = decode(image, color)
    except DataError as error:
        raise DataError(f"holds a compressed image that {error}") from error
    if pixels is None:
        raise DataError(f"holds a compressed image that cannot be decoded ({len(image)} bytes)")
    if pixels.dtype != np.uint8:
        raise DataError(f"holds an image of {pixels.dtype}, but 8 bits a channel are needed")
    return planes(pixels)
