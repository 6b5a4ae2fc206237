"""Test passes: a net forward without gradients, and what several batches come to.

The solver's tests and `gmnet_pt.test` run them. Source: Caffe solver.cpp Test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from converters.net.caffe_net import CaffeNet
from converters.net.layerwise import total_loss
from converters.proto import caffe_pb2 as pb
from gmnet_pt.solver.debug_info import Show, outputs, show_forward
from gmnet_pt.solver.detection import Precisions
from gmnet_pt.solver.precision import Precision
from gmnet_pt.solver.scores import Means
from gmnet_pt.solver.step import Passed


@torch.no_grad()
def forward(
    net: CaffeNet,
    feed: Mapping[str, Any],
    device: torch.device,
    precision: Precision,
    show: Show | None = None,
) -> Passed:
    """Loss and outputs of one batch; with `show`, layer by layer and every value shown."""
    with precision.arithmetic(device):
        if show is None:
            return Passed(*net.loss(feed))
        ran = show_forward(net, feed, show)
        return Passed(total_loss(ran), outputs(net, ran))


Test = Means | Precisions
"""What the batches of a test come to."""


def begun(net: CaffeNet, solver: pb.SolverParameter) -> Test:
    """The test that the solver's `eval_type` asks for, of no batch yet."""
    if solver.eval_type == "detection":
        return Precisions(net, solver.ap_version)
    return Means(net)


def run_passes(
    test: Test, turns: Sequence[bool], run: Callable[[], Passed], go_on: Callable[[], bool]
) -> Test | None:
    """`test` after a pass at each true one of `turns`; None if `go_on` ends them.

    `go_on` is asked at every turn: at a false one another process may have a pass.
    """
    for own in turns:
        if not go_on():
            return None
        if own:
            test.add(*run())
    return test
