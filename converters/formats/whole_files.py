"""Output files that are whole or absent: written beside their final name and renamed into place.

They are written in a hidden folder `.NAME.….partial` that its process keeps locked. What a killed
process leaves behind is not locked any more: the next one that writes NAME removes it.

A name that exists and is no regular file is never replaced: a link is written through, a device and
a FIFO are given the bytes, a folder and a socket are refused (`destination`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from converters.errors import OutputError

_SUFFIX = ".partial"
_MOST_LINKS = 40  # as Linux follows


@contextmanager
def written_beside(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a path of the same name, in a folder beside; move it to `path` if the block succeeds.

    The block writes a file there, or makes a `folder`. Missing parent folders are made. If the
    block raises, or is interrupted, what it wrote is removed and `path` is untouched. A device or
    FIFO is given the bytes once they are all there.

    Raises:
        OutputError: the folder cannot be made or written, the disk is full, `path` is a socket, or
            a folder where a file is written, or one with something in it.
        BrokenPipeError: the reader of a pipe went away.
    """
    named = Path(path)
    with _errors(named):
        place = destination(named, folder)
        if isinstance(place, Path):
            place.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(place)
            with _workplace(place) as workplace:
                partial = workplace / place.name
                with _errors(named):  # here, before what was written is removed and makes room
                    yield partial
                    _sync(partial)
                    os.replace(partial, place)
        else:
            with tempfile.TemporaryDirectory(_SUFFIX) as scratch:
                partial = Path(scratch) / named.name
                yield partial
                place.take(partial)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(path, error) from error


class Stream(NamedTuple):
    """A device, a FIFO or one of our own open files: it is given bytes and never replaced."""

    path: Path
    number: int | None = None

    def take(self, file: Path) -> None:
        """Write what is in `file`."""
        if self.number == 1 and sys.stdout is not None:
            sys.stdout.flush()  # what was printed before stands before
        opened = os.open(self.path, os.O_WRONLY) if self.number is None else os.dup(self.number)
        with open(file, "rb") as source, open(opened, "wb") as sink:
            shutil.copyfileobj(source, sink)


def destination(path: Path, folder: bool = False) -> Path | Stream:
    """Where what is written to `path` goes: behind all links, to a file, present or not, or stream.

    With `folder` an empty folder may be there, and no file.

    Raises:
        OutputError: `path` is a folder, a socket, or links without end.
    """
    number = _own_file(path)
    if number is not None:
        return Stream(path, number)
    try:
        mode = path.stat().st_mode
        is_folder = stat.S_ISDIR(mode)
        if stat.S_ISREG(mode) or (is_folder and folder and not any(path.iterdir())):
            return Path(os.path.realpath(path))
    except FileNotFoundError:
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    except OSError as error:
        raise output_error(path, error) from error
    if is_folder:
        raise OutputError(f"{path}: is a folder; name a file in it, or another place")
    if stat.S_ISSOCK(mode):
        raise OutputError(f"{path}: is a socket; name a file")
    return Stream(path)


def _own_file(path: Path) -> int | None:
    """The number of the open file that /dev/stdout, /dev/fd/N and their like name; else None.

    The file behind it may be regular (`> file`), but whoever opened it goes on writing there.
    """
    for _ in range(_MOST_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) == f"/proc/{os.getpid()}/fd":
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None


def output_error(path: Path, error: OSError) -> OutputError:
    """The one-line reason why `path` could not be written."""
    if error.errno == errno.ENOSPC:
        free = os.statvfs(_existing_folder(path))
        if free.f_files and not free.f_favail and free.f_bavail:
            return OutputError(
                f"{path}: {_NO_INODES}: the file system holds {free.f_files} files and no more"
            )
        return OutputError(f"{path}: {_FULL} ({free.f_bavail * free.f_frsize} bytes free)")
    if error.errno == errno.EDQUOT:
        return OutputError(f"{path}: {_QUOTA}")
    named = isinstance(error.filename, str) and _SUFFIX not in error.filename
    place = error.filename if named else path.parent
    return OutputError(f"{path}: cannot be written: {place}: {error.strerror or error}")


_FULL, _NO_INODES, _QUOTA = "the disk is full", "no inodes left", "the disk quota is used up"


def is_about_space(reason: str) -> bool:
    """Whether an error's text says that there was no room left: no fault of what was written."""
    return any(words in reason for words in (_FULL, _NO_INODES, _QUOTA))


def _existing_folder(path: Path) -> Path:
    return next((folder for folder in path.parents if folder.is_dir()), Path("/"))


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
