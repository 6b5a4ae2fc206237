"""Reshape where no case of real Caffe looks."""

from __future__ import annotations

import torch
from small_net import run_layer


def test_reshape_counts_a_negative_axis_from_behind_the_last() -> None:
    settings = "reshape_param { axis: -1 num_axes: 0 shape { dim: 1 } }"
    x = torch.arange(12.0).reshape(3, 4)
    (y,) = run_layer("Reshape", settings, x)
    assert y.equal(x.reshape(3, 4, 1))
