"""`gmnet test`, `python -m gmnet_pt.test`: score a net; `gmnet_pt.options.test` has the options.

`gmnet_pt.solver.scores` takes the means. Source: Caffe tools/caffe.cpp, test.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import sys
from collections.abc import Callable, Sequence

from converters.command_line.net_options import net_choice
from converters.command_line.program import run_program
from gmnet_pt.log.caffe_log import CaffeLog, output_text
from gmnet_pt.log.events import Event, Message
from gmnet_pt.net_command import OpenNet, open_net, opened_data, use_threads
from gmnet_pt.options import test as options
from gmnet_pt.solver.batches import next_feed
from gmnet_pt.solver.precision import FP32
from gmnet_pt.solver.scores import Means, list_outputs
from gmnet_pt.solver.testing import forward


def run(args: argparse.Namespace) -> int:
    """Score the net and log its lines."""
    use_threads(args.threads)
    show = CaffeLog(sys.stderr).show
    opened = open_net(net_choice(args, may_write=True), args.device, show)
    score(opened, args.iterations, show)
    return 0


def score(opened: OpenNet, iterations: int, show: Callable[[Event], None]) -> Means:
    """The means over `iterations` batches of the net's data layers, each batch shown.

    Raises:
        DataError: a data layer's files are absent or damaged.
    """
    net, device = opened
    means = Means(net)
    with opened_data(net) as batches:
        show(Message(f"Running for {iterations} iterations.", "caffe.cpp:281"))
        for index in range(iterations):
            loss, outputs = forward(net, next_feed(batches, device), device, FP32)
            means.add(loss, outputs)
            for output in list_outputs(net, outputs):
                show(Message(f"Batch {index}, {output.name} = {output.value:g}", "caffe.cpp:304"))
    show(Message(f"Loss: {means.loss():g}", "caffe.cpp:309"))
    for output in list_outputs(net, means.outputs()):
        show(Message(output_text(output), "caffe.cpp:321"))
    return means


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and score."""
    return run_program("gmnet_pt.test", options.__doc__, options.configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
