"""Layers without bottoms, inside the net: DummyData's sizes and fillers."""

from __future__ import annotations

import torch
from small_net import run_layer


def test_each_top_of_dummy_data_has_its_own_size_and_filler() -> None:
    """A size that is given once holds for every top."""
    settings = (
        "dummy_data_param { num: 2 num: 3 channels: 1 height: 4 height: 5 width: 6 "
        "data_filler { value: 7 } data_filler { value: 8 } }"
    )
    first, second = run_layer("DummyData", settings, tops=2)
    assert first.equal(torch.full((2, 1, 4, 6), 7.0))
    assert second.equal(torch.full((3, 1, 5, 6), 8.0))


def test_one_filler_of_dummy_data_is_for_every_top() -> None:
    settings = "dummy_data_param { shape { dim: 2 } data_filler { value: 7 } }"
    assert [top.tolist() for top in run_layer("DummyData", settings, tops=2)] == [[7, 7], [7, 7]]
