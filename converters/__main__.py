"""`python -m converters COMMAND`: everything that is done to files rather than trained."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import sys

from converters.command_line.program import Command, run_subcommand

DATA = "Databases"
NETS = "Nets and solvers"

COMMANDS = {
    "lmdb": Command(
        "converters.commands.lmdb",
        "build the train and test LMDB of a data set",
        DATA,
        "gmnet lmdb mnist --source archives",
    ),
    "imageset": Command(
        "converters.commands.imageset",
        "build an LMDB from a list of images",
        DATA,
        "gmnet imageset images/ list.txt train_lmdb --resize 256x256",
    ),
    "annotated": Command(
        "converters.commands.annotated",
        "build an LMDB of images with boxes, for detectors",
        DATA,
        "gmnet annotated VOC2007/ trainval.txt train_lmdb --label-map labelmap.prototxt",
    ),
    "shapes": Command(
        "converters.commands.shapes",
        "make images of coloured shapes with boxes, to try a detector on",
        DATA,
        "gmnet shapes shapes/",
    ),
    "mean": Command(
        "converters.commands.mean",
        "compute the mean image of an LMDB",
        DATA,
        "gmnet mean train_lmdb mean.binaryproto",
    ),
    "verify": Command(
        "converters.commands.verify",
        "check every record of an LMDB",
        DATA,
        "gmnet verify train_lmdb --classes 10",
    ),
    "show": Command(
        "converters.commands.show",
        "draw a contact sheet of an LMDB's records",
        DATA,
        "gmnet show train_lmdb sheet.png",
    ),
    "summary": Command(
        "converters.commands.summary",
        "print a net's layers, shapes and costs",
        NETS,
        "gmnet summary deploy.prototxt",
    ),
    "draw": Command(
        "converters.commands.draw", "draw a net", NETS, "gmnet draw deploy.prototxt net.svg"
    ),
    "check": Command(
        "converters.commands.check",
        "try every prototxt below a folder",
        NETS,
        "gmnet check models/",
    ),
    "export": Command(
        "converters.commands.export",
        "write a net for ONNX, torch.export, or as a module of torch",
        NETS,
        "gmnet export deploy.prototxt --weights net.caffemodel net.onnx",
    ),
    "upgrade": Command(
        "converters.commands.upgrade",
        "bring an old net or solver to today's form",
        NETS,
        "gmnet upgrade old.prototxt new.prototxt",
    ),
    "layers": Command(
        "converters.commands.layers",
        "list each layer type's fields, as Markdown",
        NETS,
        "gmnet layers layers.md",
    ),
}


def main() -> int:
    """Run the subcommand that the command line names."""
    return run_subcommand("converters", "Caffe files, read and written.", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
