"""Filter where no case of real Caffe looks."""

from __future__ import annotations

import torch
from small_net import run_layer


def test_filter_keeps_items_of_a_negative_selector() -> None:
    (y,) = run_layer("Filter", "", torch.arange(3.0), torch.tensor([-1.0, 0.0, 0.5]))
    assert y.tolist() == [0.0, 2.0]
