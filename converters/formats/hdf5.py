"""HDF5 files, as Caffe's weights, solver states and data come in: opened, made, told from others.

h5py is an extra: it is imported when the first file is. Source: Caffe util/hdf5.cpp.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from converters.errors import CaffeError, import_extra
from converters.formats.whole_files import written_beside

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


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


def import_h5py(purpose: str = "an HDF5 file") -> Any:
    """The h5py module.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_extra("h5py", "h5py", "hdf5", purpose)
