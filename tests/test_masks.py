"""Dropout's masks on a CPU: how many values they keep, of which, and what the layer makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_net import load_layer

from converters.layers import masks
from converters.layers.masks import Masked, keep_mask

N = 2**22


def draw(keep: float, count: int = N, seed: int = 1) -> np.ndarray:
    """A mask of `count` values as 0.0 and 1.0."""
    torch.manual_seed(seed)
    return keep_mask(torch.empty(count), keep).double().numpy()


# A byte alone would keep 204/256 for 0.8 and 0 for 0.001: 16 and 65 spreads off.
@pytest.mark.parametrize("keep", [0.8, 0.5, 1 / 3, 0.001, 0.999, 1 - np.float32(0.2)])
def test_the_share_that_is_kept(keep: float) -> None:
    spread = math.sqrt(keep * (1 - keep) / N)
    assert abs(draw(float(keep)).mean() - keep) < 5 * spread


def test_all_or_nothing() -> None:
    assert draw(1.0).all()
    assert not draw(0.0).any()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


# Correlations of independent values are 0 ± 1/√N; words have 8 bytes, a piece DRAWN values.
BOUND = 5 / math.sqrt(N / 2)


@pytest.mark.parametrize("lag", [1, 2, 7, 8, 9, 64, 1000, masks.DRAWN, masks.DRAWN + 1])
def test_values_do_not_know_of_each_other(lag: int) -> None:
    mask = draw(0.8)
    assert abs(correlation(mask[lag:], mask[:-lag])) < BOUND


def test_calls_do_not_know_of_each_other() -> None:
    torch.manual_seed(1)
    one, other = (keep_mask(torch.empty(N), 0.8).double().numpy() for _ in range(2))
    assert abs(correlation(one, other)) < BOUND
    for seed in (2, 3):
        assert abs(correlation(one, draw(0.8, seed=seed))) < BOUND


def test_torchs_generator_is_all_its_state() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one = keep_mask(torch.empty(1000), 0.7)
    assert not torch.equal(torch.get_rng_state(), state)
    np.random.seed(5)
    assert not torch.equal(keep_mask(torch.empty(1000), 0.7), one)
    torch.set_rng_state(state)
    assert torch.equal(keep_mask(torch.empty(1000), 0.7), one)
    threads = torch.get_num_threads()
    try:
        torch.set_rng_state(state)
        torch.set_num_threads(threads % 2 + 1)
        assert torch.equal(keep_mask(torch.empty(1000), 0.7), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_forward_and_backward_have_one_mask(
    kind: torch.dtype, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "MULTIPLIED", 100)
    x = torch.rand(3, 7, 5, 11).add(1).to(kind).contiguous(memory_format=layout).requires_grad_()
    net = load_layer("Dropout", "dropout_param { dropout_ratio: 0.3 }", x, phase="TRAIN").to(kind)
    y = net({"b0": x})["t0"]
    dy = torch.rand(x.shape).add(1).to(kind)
    y.backward(dy)
    kept = y != 0
    assert 0.5 < kept.double().mean() < 0.9
    scale = 1 / (1 - float(np.float32(0.3)))
    assert torch.equal(y, torch.where(kept, x * scale, 0))
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(kept, dy * scale, 0))
    assert y.is_contiguous(memory_format=layout) and x.grad.is_contiguous(memory_format=layout)


def test_a_bottom_that_is_a_part_of_another_blob() -> None:
    x = torch.rand(4, 10, 6).add(1)[:, 2:9:3, :5]
    torch.manual_seed(0)
    y = Masked.apply(x, keep_mask(x, 0.5), 2.0)
    assert y.shape == x.shape
    assert torch.equal(y, torch.where(y != 0, x * 2, 0))
    assert Masked.apply(x[:0], keep_mask(x[:0], 0.5), 2.0).shape == (0, 3, 5)


def test_a_nan_that_is_dropped_shows_as_in_caffe() -> None:
    """0 times NaN or infinity is NaN."""
    x = torch.tensor([math.nan, math.inf]).repeat(50)
    y = Masked.apply(x, keep_mask(x, 0.5), 2.0)
    assert y.isnan().sum() > 60 and y.isinf().any()


def test_the_gradient_has_gradients() -> None:
    x = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    mask = keep_mask(x, 0.5)
    assert torch.autograd.gradgradcheck(lambda x: Masked.apply(x, mask, 2.0) ** 2, x)
