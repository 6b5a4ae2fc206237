"""What an official file of a data set is; `download` fetches it, `source` finds it."""

from __future__ import annotations

from typing import NamedTuple


class Archive(NamedTuple):
    """An official file: its name, address and MD5 (of the decompressed bytes if `unpacked`)."""

    file: str
    url: str
    md5: str
    unpacked: bool = False
