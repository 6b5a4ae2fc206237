"""Output files that are whole or absent: written beside their final name and renamed into place.

They are written in a hidden folder `.NAME.….partial` that its process keeps locked. What a killed
process leaves behind is not locked any more: the next one that writes NAME removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converters.errors import OutputError

_SUFFIX = ".partial"


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name, in a folder beside; move it to `path` if the block succeeds.

    The block may write a file or make a folder there. Missing parent folders are made. If the block
    raises, or is interrupted, what it wrote is removed and `path` is untouched.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    final = Path(path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(final)
        with _workplace(final) as folder:
            partial = folder / final.name
            yield partial
            _sync(partial)
            os.replace(partial, final)
    except OSError as error:
        raise output_error(final, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """The one-line reason why `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full ({_free_bytes(path)} bytes free)")
    named = isinstance(error.filename, str) and _SUFFIX not in error.filename
    place = error.filename if named else path.parent
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


@contextmanager
def _workplace(final: Path) -> Iterator[Path]:
    """A new hidden folder beside `final`, locked while this process lives, removed at the end."""
    lock = None
    while True:
        folder = Path(tempfile.mkdtemp(_SUFFIX, f".{final.name}.", final.parent))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # between the two steps another process took it for an abandoned one
        except OSError:
            pass  # a file system without locks: there nobody removes anything
        break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_abandoned(final: Path) -> None:
    """Remove what killed processes left when they wrote `final`."""
    with os.scandir(final.parent) as entries:
        left = [
            Path(entry.path)
            for entry in entries
            if entry.name.startswith(f".{final.name}.") and entry.name.endswith(_SUFFIX)
        ]
    for folder in left:
        with suppress(OSError):  # in use, or not ours to remove
            lock = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a folder until the result is closed or the process ends.

    Raises:
        OSError: BlockingIOError if it is taken, FileNotFoundError if it is gone, others where it is
            no folder or the file system knows no locks.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
    except OSError:
        os.close(handle)
        raise
    return handle
