"""`gmnet detect DEPLOY WEIGHTS IMAGE|FOLDER…`: the objects that a detector finds on images.

An image becomes the net's input as for `gmnet classify`; the net ends in DetectionOutput, or in
another layer whose rows are image, label, score, xmin, ymin, xmax, ymax in parts of the image. A
line a detection is printed: file, class, score, and the box in pixels, xmin ymin xmax ymax. --out
draws them, --json writes them for machines. Source: SSD's examples/ssd/ssd_detect.cpp.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.command_line.parser import CommandParser
from gmnet_pt.options.net import add_options


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    parser.allow_scattered()
    add = parser.add_argument
    add("net", metavar="DEPLOY", help="a net prototxt with one Input, for images")
    add("weights", metavar="WEIGHTS", help="caffemodels, comma-separated")
    images = "image files, or folders: all images in them"
    add("images", metavar="IMAGE|FOLDER", nargs="+", type=Path, help=images)
    labels = "the classes' names: a label map (item { name label }), or a line each from label 0 on"
    add("--labels", type=Path, metavar="M", help=labels)
    mean = "a .binaryproto, a .npy, or a value for each channel: 104,117,123 (default: none)"
    add("--mean", help=mean)
    add("--scale", type=float, default=1.0, help="the net's transform_param scale (1)")
    least = "the least score of what is printed and drawn (0.5), and written as JSON (all)"
    add("--threshold", type=_score, metavar="S", help=least)
    drawn = "draw the boxes: a .png, .jpg, .svg or .pdf file; for several images a folder, DIR/"
    add("--out", metavar="OUT|DIR/", help=drawn)
    add("--json", type=Path, metavar="FILE", help="write the detections as JSON")
    add_options(parser)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score, 0 to 1")
    return score
