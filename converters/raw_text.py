"""Text of files whose bytes are not all UTF-8, as names and paths in GBK or Latin-1 are.

Caffe keeps such bytes as they are; protobuf's Python strings cannot. A byte that is no UTF-8 stands
in them as a character of its own, from Unicode's private use area, until it is written again: as
a file's name (`file_name`), in a caffemodel (`serialized`) or a prototxt (`encoded`).
"""

from __future__ import annotations

import os
import re

from google.protobuf.message import Message

BASE = 0x10FE00
"""The character of a byte is this plus the byte, which is 0x80 or more."""
_TO_OURS = {0xDC00 + byte: BASE + byte for byte in range(0x80, 0x100)}
_TO_PYTHONS = {ours: escape for escape, ours in _TO_OURS.items()}
_OURS = re.compile(f"[{chr(BASE + 0x80)}-{chr(BASE + 0xFF)}]")
_BYTES, _TAG_BITS = 2, 3


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


def serialized(message: Message) -> bytes:
    """The message on the wire, with the bytes that its texts stand for."""
    data = message.SerializeToString()
    if chr(BASE + 0x80).encode()[:2] not in data:
        return data
    kept = type(message)()
    kept.CopyFrom(message)
    _put_back(kept)
    return kept.SerializeToString()


def _put_back(message: Message) -> None:
    """Replace the texts by their bytes, which protobuf takes from the wire alone."""
    for field, value in message.ListFields():
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            for one in [value] if isinstance(value, Message) else value:
                _put_back(one)
        elif field.type == field.TYPE_STRING:
            texts: list[str] = [value] if isinstance(value, str) else list(value)
            if any(map(_OURS.search, texts)):
                message.ClearField(field.name)
                message.MergeFromString(b"".join(_field(field.number, text) for text in texts))


def _field(number: int, text: str) -> bytes:
    content = encoded(text)
    return _varint(number << _TAG_BITS | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
