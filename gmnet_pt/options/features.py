"""`gmnet features NET --weights W --blobs B --out OUT`: a net's blobs over its data.

With `--figure 3` (nets of two paths) or `--figure 4` (baselines) instead of `--blobs`, OUT.png
shows the maps of the paper's figure for the first images of the data, or for the files of
`--image`, and their numbers are printed.

The net's TEST data layers feed it. With `--blobs` OUT decides the form:

- `X.npz`: an array a blob, images first, and the labels where the net has them;
- `X.png`: the maps of the first images, tiled, each image's between its least and largest value;
- `X` or `X.lmdb`: an LMDB a blob, the records Caffe's extract_features writes. Several blobs take
  several names with commas, or one folder for all.

Without --iterations the data is gone through once. Source: Caffe tools/extract_features.cpp.
"""

from __future__ import annotations

from pathlib import Path

from converters.command_line.net_options import add_shape_option, add_state_options
from converters.command_line.parser import CommandParser
from converters.command_line.program import positive
from gmnet_pt.options.net import add_net, add_options


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    add_net(parser, "a net prototxt with data layers")
    parser.add_argument("--weights", required=True, help="caffemodels, comma-separated")
    blobs = parser.add_mutually_exclusive_group(required=True)
    blobs.add_argument("--blobs", metavar="B[,B2]", help="the blobs' names")
    blobs.add_argument(
        "--figure", type=int, choices=(3, 4), help="the blobs of a figure of the paper, as a PNG"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="X.npz, X.png, or LMDBs (X, X.lmdb): a folder for all or a name a blob",
    )
    parser.add_argument("--iterations", type=positive, help="batches (default: the data once)")
    parser.add_argument("--images", type=positive, help="images of the data on a PNG (1)")
    parser.add_argument("--force", action="store_true", help="replace existing LMDBs")
    figure = parser.add_argument_group("with --figure")
    figure.add_argument(
        "--image",
        nargs="+",
        action="extend",
        type=Path,
        metavar="FILE",
        help="image files instead of the data, whose database may then be absent; repeatable",
    )
    figure.add_argument(
        "--order",
        choices=("rgb", "bgr"),
        help="channel order of the net's images (default: its data set's; BGR if unknown)",
    )
    figure.add_argument(
        "--mean",
        help="with --image: a .binaryproto, or a value for each channel (default: the net's own)",
    )
    figure.add_argument(
        "--scale", type=float, help="with --image: the scale (default: the net's own)"
    )
    add_shape_option(parser)
    add_state_options(parser)
    add_options(parser)
