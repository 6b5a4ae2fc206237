"""Tar archives read in place: one pass, nothing unpacked to disk, every member checked.

What a header announces is checked before anything is read or skipped: a few bytes can announce more
than any disk holds, and a small file can decompress to more than any memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Protocol

from converters.errors import DataError

# No member of any set is larger, none of their names longer.
_LARGEST_MEMBER, _LONGEST_HEADER = 1 << 30, 1 << 16
_HEADERS_TOGETHER = 1 << 17  # bytes of all that may lie between two members
_BUFFER = 1 << 16
_COMPRESSED: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


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
    size: int
    stream: Readable


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    # What tarfile makes of numbers and texts in headers, and of hundreds of them for one member.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a tar archive: its headers are damaged ({error})") from error
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: not a whole tar archive: {error}") from error


def members(path: Path) -> Iterator[Member]:
    """The regular files of a `.tar` or `.tar.gz`, in archive order.

    Raises:
        DataError: not a tar archive, damaged, or a member's path leads out of it (absolute, with
            `..`, or a link).
    """
    with (
        _damage(path),
        _decompressed(path) as content,
        tarfile.open(fileobj=content, mode="r|", tarinfo=_Header, bufsize=_BUFFER) as archive,
    ):
        for info in archive:
            _check(path, info)
            content.left = info.size + _HEADERS_TOGETHER
            stream = archive.extractfile(info)
            if stream is not None:
                yield Member(info.name.removeprefix("./"), info.size, _Checked(path, stream))
            # It would keep them all, and a small file can hold very many.
            archive.members.clear()  # type: ignore[attr-defined]


class _Decompressed(io.RawIOBase):
    """A file's bytes, decompressed on the way; `left` is how many more may be asked for."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self.left = _HEADERS_TOGETHER
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes.

        Raises:
            tarfile.ReadError: more was read than there should be before the next member.
        """
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < -_BUFFER:
            raise tarfile.ReadError(f"more than {_HEADERS_TOGETHER} bytes of headers for a member")
        return data


@contextmanager
def _decompressed(path: Path) -> Iterator[_Decompressed]:
    with open(path, "rb") as file:
        opener = _COMPRESSED.get(file.read(2))
    with open(path, "rb") if opener is None else opener(path) as stream:
        yield _Decompressed(stream)


class _Header(tarfile.TarInfo):
    """A member's header, refused as soon as it was read if it announces too much."""

    # The one method that tarfile of every Python calls for a header before it reads what follows,
    # and means to be overridden.
    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        """As tarfile's.

        Raises:
            tarfile.ReadError: it is too large, or sparse: what its headers hold has no bound then.
        """
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"member {self.name!r} is sparse")
        most = _LONGEST_HEADER if self.type in _HEADERS else _LARGEST_MEMBER
        if not 0 <= self.size <= most:
            raise tarfile.ReadError(
                f"member {self.name!r} announces {self.size} bytes; {most} are the most"
            )
        return super()._proc_member(archive)  # type: ignore[misc]


def _check(path: Path, info: tarfile.TarInfo) -> None:
    # Later headers may have changed the size.
    if info.issparse() or not 0 <= info.size <= _LARGEST_MEMBER:
        raise DataError(
            f"{path}: member {info.name!r} announces {info.size} bytes; {_LARGEST_MEMBER} are the "
            "most, and none of them sparse"
        )
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts or not (info.isfile() or info.isdir()):
        raise DataError(
            f"{path}: member {info.name!r} leads out of the archive; only plain files and folders "
            "are read"
        )
