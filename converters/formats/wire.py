"""Protobuf's wire format: messages as runs of fields, walked and written without parsing them.

A field is a varint key (number << 3 | wire type), then a varint, 4 or 8 bytes, or a varint length
and as many bytes; all numbers are little-endian. Walking the keys lets a file of hundreds of
megabytes go straight into arrays. `converters.formats.blob` is the message with the arrays,
`converters.records.datum` knows its few keys by heart and shares the varints alone.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from converters.errors import CaffeError
from converters.formats.input_files import require_regular_file
from converters.raw_text import BASE, decoded, encoded, is_utf8

if TYPE_CHECKING:
    from google.protobuf.message import Message

Chunk = bytes | memoryview

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_VARINT_BITS = 64


def encode_varint(value: int) -> bytes:
    """A whole number in base 128, low digits first; a negative one as its 64-bit complement."""
    value &= (1 << _VARINT_BITS) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_varint(
    data: bytes | bytearray | memoryview | mmap.mmap, at: int, bits: int = _VARINT_BITS
) -> tuple[int, int]:
    """The signed number of `bits` at `at`, and the place behind it.

    Raises:
        IndexError: the data end inside it.
        ValueError: it goes on after ten bytes.
    """
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while byte > 0x7F:
        if shift > 63:
            raise ValueError("a varint has at most ten bytes")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value, at


class Field(NamedTuple):
    """One field of a message: its number, wire type, varint value, and where its content lies."""

    number: int
    wire: int
    value: int
    start: int
    end: int


class WireFile(NamedTuple):
    """A binary message, walked field by field; `opened_wire` and `wire_of` make one.

    `what` names the kind of file and `error` is the type raised for one that is cut inside a field
    or no protobuf at all; all errors give the byte.
    """

    path: str | Path
    what: str
    error: type[CaffeError]
    file: BinaryIO
    content: bytes | mmap.mmap

    def fail(self, message: str) -> CaffeError:
        """The error to raise for this file."""
        return self.error(f"{self.path}: {message}")

    def fields(self, within: Field | None = None) -> Iterator[Field]:
        """The fields of the file, or of the message that the field `within` holds."""
        at, end = self.bounds(within)
        while at < end:
            field = self.field(at, end)
            yield field
            at = field.end

    def bounds(self, within: Field | None) -> tuple[int, int]:
        """Where a message begins and ends: the whole file without `within`."""
        return (within.start, within.end) if within else (0, len(self.content))

    def text(self, field: Field) -> str:
        """A string field; what is not UTF-8 is kept as `converters.raw_text` says."""
        return decoded(self.content[field.start : field.end])

    def field(self, at: int, end: int) -> Field:
        """The field that begins at `at` in a message that ends at `end`."""
        key, start = self._varint(at, at, end)
        number, wire = key >> 3, key & 7
        value = 0
        if wire == VARINT:
            value, stop = self._varint(start, at, end)
        elif wire == BYTES:
            length, start = self._varint(start, at, end)
            stop = start + length
        elif wire in (FIXED32, FIXED64):
            stop = start + (4 if wire == FIXED32 else 8)
        else:
            number = 0
        if number <= 0 or stop < start:
            raise self.fail(f"not a {self.what}: byte {at} begins no protobuf field")
        if stop > end:
            raise self._cut(at, end, stop - end)
        return Field(number, wire, value, start, stop)

    def varints(self, field: Field) -> Iterator[int]:
        """The numbers of a repeated integer field, packed or not."""
        if field.wire == VARINT:
            yield field.value
        at = field.start
        while field.wire == BYTES and at < field.end:
            value, at = self._varint(at, at, field.end)
            yield value

    def numbers(self, field: Field, end: int, dtype: str, parts: list[npt.NDArray[Any]]) -> int:
        """Append the floats of a repeated field; return where the walk goes on."""
        size = np.dtype(dtype).itemsize
        if field.wire == BYTES:
            if (field.end - field.start) % size:
                raise self.fail(
                    f"damaged or not a {self.what}: the numbers at byte {field.start} fill "
                    f"{field.end - field.start} bytes, no multiple of {size}"
                )
            # Read, not mapped: the arrays are aligned, writable, and outlive the file.
            values = np.empty((field.end - field.start) // size, dtype)
            self.file.seek(field.start)
            self.file.readinto(values.view(np.uint8).data)  # type: ignore[attr-defined]
            parts.append(values)
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

    def _varint(self, at: int, field: int, end: int) -> tuple[int, int]:
        """A varint of the field that begins at `field`."""
        try:
            value, stop = decode_varint(self.content, at)
        except IndexError:
            raise self._cut(field, end, 1) from None
        except ValueError:
            raise self.fail(f"not a {self.what}: byte {at} begins no protobuf number") from None
        if stop > end:
            raise self._cut(field, end, stop - end)
        return value, stop

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


@contextmanager
def opened_wire(path: str | Path, what: str, error: type[CaffeError]) -> Iterator[WireFile]:
    """The binary file at `path`, raising `error` if it is absent, empty or no regular file."""
    require_regular_file(path, error)
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from reason
    with file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as reason:
            raise error(f"{path}: an empty file, not a {what}") from reason
        except OSError as reason:
            raise error(f"{path}: cannot be read: {reason.strerror}") from reason
        with content:
            yield WireFile(path, what, error, file, content)


def wire_of(data: bytes, source: str, what: str, error: type[CaffeError]) -> WireFile:
    """A message in memory; `source` takes the path's place in errors."""
    return WireFile(source, what, error, io.BytesIO(data), data)


def message_field(number: int, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks of a message as the field `number` of another."""
    length = sum(len(chunk) for chunk in chunks)
    return [encode_varint(number << 3 | BYTES) + encode_varint(length), *chunks]


def serialized(message: Message) -> bytes:
    """The message on the wire, with the bytes that its texts stand for (`converters.raw_text`)."""
    data = message.SerializeToString()
    if chr(BASE + 0x80).encode()[:2] not in data:
        return data
    kept = type(message)()
    kept.CopyFrom(message)
    _put_back(kept)
    return kept.SerializeToString()


def _put_back(message: Message) -> None:
    """Replace the texts by their bytes, which protobuf takes from the wire alone."""
    for field, value in message.ListFields():
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            for one in [value] if hasattr(value, "ListFields") else value:
                _put_back(one)
        elif field.type == field.TYPE_STRING:
            texts: list[str] = [value] if isinstance(value, str) else list(value)
            if not all(map(is_utf8, texts)):
                message.ClearField(field.name)
                for text in texts:
                    message.MergeFromString(b"".join(message_field(field.number, [encoded(text)])))


def packed_floats(number: int, values: npt.NDArray[Any]) -> list[Chunk]:
    """The field `number` with `values` as packed floats; no copy of a float32 array is made."""
    flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
    return message_field(number, [flat.view(np.uint8).data]) if flat.size else []


def write_chunks(file: BinaryIO, chunks: Iterable[Chunk]) -> None:
    """Write chunks in their order."""
    for chunk in chunks:
        file.write(chunk)
