"""HDF5 files, as Caffe's weights, solver states and data come in: opened, made, told from others.

h5py is an extra: it is imported when the first file is. Source: Caffe util/hdf5.cpp.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import CaffeError, OutputError, import_extra
from converters.formats.input_files import require_regular_file
from converters.formats.whole_files import written_beside
from converters.memory import ran_out, require_memory

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: str | Path) -> bool:
    """Whether the file begins as HDF5 files do; False for one that cannot be read."""
    try:
        if not os.path.isfile(path):  # a pipe would not open
            return False
        with open(path, "rb") as file:
            return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:
        return False


# What h5py raises about files that are damaged, or not what they should be.
_DISLIKED = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError)


@contextmanager
def opened_hdf5(path: str | Path, what: str, error: type[CaffeError]) -> Iterator[Any]:
    """An h5py.File to read; whatever h5py dislikes about the file is raised as `error`."""
    h5py = import_h5py()
    require_regular_file(path, error)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _DISLIKED as reason:
        text = " ".join(str(reason).split())
        raise error(f"{path}: cut short or not a {what} in HDF5: {text}") from reason


def member(group: Any, name: str) -> Any:
    """The group or dataset `name` of a group, from this very file.

    Raises:
        ValueError: there is none, or it lies in another file: those of whoever made this one could
            not be told from any other file of this machine.
    """
    h5py = import_h5py()
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise ValueError(f"{group.name}/{name} is a link to another file, {link.filename!r}")
    found = group.get(name)
    if found is None:
        raise ValueError(f"{group.name}/{name} is absent, or a link that leads nowhere")
    if found.file.filename != group.file.filename:
        raise ValueError(f"{group.name}/{name} leads to another file, {found.file.filename!r}")
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise ValueError(f"{group.name}/{name} has its values in another file")
    return found


def is_group(item: Any) -> bool:
    """Whether a member is a group, and no dataset or type."""
    return isinstance(item, import_h5py().Group)


def numbers(item: Any, error: type[CaffeError], dtype: str = "<f4") -> npt.NDArray[Any]:
    """The values of a dataset of real numbers.

    Raises:
        ValueError: it is no dataset, or of text, complex numbers or references.
        error: it claims more values than there is memory.
    """
    if not isinstance(item, import_h5py().Dataset):
        raise ValueError(f"{item.name} is no dataset")
    if item.dtype.kind not in "fiu" or item.shape is None:
        raise ValueError(f"{item.name} holds {item.dtype}, no numbers")
    # As it is stored, and once more as `dtype`; what is compressed may be a thousandth of that.
    wide = item.dtype.itemsize + np.dtype(dtype).itemsize
    require_memory(
        math.prod(item.shape) * wide, f"{item.file.filename}: {item.name} {item.shape}", error
    )
    with np.errstate(over="ignore"):  # a number too large for float32 is infinity, as in C
        return np.asarray(item[()]).astype(dtype, copy=False)


@contextmanager
def filled_hdf5(path: str | Path, name: str | Path = "") -> Iterator[Any]:
    """An h5py.File to write, built in memory; its bytes become the file `path` at the end.

    The library ends the process when it cannot write (a full disk), so it is given no file.

    Raises:
        OSError: the file cannot be written.
        OutputError: too little memory; `name` stands for `path` in it.
    """
    h5py = import_h5py()
    try:
        with h5py.File(Path(path).name, "w", driver="core", backing_store=False) as file:
            yield file
            file.flush()
            image = file.id.get_file_image()
    except (OSError, RuntimeError, MemoryError) as reason:
        if ran_out(reason) or "unable to allocate" in str(reason):
            raise OutputError(
                f"{name or path}: too little memory to build the HDF5 file"
            ) from reason
        raise
    with open(path, "wb") as stream:
        stream.write(image)


@contextmanager
def created_hdf5(path: str | Path) -> Iterator[Any]:
    """An h5py.File to write, whole or absent.

    Raises:
        OutputError: the file cannot be written, or does not fit into memory.
    """
    with written_beside(path) as partial, filled_hdf5(partial, path) as file:
        yield file


def import_h5py(purpose: str = "an HDF5 file") -> Any:
    """The h5py module.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_extra("h5py", "h5py", "hdf5", purpose)
