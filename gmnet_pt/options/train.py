"""`gmnet train SOLVER|NET`: train a net as `caffe train` would.

Lines in Caffe's form, or a bar, go to stderr; train.log and train.jsonl (and TensorBoard's events)
go to the folder of snapshot_prefix. Ctrl-C and SIGTERM stop between two iterations, after a
snapshot; a second Ctrl-C ends at once. Caffe's own command lines work as they are.
"""

from __future__ import annotations

import argparse
from functools import partial

from converters.command_line.net_options import (
    add_python_option,
    add_shape_option,
    add_stage_option,
)
from converters.command_line.parser import CommandParser
from converters.command_line.program import positive
from gmnet_pt.options.net import add_device_options, add_threads_option
from gmnet_pt.solver.choices import AUTO, LAYOUT_NAMES, PRECISION_NAMES, Request, memory_size

EXIT_STATUS = (
    "exit status: 0 trained to max_iter; 1 a clear error (a loss that is not finite among them); "
    "2 wrong usage; 130 stopped early by SIGINT, 143 by SIGTERM, 129 by SIGHUP"
)


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    about = "a solver, or a net with solver.prototxt beside it"
    add("path", metavar="SOLVER|NET", nargs="?", help=about)
    add("--solver", help="the solver: alone as in Caffe, or for a net that lies elsewhere")
    parser.afterwards(partial(_choose_solver, parser))
    configure_run(parser)


def _choose_solver(parser: CommandParser, args: argparse.Namespace) -> None:
    if args.path is None and args.solver is None:
        parser.error("give a solver, or a net with solver.prototxt beside it (SOLVER|NET)")
    if args.path is None:
        args.path, args.solver = args.solver, None


def configure_run(parser: CommandParser) -> None:
    """Declare all but what is trained."""
    effects = [request.value for request in Request]
    add = parser.add_argument
    add("--weights", help="caffemodels to start from, comma-separated; the solver's own are left")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--snapshot", help="a .solverstate to continue from")
    newest = "continue from the newest whole snapshot of the prefix; without one start anew"
    place.add_argument("--resume", action="store_true", help=newest)
    add("--strict", action="store_true", help="a layer that no weights file has is an error")
    add_device_options(parser, "otherwise solver_mode and device_id decide", trains=True)
    add("--precision", choices=PRECISION_NAMES, default="fp32", help="fp32 follows Caffe")
    compiling = "run the loss through torch.compile: it takes minutes first, and a compiler"
    add("--compile", action="store_true", help=compiling)
    capture = "record an iteration as a CUDA graph and replay it (default: on; a CPU has none)"
    add("--capture", choices=["on", "off"], default="on", help=capture)
    kept = "of the device for records, as 2G; 0 streams (default: half a GPU's free, none on a CPU)"
    add("--data-memory", type=memory_size, metavar="SIZE", help=kept)
    add("--layout", choices=[AUTO, *LAYOUT_NAMES], default=AUTO, help="of memory; auto measures")
    add("--max-iter", type=int, help="the same as --set max_iter=N")
    rounds = "rounds of the training data: sets max_iter, and moves the steps of the rate with it"
    add("--epochs", type=positive, metavar="N", help=rounds)
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a solver field")
    add("--log", choices=["caffe", "bar"], help="default: a bar on a terminal, else Caffe's lines")
    add("--tensorboard", action="store_true", help="write TensorBoard events beside the log")
    add("--sigint-effect", choices=effects, default="stop", help="of Ctrl-C (default: stop)")
    add("--sighup-effect", choices=effects, default="snapshot", help="of SIGHUP (snapshot)")
    add_threads_option(parser)
    add("--level", type=int, help="added to train_state")
    add_stage_option(parser)
    add_shape_option(parser)
    add_python_option(parser)
    parser.without_effect("as in Caffe: the solver names its net", (), ["model"])
    parser.without_effect("as in Caffe: only time hears it", (), ["phase"])
    parser.without_effect("as in Caffe: a training is as long as max_iter", (), ["iterations"])
