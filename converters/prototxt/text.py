"""Prototxt text to messages and back, with Caffe's upgrades of old files.

`converters.prototxt.upgrade` holds the upgrades, `converters.net.caffe_net` what a net then
becomes. Importing this module costs protobuf alone.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from converters.errors import PrototxtError
from converters.proto import caffe_pb2 as pb

AnyMessage = TypeVar("AnyMessage", bound=Message)


def parse_text(text: str, message: AnyMessage, source: str) -> AnyMessage:
    """Parse prototxt `text` into `message` and return it.

    Raises:
        PrototxtError: `source:line:column: what was wrong`.
    """
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        line, column = error.GetLine(), error.GetColumn()
        place = f"{source}:{line}:{column}" if line is not None else source
        reason = str(error).removeprefix(f"{line}:{column} : ").replace("\n", " ")
        raise PrototxtError(f"{place}: {reason}{_hint(reason)}") from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise PrototxtError(f"{source}: {error}") from error
    return message


# Fields of well-known forks of Caffe, and how Caffe says the same.
FORKS = {
    "ceil_mode": "a fork's; in Caffe `ceil_mode: false` is `round_mode: FLOOR`, true the default",
    "permute_param": "of SSD's fork; Caffe has no Permute layer",
    "resize_param": "of SSD's fork; Caffe resizes images when the database is built",
}
UNKNOWN_FIELD = re.compile(r'Message type "caffe\.(\w+)" has no field named "(\w+)"')


def _hint(reason: str) -> str:
    """What an unknown field's message would accept, if that is what was wrong."""
    match = UNKNOWN_FIELD.match(reason)
    if match is None:
        return ""
    message, field = match.groups()
    if field in FORKS:
        return f" This field is {FORKS[field]}."
    known = list(pb.DESCRIPTOR.message_types_by_name[message].fields_by_name)
    near = difflib.get_close_matches(field, known, 3)
    return f" Did you mean {' or '.join(near)}?" if near else f" It has {', '.join(known)}."


def read_text(path: str | Path) -> str:
    """The text of a prototxt file; raises PrototxtError when there is none."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PrototxtError(
            f"{path}: not a text file (byte {error.start} is not UTF-8); "
            "a binary .caffemodel goes to --weights"
        ) from error
    except OSError as error:
        raise PrototxtError(f"{path}: cannot be read: {error.strerror}") from error


def read_net(path: str | Path) -> pb.NetParameter:
    """Read a net and bring an old one (V0, V1, `input:` fields …) to today's form."""
    return parse_net(read_text(path), str(path))


def parse_net(text: str, source: str = "<text>") -> pb.NetParameter:
    """As `read_net`, from a string; `source` names it in errors."""
    from converters.prototxt.upgrade import upgrade_net

    return upgrade_net(parse_text(text, pb.NetParameter(), source), source)


def read_solver(path: str | Path) -> pb.SolverParameter:
    """Read a solver file; the old `solver_type` enum becomes `type`."""
    from converters.prototxt.upgrade import upgrade_solver

    return upgrade_solver(parse_text(read_text(path), pb.SolverParameter(), str(path)), str(path))


def to_text(message: Message) -> str:
    """A message as prototxt, one field a line, floats in their shortest form."""
    return text_format.MessageToString(message)
