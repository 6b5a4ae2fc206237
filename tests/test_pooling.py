"""Pooling against Caffe's loops, where its cases do not look: odd pads, and nothing to win."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from oracle import Windows
from small_net import load_layer, run_layer

from converters.errors import ShapeError
from converters.layers import Layer, gradients, pooling


def settings(pool: str, w: Windows) -> str:
    """`pooling_param` of these windows."""
    (height, width), (down, right), (top, left) = w.kernel, w.stride, w.pad
    return (
        f"pooling_param {{ pool: {pool} kernel_h: {height} kernel_w: {width} "
        f"stride_h: {down} stride_w: {right} pad_h: {top} pad_w: {left} }}"
    )


def image(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(1))


ONE_SIDED = [
    Windows((3, 3), (stride, stride), pad, (1, 1)) for pad in ((2, 0), (0, 2)) for stride in (1, 2)
]


@pytest.mark.parametrize("w", ONE_SIDED, ids=str)
def test_ave_pads_each_axis_by_its_own_pad(w: Windows) -> None:
    """Beyond half the kernel too, where torch's own pooling stops."""
    x = image(5, 6)
    (y,) = run_layer("Pooling", settings("AVE", w), x)
    wanted = oracle.pool(x.double().numpy(), w, average=True)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("w", ONE_SIDED, ids=str)
def test_the_mask_counts_from_the_images_corner_not_the_pads(w: Windows) -> None:
    x = image(5, 6)
    y, mask = run_layer("Pooling", settings("MAX", w), x, tops=2)
    wanted, places = oracle.max_pool(x.numpy(), w)
    np.testing.assert_array_equal(y.numpy(), wanted)
    np.testing.assert_array_equal(mask.numpy(), places)


NOTHING = [-math.inf, math.nan]


@pytest.mark.parametrize("value", NOTHING)
def test_a_window_where_nothing_wins_is_minus_flt_max(value: float) -> None:
    w = Windows((2, 2), (2, 2), (0, 0), (1, 1))
    x = image(4, 4)
    x[0, 1, :2, 2:] = value
    (y,) = run_layer("Pooling", settings("MAX", w), x)
    np.testing.assert_array_equal(y.numpy(), oracle.max_pool(x.numpy(), w)[0])
    assert y[0, 1, 0, 1] == torch.finfo(torch.float32).min


@pytest.mark.parametrize("value", [*NOTHING, torch.finfo(torch.float32).min])
def test_the_mask_of_a_window_where_nothing_wins_is_minus_1(value: float) -> None:
    w = Windows((2, 2), (2, 2), (0, 0), (1, 1))
    x = image(4, 4)
    x[0, 1, :2, 2:] = value
    _, mask = run_layer("Pooling", settings("MAX", w), x, tops=2)
    np.testing.assert_array_equal(mask.numpy(), oracle.max_pool(x.numpy(), w)[1])


# On 4 columns a third window begins at 4: stride > kernel and no pad.
OUTSIDE = Windows((1, 1), (1, 2), (0, 0), (1, 1))


def test_a_max_window_outside_the_image_is_minus_flt_max_without_gradient() -> None:
    x = image(3, 4).requires_grad_()
    net = load_layer("Pooling", settings("MAX", OUTSIDE), x, tops=2, phase="TRAIN")
    tops = net({"b0": x})
    wanted, places = oracle.max_pool(x.detach().numpy(), OUTSIDE)
    np.testing.assert_array_equal(tops["t0"].detach().numpy(), wanted)
    np.testing.assert_array_equal(tops["t1"].detach().numpy(), places)
    assert (places == -1).sum() == 2 * 2 * 3
    tops["t0"].sum().backward()
    chosen = torch.zeros(4)
    chosen[::2] = 1
    assert x.grad is not None
    assert x.grad.equal(chosen.expand(2, 2, 3, 4))


def test_an_ave_window_outside_the_image_is_refused() -> None:
    """Caffe divides by a size of 0 there."""
    with pytest.raises(ShapeError, match="outside bottom size"):
        load_layer("Pooling", settings("AVE", OUTSIDE), image(3, 4))


def test_infinity_wins_and_takes_the_gradient() -> None:
    x = torch.tensor([[[[1.0, math.inf], [2.0, 3.0]]]], requires_grad=True)
    y = load_layer("Pooling", "pooling_param { kernel_size: 2 }", x)(x)["t0"]
    y.sum().backward()
    assert y.item() == math.inf
    assert x.grad.flatten().tolist() == [0, 1, 0, 0]


LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
# Over pads of half a kernel too, which torch's own pooling refuses; 10 channels fill its vectors.
GEOMETRIES = [
    Windows((3, 3), (2, 2), (0, 0), (1, 1)),
    Windows((3, 3), (1, 1), (1, 1), (1, 1)),
    Windows((3, 2), (2, 3), (2, 0), (1, 1)),
]
SPECIAL = {
    "plain": [],
    "nan": [math.nan],
    "nothing": [math.nan, -math.inf, torch.finfo(torch.float32).min],
    "infinity": [math.inf],
}


def chosen_values(special: list[float]) -> torch.Tensor:
    """(2, 10, 7, 6) with many equals, and 40 of each special value."""
    random = np.random.default_rng(3)
    x = random.integers(-3, 3, (2, 10, 7, 6)).astype(np.float32)
    for value in special:
        x.reshape(-1)[random.integers(0, x.size, 40)] = value
        x[0, 3, :4, :4] = value
    return torch.from_numpy(x)


@LAYOUTS
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("w", GEOMETRIES, ids=str)
def test_max_and_its_gradient_in_both_layouts(
    layout: torch.memory_format, special: str, w: Windows
) -> None:
    x = chosen_values(SPECIAL[special]).contiguous(memory_format=layout).requires_grad_()
    net = load_layer("Pooling", settings("MAX", w), x, phase="TRAIN")
    y = net({"b0": x})["t0"]
    wanted, places = oracle.max_pool(x.detach().numpy(), w)
    np.testing.assert_array_equal(y.detach().numpy(), wanted)
    dy = torch.arange(1.0, y.numel() + 1).reshape(y.shape)
    y.backward(dy)
    gradient = np.zeros((2, 10, 7 * 6))
    for at in np.ndindex(*places.shape):
        if places[at] >= 0:
            gradient[(*at[:2], int(places[at]))] += dy[at]
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), gradient.reshape(x.shape))
    assert y.is_contiguous(memory_format=layout) and x.grad.is_contiguous(memory_format=layout)


@LAYOUTS
@pytest.mark.parametrize("w", [*GEOMETRIES, Windows((7, 6), (1, 1), (0, 0), (1, 1))], ids=str)
def test_ave_and_its_gradient_in_both_layouts(layout: torch.memory_format, w: Windows) -> None:
    x = image(7, 6).repeat(1, 5, 1, 1).double().contiguous(memory_format=layout).requires_grad_()
    net = load_layer("Pooling", settings("AVE", w), x, phase="TRAIN").double()
    y = net({"b0": x})["t0"]
    wanted = oracle.pool(x.detach().numpy(), w, average=True)
    np.testing.assert_allclose(y.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)
    assert y.is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(lambda x: net({"b0": x})["t0"], x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("tile", [(2, 2), (3, 1), (1, 4), (3, 4)])
def test_means_of_tiles_as_a_gpu_takes_them(
    tile: tuple[int, int], layout: torch.memory_format
) -> None:
    """Values, gradients and layout of torch's own."""
    x = torch.randn(2, 3, 6, 8).contiguous(memory_format=layout).requires_grad_()
    found, wanted = gradients.TileMeans.apply(x, tile), F.avg_pool2d(x, tile)
    assert torch.equal(found, wanted)
    dy = torch.randn_like(found)
    mine, other = (torch.autograd.grad(y, x, dy)[0] for y in (found, wanted))
    assert torch.equal(mine, other)
    assert mine.is_contiguous(memory_format=layout)


def pooling_layer() -> Layer:
    """Any: what is asked of it is its errors."""
    return (
        load_layer("Pooling", "pooling_param { kernel_size: 1 }", image(1, 1))
        .layer_modules[0]
        .layer
    )


AXES = [
    pooling.PoolingWindows((kernel, kernel), (stride, stride), (pad, pad), floor, True)
    for kernel in (1, 2, 3, 5)
    for stride in (1, 2, 3)
    for pad in (0, 1, 2)
    for floor in (False, True)
    if pad < kernel
]


@pytest.mark.parametrize("w", AXES, ids=str)
def test_maxima_an_axis_at_a_time_are_torchs(
    w: pooling.PoolingWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "MANY", 0)
    layer = pooling_layer()
    for height, width in ((7, 8), (5, 13), (2, 6), (1, 1)):
        try:
            out = pooling.pooled_size(layer, (height, width), w)
        except ShapeError:
            continue
        x = torch.randn(2, pooling.FEW_CHANNELS, height, width)
        x = x.contiguous(memory_format=torch.channels_last)
        before = x.clone()
        found = pooling.max_pool(layer, x, w)
        assert torch.equal(x, before)
        assert found.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
        monkeypatch.setattr(pooling, "MANY", 1 << 30)
        assert torch.equal(found, pooling.max_pool(layer, x, w))
        monkeypatch.setattr(pooling, "MANY", 0)
        assert tuple(found.shape[2:]) == out


@pytest.mark.parametrize("value", NOTHING)
def test_nothing_that_wins_is_seen_an_axis_at_a_time(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "MANY", 0)
    w = pooling.PoolingWindows((2, 2), (2, 2), (0, 0))
    layer = pooling_layer()
    x = torch.ones(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    x[0, 3, :2, :2] = value
    x[0, 4, 0, 0] = value
    y = pooling.max_pool(layer, x, w)
    assert y[0, 3, 0, 0] == -pooling.FLT_MAX
    assert y[0, 4, 0, 0] == 1
