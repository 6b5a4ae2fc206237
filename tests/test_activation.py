"""Layers that work on each value alone, where real Caffe's cases do not look: odd bounds."""

from __future__ import annotations

import pytest
import torch
from small_net import load_layer, run_layer

from converters.errors import NetError


def test_prelu_starts_at_a_quarter() -> None:
    (y,) = run_layer("PReLU", "", torch.tensor([[-4.0, 4.0]]))
    assert y.tolist() == [[-1.0, 4.0]]


def test_clip_with_min_above_max_gives_min() -> None:
    """Caffe's max(min, min(x, max)), whatever x."""
    (y,) = run_layer("Clip", "clip_param { min: 2 max: 1 }", torch.tensor([0.0, 1.5, 3.0]))
    assert y.tolist() == [2.0, 2.0, 2.0]


def test_dropout_ratio_1_is_the_identity_in_test() -> None:
    x = torch.tensor([[-1.0, 2.0]])
    (y,) = run_layer("Dropout", "dropout_param { dropout_ratio: 1 }", x)
    assert y.equal(x)


def test_dropout_ratio_1_is_refused_in_train() -> None:
    """Caffe divides by 1 - 1 there."""
    with pytest.raises(NetError, match="dropout_ratio 1 "):
        load_layer("Dropout", "dropout_param { dropout_ratio: 1 }", torch.ones(2, 2), phase="TRAIN")
