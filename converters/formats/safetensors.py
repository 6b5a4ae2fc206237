"""Named arrays of float32 in a .safetensors file.

8 bytes with the length of the header (little-endian), the header in JSON: for each name `dtype`,
`shape` and `data_offsets` from the header's end; then the values, little-endian, in the order of
the names. `__metadata__` has strings of one's own. The header ends with blanks, so that the values
begin at a multiple of 8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from converters.errors import WeightsError

FLOAT = "F32"
_VALUES = np.dtype("<f4")
_LENGTH = 8
_METADATA = "__metadata__"

Arrays = Mapping[str, npt.NDArray[np.float32]]


class Stored(NamedTuple):
    """What a file holds."""

    arrays: dict[str, npt.NDArray[np.float32]]
    metadata: dict[str, str]


def write_safetensors(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write the arrays in their order."""
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.size * _VALUES.itemsize
        entry = {"dtype": FLOAT, "shape": list(array.shape), "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(_LENGTH, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, _VALUES).tobytes())


def read_safetensors(path: Path) -> Stored:
    """What `write_safetensors` wrote.

    Raises:
        WeightsError: the file is none, is cut off, or holds another type than float32.
    """
    data = path.read_bytes()
    start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    try:
        if start > len(data):
            raise ValueError(f"a header of {start - _LENGTH} bytes in a file of {len(data)}")
        header = json.loads(data[_LENGTH:start])
        metadata = header.pop(_METADATA, {})
        arrays = {name: _array(data, start, **entry) for name, entry in header.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: is no .safetensors file of float32: {error}") from error
    return Stored(arrays, metadata)


def _array(
    data: bytes, start: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> npt.NDArray[np.float32]:
    if dtype != FLOAT:
        raise ValueError(f"dtype {dtype}")
    first, end = data_offsets
    if end - first != math.prod(shape) * _VALUES.itemsize:
        raise ValueError(f"shape {shape} in {end - first} bytes")
    values = np.frombuffer(data, _VALUES, math.prod(shape), start + first)
    return values.astype(np.float32).reshape(shape)
