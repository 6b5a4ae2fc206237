"""NumPy's archives of arrays (.npz), read so that nothing in the file decides what is allocated.

Written by `numpy.savez`: a zip file of stored, uncompressed members, each NAME.npy. `numpy.load`
allocates what a member's header claims before it reads, and takes any compression.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import CaffeError
from converters.formats.input_files import require_regular_file

Arrays = Mapping[str, npt.NDArray[Any]]

_ENCRYPTED = 1
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zipfile, and NumPy's parser of headers, raise about damaged bytes.
_DISLIKED = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    EOFError,
    MemoryError,
    OSError,
    struct.error,
    zlib.error,
)


def read_npz(path: str | Path, error: type[CaffeError]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an archive by name; they cannot be written to.

    Raises:
        error: the file cannot be read, is damaged, or was not written by `numpy.savez`.
    """
    require_regular_file(path, error)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = Path(path).stat().st_size
            if sum(member.file_size for member in members) > size:
                raise ValueError("its members claim more bytes than the file has")
            return {
                member.filename.removesuffix(".npy"): _array(archive, member) for member in members
            }
    except _DISLIKED as reason:
        text = " ".join(str(reason).split())
        raise error(f"{path}: is damaged ({text or type(reason).__name__})") from reason


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
        raise ValueError(f"{member.filename!r} is compressed or encrypted")
    data = archive.read(member)
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{member.filename!r} is of version {version} of NumPy's format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers of old Pythons, which are errors soon enough
        shape, fortran, dtype = _HEADERS[version](stream)
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"{member.filename!r} holds {dtype}, no numbers")
    begin = stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - begin:
        raise ValueError(f"{member.filename!r} does not fill its shape {shape} of {dtype}")
    values = np.frombuffer(data, dtype, offset=begin)
    return values.reshape(shape, order="F" if fortran else "C")
