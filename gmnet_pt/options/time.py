"""`gmnet time NET`: how long each layer takes forward and backward, and the whole net.

The layers run one at a time, as Caffe runs them; the totals are also given for the graph that
training runs, which is fused and faster. Averages in milliseconds. Data layers read their files;
Input layers, and any whose shape is given, are fed noise.
"""

from __future__ import annotations

from converters.command_line.net_options import add_net_options
from converters.command_line.parser import CommandParser
from converters.command_line.program import positive
from gmnet_pt.options.net import add_net, add_options
from gmnet_pt.options.test import ONLY_TRAIN
from gmnet_pt.solver.choices import AUTO, LAYOUT_NAMES


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    add_net(parser, "a net prototxt, of any age")
    parser.add_argument("--weights", help="caffemodels, comma-separated (default: the fillers)")
    parser.add_argument("--iterations", type=positive, default=50, help="passes (50, as in Caffe)")
    add_net_options(parser, "TRAIN")
    add_options(parser)
    parser.add_argument(
        "--layout", choices=[AUTO, *LAYOUT_NAMES], default=AUTO, help="of memory; auto measures"
    )
    parser.add_argument(
        "--log", choices=["caffe", "table"], default="table", help="Caffe's lines, or a table"
    )
    parser.without_effect("as in Caffe: only train hears it", (), ONLY_TRAIN)
