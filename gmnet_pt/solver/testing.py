"""Test passes: a net forward without gradients, and its means over several batches.

The solver's tests and `gmnet_pt.test` run them. Source: Caffe solver.cpp Test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from converters.net.caffe_net import CaffeNet
from converters.net.layerwise import total_loss
from gmnet_pt.solver.debug_info import Show, outputs, show_forward
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


def mean_passes(
    net: CaffeNet, turns: Sequence[bool], run: Callable[[], Passed], go_on: Callable[[], bool]
) -> Means | None:
    """The means of a pass of `net` at each true one of `turns`; None if `go_on` ends them.

    `go_on` is asked at every turn: at a false one another process may have a pass.
    """
    means = Means(net)
    for own in turns:
        if not go_on():
            return None
        if own:
            means.add(*run())
    return means
