"""`gmnet shapes DIR`: images of coloured shapes with boxes, to try a detector on.

Circles, squares and triangles in any colour, up to three an image, on a noisy ground: images/,
annotations/ (VOC's XML), train.txt, test.txt and labelmap.prototxt, for `gmnet annotated`. A seed
always makes the same set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.command_line.parser import CommandParser
from converters.command_line.program import positive
from converters.command_line.progress import TerminalReporter
from converters.commands.imageset import seed
from converters.datasets.shapes import write_shapes


def configure(parser: CommandParser) -> None:
    """Describe the command's arguments."""
    add = parser.add_argument
    add("out", type=Path, metavar="DIR", help="the folder to write")
    add("--train", type=positive, default=2000, metavar="N", help="images to train on (2000)")
    add("--test", type=positive, default=400, metavar="N", help="images to test on (400)")
    add("--side", type=positive, default=96, metavar="PIXELS", help="height and width (96)")
    add("--seed", type=seed, default=1, help="of all random choices (1)")


def run(args: argparse.Namespace) -> int:
    """Write the set."""
    write_shapes(args.out, args.train, args.test, args.side, args.seed, TerminalReporter())
    print(f"{args.out}: {args.train} images to train on, {args.test} to test on")
    return 0
