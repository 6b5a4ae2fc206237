"""`python -m converters upgrade IN OUT`: an old net, solver or caffemodel in today's form."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from google.protobuf.message import DecodeError, Message

from converters.errors import OutputError, PrototxtError, WeightsError
from converters.formats.input_files import require_regular_file
from converters.formats.whole_files import written_beside
from converters.proto import caffe_pb2 as pb
from converters.prototxt.kind import is_solver
from converters.prototxt.text import parse_net, parse_text, text_of, to_text
from converters.prototxt.upgrade import upgrade_net, upgrade_solver
from converters.raw_text import encoded

# A text file has no control bytes but tab, line feed, form feed and carriage return.
BINARY_BYTES = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f]")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="IN", help="a net or solver prototxt, or a caffemodel")
    parser.add_argument("target", metavar="OUT", help="the file to write, in the same format")


def run(args: argparse.Namespace) -> int:
    """Upgrade IN to OUT; say what it was."""
    upgraded, binary = read_upgraded(args.source)
    if os.path.exists(args.target) and os.path.samefile(args.source, args.target):
        raise OutputError(f"{args.target}: would replace IN itself; name another OUT")
    content = upgraded.SerializeToString() if binary else encoded(to_text(upgraded))
    with written_beside(args.target) as partial:
        partial.write_bytes(content)
    what = "solver" if isinstance(upgraded, pb.SolverParameter) else "net"
    form = "binary" if binary else "text"
    print(f"{args.target}: {what}, {form}, {len(content)} bytes")
    return 0


def read_upgraded(source: str | Path) -> tuple[Message, bool]:
    """The upgraded message of a file, and whether the file is binary.

    Raises:
        PrototxtError: a text that is neither a net nor a solver, or cannot be upgraded.
        WeightsError: a binary file that is no caffemodel.
    """
    require_regular_file(source, PrototxtError)
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise PrototxtError(f"{source}: cannot be read: {error.strerror}") from error
    if BINARY_BYTES.search(content, 0, 65536):
        try:
            net = pb.NetParameter.FromString(content)
        except DecodeError as error:
            raise WeightsError(f"{source}: not a binary net, or cut short ({error})") from error
        return upgrade_net(net, str(source)), True
    text = text_of(content, str(source))
    if is_solver(text):
        solver = parse_text(text, pb.SolverParameter(), str(source))
        return upgrade_solver(solver, str(source)), False
    return parse_net(text, str(source)), False
