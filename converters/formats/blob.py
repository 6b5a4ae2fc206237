"""Blobs in files: BlobProto messages read and written as packed bytes, and what HDF5 files share.

A protobuf message is a run of fields: a varint key (number << 3 | wire type), then a varint, 4 or 8
bytes, or a varint length and as many bytes; all numbers are little-endian. Walking these keys here,
instead of parsing the message, lets a file of hundreds of megabytes go straight into arrays.
`converters.formats.caffemodel` and `converters.formats.solverstate` are built on this. Source:
Caffe caffe.proto, blob.cpp (FromProto, ToProto), util/hdf5.cpp.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from converters.errors import CaffeError, MissingExtraError, WeightsError
from converters.formats.whole_files import written_beside
from converters.proto import caffe_pb2 as pb

FloatArray = npt.NDArray[np.float32]
Chunk = bytes | memoryview

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
BLOB = pb.BlobProto.DESCRIPTOR.fields_by_name
LEGACY_DIMS = tuple(BLOB[name].number for name in ("num", "channels", "height", "width"))
SHAPE, DATA, DIFF, DOUBLE_DATA = (
    BLOB[name].number for name in ("shape", "data", "diff", "double_data")
)


class Field(NamedTuple):
    """One field of a message: its number, wire type, varint value, and where its content lies."""

    number: int
    wire: int
    value: int
    start: int
    end: int


class Blob(NamedTuple):
    """A stored blob; `legacy` if its shape was given as num, channels, height, width."""

    array: FloatArray
    legacy: bool


class WireFile(NamedTuple):
    """A binary protobuf file, walked field by field; `opened_wire` makes one.

    `what` names the kind of file and `error` is the type raised for one that is cut inside a field
    or no protobuf at all; all errors give the byte.
    """

    path: Path
    what: str
    error: type[CaffeError]
    file: BinaryIO
    content: mmap.mmap

    def fail(self, message: str) -> CaffeError:
        """The error to raise for this file."""
        return self.error(f"{self.path}: {message}")

    def fields(self, within: Field | None = None) -> Iterator[Field]:
        """The fields of the file, or of the message that the field `within` holds."""
        at, end = (within.start, within.end) if within else (0, len(self.content))
        while at < end:
            field = self._field(at, end)
            yield field
            at = field.end

    def text(self, field: Field) -> str:
        """A string field."""
        return self.content[field.start : field.end].decode("utf-8", errors="replace")

    def blob(self, within: Field, place: str) -> Blob:
        """The BlobProto in the field `within`; `place` says whose it is, for errors."""
        legacy: dict[int, int] = {}
        shape: list[int] = []
        data: list[npt.NDArray[Any]] = []
        doubles: list[npt.NDArray[Any]] = []
        at = within.start
        while at < within.end:
            field = self._field(at, within.end)
            at = field.end
            if field.number in LEGACY_DIMS and field.wire == VARINT:
                legacy[field.number] = field.value
            elif field.number == SHAPE and field.wire == BYTES:
                shape += self._dims(field)
            elif field.number == DATA:
                at = self._numbers(field, within.end, "<f4", data)
            elif field.number == DOUBLE_DATA:
                at = self._numbers(field, within.end, "<f8", doubles)
        if legacy:
            shape = [legacy.get(number, 0) for number in LEGACY_DIMS]
        parts = doubles or data
        values = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, "<f4"), *parts])
        if any(dim < 0 for dim in shape) or values.size != math.prod(shape):
            raise self.fail(
                f"{place}: {values.size} values do not fill the shape {tuple(shape)} "
                f"of {math.prod(shape)}"
            )
        return Blob(values.astype(np.float32, copy=False).reshape(shape), bool(legacy))

    def _field(self, at: int, end: int) -> Field:
        key, start = self._varint(at, end)
        number, wire = key >> 3, key & 7
        value = 0
        if wire == VARINT:
            value, stop = self._varint(start, end)
        elif wire == BYTES:
            length, start = self._varint(start, end)
            stop = start + length
        elif wire in (FIXED32, FIXED64):
            stop = start + (4 if wire == FIXED32 else 8)
        else:
            number = 0
        if number == 0:
            raise self.fail(f"not a {self.what}: byte {at} begins no protobuf field")
        if stop > end:
            raise self._cut(at, end, stop - end)
        return Field(number, wire, value, start, stop)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise self._cut(at, end, 1)
            byte = self.content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                # Negative numbers are written as 64-bit two's complements.
                return value - (1 << 64) if value >> 63 else value, at
        raise self.fail(f"not a {self.what}: byte {at} goes on with no protobuf number")

    def _cut(self, at: int, end: int, missing: int) -> CaffeError:
        if end == len(self.content):
            return self.fail(
                f"cut short or not a {self.what}: the file ends at byte {end}, inside the field "
                f"that begins at byte {at} and needs {missing} bytes more"
            )
        return self.fail(
            f"damaged or not a {self.what}: the field at byte {at} runs {missing} bytes past its "
            f"message, which ends at byte {end}"
        )

    def _dims(self, shape: Field) -> Iterator[int]:
        for field in self.fields(shape):
            if field.wire == VARINT:
                yield field.value
            at = field.start
            while field.wire == BYTES and at < field.end:
                dim, at = self._varint(at, field.end)
                yield dim

    def _numbers(self, field: Field, end: int, dtype: str, parts: list[npt.NDArray[Any]]) -> int:
        """Append the numbers of a repeated field; return where the walk goes on."""
        size = np.dtype(dtype).itemsize
        if field.wire == BYTES:
            if (field.end - field.start) % size:
                raise self.fail(
                    f"damaged or not a {self.what}: the numbers at byte {field.start} fill "
                    f"{field.end - field.start} bytes, no multiple of {size}"
                )
            # Read, not mapped: the arrays are aligned, writable, and outlive the file.
            self.file.seek(field.start)
            parts.append(np.fromfile(self.file, dtype, (field.end - field.start) // size))
            return field.end
        if field.wire != (FIXED32 if size == 4 else FIXED64):
            return field.end
        # Not packed: each number has its own one-byte key, so the run is a table of records.
        record = np.dtype([("key", "u1"), ("number", dtype)])
        begin = field.start - 1
        count = (end - begin) // record.itemsize
        rows = np.frombuffer(self.content[begin : begin + count * record.itemsize], record)
        others = np.flatnonzero(rows["key"] != rows["key"][0])
        rows = rows[: others[0] if others.size else None]
        parts.append(rows["number"].copy())
        return begin + rows.nbytes


@contextmanager
def opened_wire(path: str | Path, what: str, error: type[CaffeError]) -> Iterator[WireFile]:
    """The binary file at `path`, raising `error` if it is absent or empty."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from reason
    with file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as reason:
            raise error(f"{path}: an empty file, not a {what}") from reason
        with content:
            yield WireFile(Path(path), what, error, file, content)


def decode_blob(message: pb.BlobProto, place: str) -> Blob:
    """A parsed BlobProto, for small ones; `place` names it in errors.

    Raises:
        WeightsError: the values do not fill the shape.
    """
    legacy = any(message.HasField(name) for name in ("num", "channels", "height", "width"))
    old = (message.num, message.channels, message.height, message.width)
    shape = old if legacy else tuple(message.shape.dim)
    values = np.array(message.double_data or message.data, np.float32)
    if any(dim < 0 for dim in shape) or values.size != math.prod(shape):
        raise WeightsError(
            f"{place}: {values.size} values do not fill the shape {shape} of {math.prod(shape)}"
        )
    return Blob(values.reshape(shape), legacy)


def encode_blob(array: npt.ArrayLike, diff: npt.ArrayLike | None = None) -> list[Chunk]:
    """A BlobProto as chunks to write one after the other; no copy of a float32 array is made.

    A 0-D array has no `shape` field at all, as in Caffe.
    """
    values = np.asarray(array)
    chunks = _packed(DATA, values)
    if diff is not None:
        chunks += _packed(DIFF, np.asarray(diff))
    if values.ndim:
        shape = pb.BlobProto(shape=pb.BlobShape(dim=values.shape))
        chunks.append(shape.SerializeToString())
    return chunks


def message_field(number: int, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks of a message as the field `number` of another."""
    length = sum(len(chunk) for chunk in chunks)
    return [_varint_bytes(number << 3 | BYTES) + _varint_bytes(length), *chunks]


def write_chunks(file: BinaryIO, chunks: Iterable[Chunk]) -> None:
    """Write chunks in their order."""
    for chunk in chunks:
        file.write(chunk)


def is_hdf5(path: str | Path) -> bool:
    """Whether the file begins as HDF5 files do; False for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:
        return False


@contextmanager
def opened_hdf5(path: str | Path, what: str, error: type[CaffeError]) -> Iterator[Any]:
    """An h5py.File to read; whatever h5py dislikes about the file is raised as `error`."""
    h5py = import_h5py()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as reason:
        text = " ".join(str(reason).split())
        raise error(f"{path}: cut short or not a {what} in HDF5: {text}") from reason


@contextmanager
def created_hdf5(path: str | Path) -> Iterator[Any]:
    """An h5py.File to write, whole or absent.

    Raises:
        OutputError: the file cannot be written.
    """
    h5py = import_h5py()
    with written_beside(path) as partial:
        try:
            with h5py.File(partial, "w") as file:
                yield file
        except (OSError, RuntimeError) as reason:
            # A full disk is first noticed at the flush, and its number stands in the text alone.
            number = re.search(r"errno = (\d+)", str(reason))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code) if number else str(reason)) from reason


def import_h5py() -> Any:
    """The h5py module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "hdf5", "an HDF5 file") from error
    return h5py


def _packed(number: int, values: npt.NDArray[Any]) -> list[Chunk]:
    flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
    return message_field(number, [flat.view(np.uint8).data]) if flat.size else []


def _varint_bytes(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
