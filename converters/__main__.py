"""`python -m converters COMMAND`: everything that is done to files rather than trained."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import sys

from converters.command_line.program import Command, run_subcommand

COMMANDS = {
    "lmdb": Command("converters.commands.lmdb", "build the train and test LMDB of a data set"),
    "imageset": Command("converters.commands.imageset", "build an LMDB from a list of images"),
    "mean": Command("converters.commands.mean", "compute the mean image of an LMDB"),
    "verify": Command("converters.commands.verify", "check every record of an LMDB"),
    "show": Command("converters.commands.show", "draw a contact sheet of an LMDB's records"),
    "upgrade": Command("converters.commands.upgrade", "bring an old net or solver to today's form"),
    "summary": Command("converters.commands.summary", "print a net's layers, shapes and costs"),
    "check": Command("converters.commands.check", "try every prototxt below a folder"),
    "layers": Command("converters.commands.layers", "list each layer type's fields, as Markdown"),
    "draw": Command("converters.commands.draw", "draw a net as an SVG picture"),
}


def main() -> int:
    """Run the subcommand that the command line names."""
    return run_subcommand("converters", "Caffe files, read and written.", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
