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
from converters.formats.input_files import require_regular_file
from converters.proto import caffe_pb2 as pb
from converters.prototxt.kind import is_net, is_solver, net_of_solver
from converters.raw_text import decoded

AnyMessage = TypeVar("AnyMessage", bound=Message)


def parse_text(text: str, message: AnyMessage, source: str) -> AnyMessage:
    """Parse prototxt `text` into `message` and return it.

    Raises:
        PrototxtError: `source:line:column: what was wrong`.
    """
    if "\\" in text:
        text = _with_escapes(text, source)
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


_COMMENT_OR_STRING = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
# What C++'s tokenizer takes; runs of numbers are one match, because together they may be UTF-8.
_ESCAPE = re.compile(
    r"""(?P<bytes>(?:\\[0-7]{1,3}|\\[xX][0-9a-fA-F]{1,2})+)"""
    r"""|\\(?:[abfnrtv\\'"]|u[0-9a-fA-F]{4}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})"""
    r"""|(?P<question>\\\?)|(?P<wrong>\\.?)""",
    re.DOTALL,
)
_NUMBER = re.compile(r"\\(?:[xX]([0-9a-fA-F]{1,2})|([0-7]{1,3}))")


def _with_escapes(text: str, source: str) -> str:
    """The text with the escapes that C++ knows and Python's protobuf does not in its own form.

    Raises:
        PrototxtError: an escape that C++ does not know, as in a path of Windows.
    """

    def rewritten(literal: re.Match[str]) -> str:
        if literal[0].startswith("#"):
            return literal[0]
        return _ESCAPE.sub(lambda match: one(match, literal.start()), literal[0])

    def one(match: re.Match[str], at: int) -> str:
        if match["question"]:
            return "?"
        if match["wrong"]:
            before = text[: at + match.start()]
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            raise PrototxtError(
                f"{source}:{line}:{column}: {match[0][:20]} is no escape of a prototxt; in a path "
                "write / for each backslash"
            )
        if not match["bytes"]:
            return match[0]
        values = [int(h, 16) if h else int(o, 8) & 0xFF for h, o in _NUMBER.findall(match[0])]
        return (
            "".join(
                letter
                if " " <= letter != "\x7f" and letter not in "\\\"'"
                else f"\\{ord(letter):03o}"
                for letter in decoded(bytes(values))
            )
            if max(values) > 0x7F
            else match[0]
        )

    return _COMMENT_OR_STRING.sub(rewritten, text)


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


# What no text has: zero bytes and most of the other control characters.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32 text"),
    (b"\x00\x00\xfe\xff", "UTF-32 text"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"\xef\xbb\xbf", "UTF-8 text with a byte order mark (BOM)"),
)


def read_text(path: str | Path) -> str:
    """The text of a prototxt file, as `text_of`.

    Raises:
        PrototxtError: there is none.
    """
    require_regular_file(path, PrototxtError)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PrototxtError(f"{path}: cannot be read: {error.strerror}") from error
    return text_of(content, str(path))


def text_of(content: bytes, source: str) -> str:
    """The text in a prototxt's bytes; what is not UTF-8 is kept as `converters.raw_text` says.

    Raises:
        PrototxtError: it is UTF-16, has a byte order mark, or is no text.
    """
    for mark, what in _MARKS:
        if content.startswith(mark):
            raise PrototxtError(f"{source}: is {what}; save it as UTF-8 without a BOM")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if _BINARY.search(content):
            raise PrototxtError(
                f"{source}: not a text file (byte {error.start} is not UTF-8); "
                "a binary .caffemodel goes to --weights"
            ) from error
        return decoded(content)


def read_net(path: str | Path) -> pb.NetParameter:
    """Read a net and bring an old one (V0, V1, `input:` fields …) to today's form.

    Raises:
        PrototxtError: it cannot be read or parsed, or is a solver.
    """
    text = read_text(path)
    if is_solver(text):
        named = net_of_solver(text)
        net = f"; its net is {named}: give that, or" if named else ";"
        raise PrototxtError(
            f"{path}: is a solver where a net is wanted{net} train with `gmnet train {path}`"
        )
    return parse_net(text, str(path))


def parse_net(text: str, source: str = "<text>") -> pb.NetParameter:
    """As `read_net`, from a string; `source` names it in errors."""
    from converters.prototxt.upgrade import upgrade_net

    return upgrade_net(parse_text(text, pb.NetParameter(), source), source)


def read_solver(path: str | Path) -> pb.SolverParameter:
    """Read a solver file; the old `solver_type` enum becomes `type`.

    Raises:
        PrototxtError: it cannot be read or parsed, or is a net.
    """
    from converters.prototxt.upgrade import upgrade_solver

    text = read_text(path)
    if is_net(text):
        raise PrototxtError(
            f"{path}: is a net where a solver is wanted; `gmnet train {path} --solver SOLVER` "
            "trains it"
        )
    return upgrade_solver(parse_text(text, pb.SolverParameter(), str(path)), str(path))


def to_text(message: Message) -> str:
    """A message as prototxt, one field a line, floats in their shortest form."""
    return text_format.MessageToString(message)
