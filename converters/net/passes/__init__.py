"""Rewrites of a net's graph: each changes its speed and not its values; here is their order."""

from __future__ import annotations

from torch import fx

from converters.net.passes.batch_norm_scale import fuse_batch_norm_and_scale
from converters.net.passes.in_place import work_in_place

# A ReLU may work in place behind what the first one made.
PASSES = (fuse_batch_norm_and_scale, work_in_place)


def run_passes(module: fx.GraphModule) -> None:
    """Run every pass over the graph of `module`, in order, in place."""
    for rewrite in PASSES:
        rewrite(module)
