"""`python -m converters imageset ROOT LIST OUT`: Caffe's convert_imageset."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from converters.command_line.database_options import add_backend_option
from converters.command_line.parser import CommandParser
from converters.command_line.program import positive
from converters.command_line.progress import TerminalReporter
from converters.records.imageset import Settings, Size, convert_imageset


def configure(parser: CommandParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("root", metavar="ROOT", help="folder that the names are relative to")
    parser.add_argument("list", type=Path, metavar="LIST", help="file with lines `NAME LABEL`")
    parser.add_argument("out", type=Path, metavar="OUT", help="the LMDB to write")
    parser.add_argument(
        "--resize", type=height_by_width, metavar="HxW", help="bilinear, to this height and width"
    )
    parser.add_argument("--resize-height", type=positive, metavar="H", help="as Caffe has it:")
    parser.add_argument("--resize-width", type=positive, metavar="W", help="both, or none")
    parser.add_argument("--gray", action="store_true", help="one channel instead of BGR")
    parser.add_argument("--encoded", action="store_true", help="store compressed images")
    form = "png, jpg …: store images compressed so, those compressed otherwise again"
    parser.add_argument("--encode-type", metavar="TYPE", default="", help=form)
    parser.add_argument("--shuffle", type=seed, metavar="SEED", help="order by this seed")
    parser.add_argument(
        "--check-size", action="store_true", help="refuse images of different sizes"
    )
    add_backend_option(parser)
    parser.add_argument("--force", action="store_true", help="replace an existing LMDB")
    parser.afterwards(partial(_join_sizes, parser))


def _join_sizes(parser: CommandParser, args: argparse.Namespace) -> None:
    """Make --resize of Caffe's two flags."""
    sides = (args.resize_height, args.resize_width)
    if sides == (None, None):
        return
    if None in sides or args.resize is not None:
        parser.error("give --resize HxW, or both of --resize-height and --resize-width")
    args.resize = Size(*sides)


def run(args: argparse.Namespace) -> int:
    """Write the database and say how many records it has."""
    settings = Settings(
        args.resize, args.gray, args.encoded, args.shuffle, args.check_size, args.encode_type
    )
    imported = convert_imageset(
        args.root, args.list, args.out, settings, args.force, TerminalReporter()
    )
    left_out = f", {len(imported.unreadable)} unreadable left out" if imported.unreadable else ""
    print(f"{args.out}: {imported.records} records{left_out}")
    return 0


def height_by_width(text: str) -> Size:
    """An argparse type: 32x48."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, e.g. 32x32")
    return Size(int(height), int(width))


def seed(text: str) -> int:
    """An argparse type: a whole number of 32 bits."""
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed (0 to 4294967295)")
    return int(text)
