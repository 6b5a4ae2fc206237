"""`gmnet classify DEPLOY WEIGHTS IMAGE|FOLDER…`: the likeliest classes of images.

An image becomes the net's input as in Caffe's example: its channels are those of the net (BGR, or
gray), it is resized to the net's input, and the mean of each channel is subtracted. The lines
are Caffe's too: probability and label; --json prints them for machines, --draw shows them beside
the images. Source: Caffe examples/cpp_classification/classification.cpp.
"""

from __future__ import annotations

from pathlib import Path

from converters.command_line.parser import CommandParser
from converters.command_line.program import positive
from gmnet_pt.options.net import add_options


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    parser.allow_scattered()
    add = parser.add_argument
    add("net", metavar="DEPLOY", help="a net prototxt with one Input and one output")
    add("weights", metavar="WEIGHTS", help="caffemodels, comma-separated")
    images = "image files, or folders: all images in them"
    add("images", metavar="IMAGE|FOLDER", nargs="+", type=Path, help=images)
    mean = "a .binaryproto, a .npy, or a value for each channel: 104,117,123 (default: none)"
    add("--mean", help=mean)
    add("--labels", type=Path, help="a file with the name of each class on a line")
    add("--top", type=positive, default=5, metavar="K", help="classes an image (5)")
    add("--scale", type=float, default=1.0, help="the net's transform_param scale (1)")
    add("--batch", type=positive, default=32, metavar="N", help="images at once (32)")
    add("--json", action="store_true", help="print the predictions for machines")
    drawn = "also draw each image and its classes: a .png, .jpg, .svg or .pdf file"
    add("--draw", type=Path, metavar="OUT", help=drawn)
    add_options(parser)
