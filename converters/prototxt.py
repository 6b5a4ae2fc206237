"""Prototxt text to messages and back, with Caffe's upgrades of old files.

`converters.upgrade` holds the upgrades, `converters.graph` what a net then becomes. Importing this
module costs protobuf alone.
"""

from __future__ import annotations

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
        raise PrototxtError(f"{place}: {reason}") from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise PrototxtError(f"{source}: {error}") from error
    return message


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
    from converters.upgrade import upgrade_net

    return upgrade_net(parse_text(text, pb.NetParameter(), source), source)


def read_solver(path: str | Path) -> pb.SolverParameter:
    """Read a solver file; the old `solver_type` enum becomes `type`."""
    from converters.upgrade import upgrade_solver

    return upgrade_solver(parse_text(read_text(path), pb.SolverParameter(), str(path)), str(path))


def to_text(message: Message) -> str:
    """A message as prototxt, one field a line, floats in their shortest form."""
    return text_format.MessageToString(message)
