"""One process at a time: locks that die with the process that holds them.

`only_writer` keeps others from what is being written: flock on an empty hidden file `.NAME.lock`
beside it, removed at the end; what a killed process leaves of it locks nobody out. Where the file
system knows no locks, or the folder cannot be written, work goes on without one. `inherited_lock`
is a file of its own that child processes may hold on to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from converters.errors import OutputError
from converters.formats.whole_files import output_error

_PATIENCE = 100  # tries: others make and remove the same file and folder meanwhile


class _Taken(NamedTuple):
    """An open lock file, None where locks are not to be had; the folders that were made for it."""

    handle: int | None
    made: tuple[Path, ...] = ()

    def release(self, place: Path) -> None:
        """Leave nothing: no file, and no folder that was made and never used."""
        if self.handle is not None:
            with suppress(OSError):
                place.unlink()  # while it is locked: whoever waits for this file sees it gone
            os.close(self.handle)
        for folder in self.made:
            with suppress(OSError):
                folder.rmdir()


class _Held(NamedTuple):
    """A lock of this process, and how often it was taken."""

    taken: _Taken
    times: int


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextmanager
def only_writer(path: str | Path, other: str, way_out: str) -> Iterator[None]:
    """Keep other processes from the block while this one is in it; one may take it again inside.

    Args:
        path: what is written, a file, a folder or a prefix; nothing of that name is touched.
        other: who else may hold it, for the error: "another training".
        way_out: what the user can do about it.

    Raises:
        OutputError: another process holds it, told with its number.
    """
    folder, name = os.path.split(path)
    place = Path(os.path.realpath(folder), f".{name}.lock")
    with _guard:
        taken, times = _held.get(place) or _Held(_take(place, Path(path), other, way_out), 0)
        _held[place] = _Held(taken, times + 1)
    try:
        yield
    finally:
        with _guard:
            taken, times = _held.pop(place)
            if times > 1:
                _held[place] = _Held(taken, times - 1)
            else:
                taken.release(place)


def _take(place: Path, path: Path, other: str, way_out: str) -> _Taken:
    for _ in range(_PATIENCE):
        made = tuple(folder for folder in place.parents if not folder.exists())
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            continue
        except OSError:
            return _Taken(None, made)  # what is written there next says why, if it does not go
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(place), os.fstat(handle)):
                with suppress(OSError):  # a full disk: the number is for the error alone
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, str(os.getpid()).encode(), 0)
                return _Taken(handle, made)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                number = os.pread(handle, 20, 0).decode("ascii", "replace")
                os.close(handle)
                process = f"process {number}" if number.isdecimal() else "its process is not known"
                raise OutputError(f"{path}: {other} writes there ({process}); {way_out}") from error
            os.close(handle)
            return _Taken(None, made)
        os.close(handle)  # its holder has just removed it
    return _Taken(None)


@contextmanager
def inherited_lock(path: Path, patience: float) -> Iterator[int | None]:
    """Lock the file `path`, trying for `patience` seconds; yields its handle, None if it is taken.

    The lock lasts while a process holds the handle, children that inherit it included: what a
    killed process leaves behind is free once the last of them has ended.

    Raises:
        OutputError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise output_error(path, error) from error
    until = time.monotonic() + patience
    try:
        while not _flock(handle, fcntl.LOCK_EX):
            if time.monotonic() >= until:
                yield None
                return
            time.sleep(0.05)
        yield handle
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of `inherited_lock`; who takes it now may have to wait."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _flock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _flock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
