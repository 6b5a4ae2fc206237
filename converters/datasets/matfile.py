"""MATLAB 5 files, as far as SVHN needs them: real numeric arrays, streamed through zlib.

Format (MathWorks, "MAT-File Format"): 128 bytes of header whose last four are the version 0x0100
and "IM" (little-endian) or "MI"; then elements, each a tag (u32 type, u32 bytes) and data padded to
8 bytes. A compressed element (15) is a zlib stream of one matrix element (14); a matrix is a
sequence of elements: flags, dimensions (i32), name, values. A tag whose upper 16 bits are not zero
is a small element: up to four bytes of data lie in the tag itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_COMPLEX = 0x0800
_CHUNK = 1 << 18
_LONGEST_PART = 1 << 12  # bytes of a matrix's flags, dimensions or name
_MOST_TIMES = 1032  # how much larger zlib's bytes may become


class _Stream:
    """The bytes of one element, decompressed on the way; never more than asked for is held."""

    def __init__(self, path: Path, file: IO[bytes], size: int, compressed: bool) -> None:
        self._path = path
        self._file = file
        self._left = size
        self._inflate = zlib.decompressobj() if compressed else None
        self._packed = b""

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; raises DataError if the file ends before."""
        data = bytearray()
        while len(data) < size:
            piece = self._piece(size - len(data))
            if not piece:
                raise DataError(f"{self._path}: truncated")
            data += piece
        return bytes(data)

    def fail(self, reason: str) -> DataError:
        """The error for a damaged element."""
        return DataError(f"{self._path}: damaged: {reason}")

    def _piece(self, size: int) -> bytes:
        if self._inflate is None:
            return self._raw(size)
        while True:
            packed = self._packed or self._raw(_CHUNK)
            try:
                piece = self._inflate.decompress(packed, size)
            except zlib.error as error:
                raise DataError(f"{self._path}: damaged: {error}") from error
            self._packed = self._inflate.unconsumed_tail
            if piece or not packed:
                return piece

    def _raw(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


class _Tag(NamedTuple):
    kind: int
    size: int
    data: bytes | None  # of a small element


def _read_tag(stream: _Stream, order: str) -> _Tag:
    raw = stream.read(8)
    kind, size = struct.unpack(order + "II", raw)
    if kind >> 16:
        return _Tag(kind & 0xFFFF, kind >> 16, raw[4 : 4 + (kind >> 16)])
    return _Tag(kind, size, None)


def _read_element(stream: _Stream, order: str) -> _Tag:
    """A whole small-sized element, with its padding."""
    tag = _read_tag(stream, order)
    if tag.data is not None:
        return tag
    if tag.size > _LONGEST_PART:
        raise stream.fail(
            f"{tag.size} bytes before a matrix's values; {_LONGEST_PART} are the most"
        )
    return _Tag(tag.kind, tag.size, stream.read(-(-tag.size // 8) * 8)[: tag.size])


@dataclass(frozen=True)
class Variable:
    """A numeric array in a file: `shape` as MATLAB says it, `dtype` as it is stored."""

    path: Path
    offset: int
    size: int
    compressed: bool
    order: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: bytes | None

    def blocks(self, size: int) -> Iterator[tuple[int, bytes]]:
        """The values in storage order (first index fastest), `size` bytes at once: (offset, bytes).

        Raises:
            DataError: the file is truncated or damaged.
        """
        total = prod(self.shape) * self.dtype.itemsize
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            stream = _Stream(self.path, file, self.size, self.compressed)
            _read_header(stream, self.order)
            for start in range(0, total, size):
                length = min(size, total - start)
                yield start, stream.read(length) if self.data is None else self.data[start:][:size]

    def array(self) -> NDArray[Any]:
        """All values (`shape`), for small variables."""
        values = b"".join(data for _, data in self.blocks(_CHUNK))
        return np.frombuffer(values, self.dtype).reshape(self.shape, order="F")


class _Header(NamedTuple):
    name: str
    shape: tuple[int, ...]
    complex: bool
    values: _Tag


def _read_header(stream: _Stream, order: str) -> _Header | None:
    """What precedes a matrix's values; None if the element is no matrix."""
    if _read_tag(stream, order).kind != _MATRIX:
        return None
    flags = _read_element(stream, order).data or b""
    dimensions = _read_element(stream, order).data or b""
    name = _read_element(stream, order).data or b""
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    is_complex = bool(struct.unpack(order + "I", flags[:4])[0] & _COMPLEX)
    return _Header(name.decode("latin-1"), shape, is_complex, _read_tag(stream, order))


def variables(path: Path) -> dict[str, Variable]:
    """The real numeric arrays of a file by name; only the beginning of each is read.

    Raises:
        DataError: not a MATLAB 5 file, truncated or damaged.
    """
    found = {}
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            order = _byte_order(path, file.read(128))
            while file.tell() < size:
                tag = file.read(8)
                if len(tag) < 8:
                    raise DataError(f"{path}: truncated")
                kind, length = struct.unpack(order + "II", tag)
                compressed = kind == _COMPRESSED
                # An element that is not compressed starts with the tag that was just read.
                start = file.tell() if compressed else file.tell() - 8
                end = file.tell() + length
                if end > size:
                    raise DataError(f"{path}: truncated: {size} bytes of at least {end}")
                file.seek(start)
                header = _read_header(_Stream(path, file, end - start, compressed), order)
                if header and not header.complex and header.values.kind in _NUMBERS:
                    dtype = np.dtype(order + _NUMBERS[header.values.kind])
                    if min(header.shape, default=-1) < 0 or header.values.size != (
                        prod(header.shape) * dtype.itemsize
                    ):
                        raise DataError(
                            f"{path}: damaged: {header.values.size} bytes of {dtype} for "
                            f"{header.name} of shape {header.shape}"
                        )
                    most = (end - start) * (_MOST_TIMES if compressed else 1)
                    if header.values.data is None and header.values.size > most:
                        raise DataError(
                            f"{path}: damaged: {header.name} announces {header.values.size} bytes, "
                            f"its element holds at most {most}"
                        )
                    found[header.name] = Variable(
                        path,
                        start,
                        end - start,
                        compressed,
                        order,
                        header.name,
                        header.shape,
                        dtype,
                        header.values.data,
                    )
                file.seek(end)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except struct.error as error:
        raise DataError(f"{path}: damaged: {error}") from error
    return found


def _byte_order(path: Path, header: bytes) -> str:
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    if order is None or struct.unpack(order + "H", header[124:126]) != (0x0100,):
        raise DataError(f"{path}: not a MATLAB 5 file (v7.3 and v4 are not read)")
    return order
