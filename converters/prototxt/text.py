"""Prototxt text to messages and back, with Caffe's upgrades of old files.

`converters.prototxt.upgrade` holds the upgrades, `converters.net.caffe_net` what a net then
becomes. Importing this module costs protobuf alone.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from converters.errors import PrototxtError
from converters.formats.input_files import require_regular_file
from converters.proto import caffe_pb2 as pb
from converters.proto.foreign import SOLVER_WITHOUT_EFFECT, forks_with_field
from converters.proto.forks import fork_of, idle
from converters.prototxt.kind import is_net, is_solver, net_of_solver
from converters.prototxt.strangers import COMMENT_OR_STRING
from converters.raw_text import decoded
from converters.reporting import shortened

AnyMessage = TypeVar("AnyMessage", bound=Message)
_LONGEST = 300

log = logging.getLogger(__name__)


def parse_text(text: str, message: AnyMessage, source: str) -> AnyMessage:
    """Parse prototxt `text` into `message` and return it.

    A fork's solver field that changes nothing in training is left out, with a warning.

    Raises:
        PrototxtError: `source:line:column: what is there and what to write`.
    """
    if "\\" in text:
        text = _with_escapes(text, source)
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        # Imported late: it knows the layer types, and few files are broken.
        from converters.prototxt.diagnosis import without_idle_fields

        kept, idle_fields = without_idle_fields(text, message)
        if not idle_fields:
            raise PrototxtError(_why(text, message, source, error)) from error
        message.Clear()
        parse_text(kept, message, source)
        for name in idle_fields:
            _tell_idle(source, name, forks_with_field("SolverParameter", name)[0])
        return message
    except (RecursionError, ValueError, OverflowError) as error:
        raise PrototxtError(f"{source}: {error}") from error
    if isinstance(message, pb.SolverParameter):
        for entry, _ in message.ListFields():
            if entry.name in SOLVER_WITHOUT_EFFECT or idle(entry):
                _tell_idle(source, entry.name, f"{fork_of(entry)}'s", idle(entry))
    return message


def _tell_idle(source: str, name: str, whose: str, reason: str = "") -> None:
    reason = reason or SOLVER_WITHOUT_EFFECT[name]
    log.warning("%s: %s, of %s fork, has no effect here: %s", source, name, whose, reason)


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

    return COMMENT_OR_STRING.sub(rewritten, text)


def _why(text: str, message: Message, source: str, error: text_format.ParseError) -> str:
    """What is wrong and where; as protobuf says it, if nobody knows better."""
    from converters.prototxt.diagnosis import diagnose

    if found := diagnose(text, message):
        return f"{source}:{found.line}:{found.column}: {found.words}"
    line, column = error.GetLine(), error.GetColumn()
    place = f"{source}:{line}:{column}" if line is not None else source
    reason = str(error).removeprefix(f"{line}:{column} : ").replace("\n", " ")
    return f"{place}: {shortened(reason, _LONGEST)}"


# What no text has: zero bytes and most of the other control characters.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32 text"),
    (b"\x00\x00\xfe\xff", "UTF-32 text"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"\xef\xbb\xbf", "UTF-8 text with a byte order mark (BOM)"),
)
_FILES = (
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF document"),
)


_TEXT = re.compile(r"[\n{]|\w\s*:\s")
"""What prototxts have, and names of files have not."""


def read_text(path: str | Path) -> str:
    """The text of a prototxt file, as `text_of`.

    Raises:
        PrototxtError: there is none; or `path` is such a text itself.
    """
    if _TEXT.search(str(path)) and not os.path.lexists(path):
        reads = (
            "gmnet_pt.Solver reads a solver from a file"
            if is_solver(str(path))
            else "converters.prototxt.text.parse_net reads a net's text"
        )
        raise PrototxtError(
            f"{' '.join(str(path).split())[:40]} …: is a prototxt's text, not the name of a file; "
            f"{reads}"
        )
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
    for mark, what in _FILES:
        if content.startswith(mark):
            raise PrototxtError(f"{source}: not a text file but {what}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if _BINARY.search(content):
            raise PrototxtError(
                f"{source}: not a text file (byte {error.start} is not UTF-8); "
                "a binary .caffemodel goes to --weights, a mean image to mean_file"
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
