"""Files to be read: regular ones alone, because a pipe waits for ever and a device never ends."""

from __future__ import annotations

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


def require_regular_file(path: str | Path, error: type[CaffeError]) -> None:
    """Raise `error` unless `path` is a regular file, or a link to one.

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
