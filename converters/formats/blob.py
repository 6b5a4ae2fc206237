"""BlobProto: an array in a protobuf message, read and written as packed bytes.

The shape is `shape`, or in old files num, channels, height and width, which win; a message with
neither is a scalar. `double_data` wins over `data`, and both over NVCaffe's `raw_data`. Source:
Caffe blob.cpp (FromProto, ToProto), NVIDIA/caffe blob.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from converters.errors import CaffeError, WeightsError
from converters.formats.wire import (
    BYTES,
    VARINT,
    Chunk,
    Field,
    WireFile,
    opened_wire,
    packed_floats,
    wire_of,
)
from converters.proto import caffe_pb2 as pb

MOST_AXES = 32
"""Caffe's kMaxBlobAxes."""
_LARGEST_DIM = 2**31 - 1

FloatArray = npt.NDArray[np.float32]

_FIELDS = pb.BlobProto.DESCRIPTOR.fields_by_name
_LEGACY_DIMS = tuple(_FIELDS[name].number for name in ("num", "channels", "height", "width"))
_SHAPE, _DATA, _DIFF, _DOUBLE_DATA = (
    _FIELDS[name].number for name in ("shape", "data", "diff", "double_data")
)
_RAW_TYPE, _RAW = (_FIELDS[name].number for name in ("raw_data_type", "raw_data"))
_RAW_TYPES: dict[int, str] = {pb.DOUBLE: "<f8", pb.FLOAT: "<f4", pb.FLOAT16: "<f2"}


class Blob(NamedTuple):
    """A stored blob; `legacy` if its shape was given as num, channels, height, width."""

    array: FloatArray
    legacy: bool


def decode_blob(wire: WireFile, within: Field | None = None, place: str = "") -> Blob:
    """The BlobProto in the field `within`, or the whole message; `place` names it in errors.

    Raises:
        CaffeError: the values do not fill the shape, or the message is damaged; of `wire`'s type.
    """
    legacy: dict[int, int] = {}
    shape: list[int] = []
    data: list[npt.NDArray[Any]] = []
    doubles: list[npt.NDArray[Any]] = []
    raw: list[Field] = []
    raw_type: int = pb.DOUBLE
    at, end = wire.bounds(within)
    while at < end:
        field = wire.field(at, end)
        at = field.end
        if field.number in _LEGACY_DIMS and field.wire == VARINT:
            legacy[field.number] = field.value
        elif field.number == _SHAPE and field.wire == BYTES:
            shape += [dim for one in wire.fields(field) for dim in wire.varints(one)]
        elif field.number == _DATA:
            at = wire.numbers(field, end, "<f4", data)
        elif field.number == _DOUBLE_DATA:
            at = wire.numbers(field, end, "<f8", doubles)
        elif field.number == _RAW_TYPE and field.wire == VARINT:
            raw_type = field.value
        elif field.number == _RAW and field.wire == BYTES:
            raw = [field]
    if raw and not data and not doubles:
        if raw_type not in _RAW_TYPES:
            raise wire.fail(f"{place and f'{place}: '}raw_data of type {raw_type}, not 0 to 2")
        wire.numbers(raw[0], end, _RAW_TYPES[raw_type], data)
    if legacy:
        shape = [legacy.get(number, 0) for number in _LEGACY_DIMS]
    parts = doubles or data
    values = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, "<f4"), *parts])
    here = place and f"{place}: "
    if len(shape) > MOST_AXES:
        raise wire.fail(f"{here}a blob of {len(shape)} axes; at most {MOST_AXES} are allowed")
    if wrong := [dim for dim in shape if not 0 <= dim <= _LARGEST_DIM]:
        raise wire.fail(
            f"{here}the shape {tuple(shape)} has a size of {wrong[0]}, not 0 to {_LARGEST_DIM}"
        )
    if values.size != math.prod(shape):
        raise wire.fail(
            f"{here}{values.size} values do not fill the shape {tuple(shape)} of {math.prod(shape)}"
        )
    with np.errstate(over="ignore"):  # a double too large is infinity, as in C
        single = values.astype(np.float32, copy=False)
    return Blob(single.reshape(shape), bool(legacy))


def given_blob(message: pb.BlobProto, source: str, place: str) -> Blob:
    """A parsed BlobProto, as prototxt files hold them; the rest is `decode_blob`'s.

    Raises:
        WeightsError: the values do not fill the shape.
    """
    return decode_blob(
        wire_of(message.SerializeToString(), source, "blob", WeightsError), place=place
    )


def read_blob(
    path: str | Path, error: type[CaffeError], what: str = "blob file (a BlobProto)"
) -> FloatArray:
    """The array of a `.binaryproto` file; `what` is what it should be, for errors.

    Raises:
        error: the file cannot be read, is no BlobProto, or its values do not fill the shape.
    """
    with opened_wire(path, what, error) as wire:
        return decode_blob(wire).array


def encode_blob(
    array: npt.ArrayLike, diff: npt.ArrayLike | None = None, legacy: bool = False
) -> Sequence[Chunk]:
    """A BlobProto as chunks to write one after the other; no copy of a float32 array is made.

    A 0-D array has no `shape` field at all, as in Caffe; `legacy` writes the four old numbers.
    """
    values = np.asarray(array)
    chunks = packed_floats(_DATA, values)
    if diff is not None:
        chunks += packed_floats(_DIFF, np.asarray(diff))
    if legacy:
        num, channels, height, width = (1,) * (4 - values.ndim) + values.shape
        sizes = pb.BlobProto(num=num, channels=channels, height=height, width=width)
        return [sizes.SerializeToString(), *chunks]
    if values.ndim:
        shape = pb.BlobProto(shape=pb.BlobShape(dim=values.shape))
        chunks.append(shape.SerializeToString())
    return chunks
