"""Files to be read: that they end, are not too large to hold, and how their text is encoded."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from pathlib import Path

from converters.errors import CaffeError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_MARKS = {
    codecs.BOM_UTF8: "a UTF-8 byte order mark (EF BB BF)",
    codecs.BOM_UTF16_LE: "a UTF-16 byte order mark (FF FE)",
    codecs.BOM_UTF16_BE: "a UTF-16 byte order mark (FE FF)",
}


def require_regular_file(path: str | Path, error: type[CaffeError]) -> None:
    """Raise `error` unless `path` is a regular file, or a link to one.

    A pipe may wait for ever, a device may never end.

    Raises:
        error: it is absent, has a name that no file can have, or is a folder, a pipe, a device.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from reason
    except ValueError as reason:  # a zero byte, or a character that the file system has not
        raise error(f"{path}: cannot be read: {reason}") from reason
    if kind != stat.S_IFREG:
        found = _KINDS.get(kind, "something else")
        raise error(f"{path}: cannot be read: it is {found}, no regular file")


def byte_order_mark(content: bytes) -> str:
    """What to say of the mark that `content` begins with; "" without one."""
    what = next((what for mark, what in _MARKS.items() if content.startswith(mark)), "")
    return what and f"{what}; save it as UTF-8 without one"


def read_file(path: str | Path, most: int = 1 << 30) -> bytes:
    """The bytes of a regular file, or of a pipe that something writes to.

    Raises:
        OSError: it cannot be read, is something else (a device may have no end), or has more than
            `most` bytes.
        ValueError: no file can have this name.
    """
    # A pipe that nobody writes to would never open; not waiting, it is empty.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISFIFO(status.st_mode):
            raise OSError(errno.EINVAL, "neither a regular file nor a pipe")
        os.set_blocking(handle, True)
        data = b"" if status.st_size > most else file.read(most + 1)
    if status.st_size > most or len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes")
    return data
