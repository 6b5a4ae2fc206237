"""Tar archives read in place: one pass, nothing unpacked to disk, every member checked."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Protocol

from converters.errors import DataError


class Readable(Protocol):
    """What a set's reader needs of a file."""

    def read(self, size: int = -1, /) -> bytes: ...


class _Checked:
    """A member's bytes; damage met while reading is a DataError that names the archive."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path = path
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        with _damage(self._path):
            return self._stream.read(size)


class Member(NamedTuple):
    """A regular file inside an archive; `stream` is readable until the next member is asked for."""

    name: str
    stream: Readable


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    # TypeError: what tarfile makes of a gzip header that ends within itself.
    except (tarfile.TarError, EOFError, OSError, TypeError, zlib.error) as error:
        raise DataError(f"{path}: not a whole tar archive: {error}") from error


def members(path: Path) -> Iterator[Member]:
    """The regular files of a `.tar` or `.tar.gz`, in archive order.

    Raises:
        DataError: not a tar archive, damaged, or a member's path leads out of it (absolute, with
            `..`, or a link).
    """
    with _damage(path), tarfile.open(path, "r|*") as archive:
        for info in archive:
            _check(path, info)
            stream = archive.extractfile(info)
            if stream is not None:
                yield Member(info.name.removeprefix("./"), _Checked(path, stream))


def _check(path: Path, info: tarfile.TarInfo) -> None:
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts or not (info.isfile() or info.isdir()):
        raise DataError(
            f"{path}: member {info.name!r} leads out of the archive; only plain files and folders "
            "are read"
        )
