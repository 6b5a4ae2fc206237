"""`gmnet test NET --weights W`: score a net over batches, as `caffe test` does.

The net's TEST data layers feed it. The lines are those of Caffe's log, on stderr: the outputs of
each batch, the mean loss and the mean of each output.
"""

from __future__ import annotations

from converters.command_line.net_options import add_state_options
from converters.command_line.parser import CommandParser
from converters.command_line.program import positive
from gmnet_pt.options.net import add_net, add_options

ONLY_TRAIN = ["solver", "snapshot", "sigint_effect", "sighup_effect"]
"""Flags that Caffe's tool takes with any action, and that only training hears."""


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    add_net(parser, "a net prototxt with data layers")
    parser.add_argument("--weights", required=True, help="caffemodels, comma-separated")
    parser.add_argument("--iterations", type=positive, default=50, help="batches (50, as in Caffe)")
    add_state_options(parser)
    add_options(parser)
    parser.without_effect("as in Caffe: only train hears it", (), ONLY_TRAIN)
    parser.without_effect("as in Caffe: test is in phase TEST", (), ["phase"])
