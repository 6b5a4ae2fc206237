"""Output files that are whole or absent: written beside their final name and renamed into place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.errors import OutputError


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` if the block succeeds.

    The block may write a file or make a folder there. Missing parent folders are made. If the block
    raises, or is interrupted, what it wrote is removed and `path` is untouched.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    final = Path(path)
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _sync(partial)
        os.replace(partial, final)
    except OSError as error:
        raise output_error(final, error) from error
    finally:
        _remove(partial)


def output_error(path: Path, error: OSError) -> OutputError:
    """The one-line reason why `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full ({_free_bytes(path)} bytes free)")
    place = error.filename if isinstance(error.filename, str) else path.parent
    return OutputError(f"{path}: cannot be written: {place}: {error.strerror or error}")


def _free_bytes(path: Path) -> int:
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _sync(path: Path) -> None:
    if path.is_file():
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True) if path.parent.is_dir() else None
