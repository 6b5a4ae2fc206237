"""Text of files whose bytes are not all UTF-8, as names and paths in GBK or Latin-1 are.

Caffe keeps such bytes as they are; protobuf's Python strings cannot. A byte that is no UTF-8 stands
in them as a character of its own, from Unicode's private use area, until it is written again: as
a file's name (`file_name`), in a caffemodel (`converters.formats.wire.serialized`) or a prototxt
(`encoded`).
"""

from __future__ import annotations

import os
import re

BASE = 0x10FE00
"""The character of a byte is this plus the byte, which is 0x80 or more."""
_TO_OURS = {0xDC00 + byte: BASE + byte for byte in range(0x80, 0x100)}
_TO_PYTHONS = {ours: escape for escape, ours in _TO_OURS.items()}
_OURS = re.compile(f"[{chr(BASE + 0x80)}-{chr(BASE + 0xFF)}]")


def decoded(data: bytes) -> str:
    """The bytes as text that protobuf takes."""
    return storable(data.decode("utf-8", errors="surrogateescape"))


def encoded(text: str) -> bytes:
    """The bytes that `decoded` was given."""
    return text.translate(_TO_PYTHONS).encode("utf-8", errors="surrogateescape")


def storable(name: str) -> str:
    """A name as the command line or the file system gives it, as text that protobuf takes."""
    return name if name.isascii() else name.translate(_TO_OURS)


def file_name(text: str) -> str:
    """The path that a field of a message means."""
    return os.fsdecode(encoded(text)) if _OURS.search(text) else text


def is_utf8(text: str) -> bool:
    """Whether the text stands for bytes that are all UTF-8."""
    return _OURS.search(text) is None
