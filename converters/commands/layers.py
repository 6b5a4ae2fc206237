"""`python -m converters layers [OUT]`: what each layer type honours, as Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.errors import OutputError
from converters.formats.whole_files import written_beside
from converters.layers import LAYERS
from converters.layers.fields import to_markdown


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="default: print it")


def run(args: argparse.Namespace) -> int:
    """Print or write the table."""
    if str(args.out) in LAYERS:
        name = str(args.out)
        raise OutputError(f"{name}: is a layer type; `gmnet layers | grep '^| {name} '` shows it")
    if args.out is None:
        print(to_markdown(), end="")
        return 0
    with written_beside(args.out) as path:
        path.write_text(to_markdown(), encoding="utf-8")
    print(f"{args.out}: written")
    return 0
