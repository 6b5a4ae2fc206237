"""Layers of regions where no golden case is: gradients, borders, errors; R-FCN's losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from field_rows import net_text
from fork_fields.regions import away, psroi_pooling, roi_align, roi_pooling
from test_forks_small import build, leaves, run
from torch import Tensor

from converters.errors import NetError, ShapeError
from converters.layers.forks.arithmetic.bins import rounded
from converters.layers.forks.arithmetic.suppression import BLOCK, greedy, pixels_above
from converters.net.caffe_net import build_net
from converters.net.choice import NetChoice
from converters.prototxt.text import parse_net

SHAPE = (2, 4, 13, 17)
POOLED = "pooled_h: 3 pooled_w: 2 spatial_scale: 0.5"


def regions_of(number: int, images: int = 2) -> Tensor:
    """Regions of every size, some outside a map of 26 × 34, some malformed."""
    random = np.random.default_rng(6)
    rows = np.concatenate(
        [random.integers(0, images, (number, 1)), random.uniform(-12, 45, (number, 4))], 1
    )
    rows[: number // 2, 3:] = rows[: number // 2, 1:3] + random.uniform(0, 30, (number // 2, 2))
    return torch.from_numpy(rows)


def test_halves_are_rounded_away_from_zero() -> None:
    values = torch.tensor([-2.5, -0.5, -0.49999997, 0.49999997, 0.5, 1.5, 2.4999998, -7.0])
    assert rounded(values).tolist() == [away(value) for value in values.tolist()]


@pytest.mark.parametrize("number", [1, 40])
def test_the_largest_of_each_bin(number: int) -> None:
    (x,) = leaves(SHAPE)
    regions = regions_of(number)
    net = build("ROIPooling", f"roi_pooling_param {{ {POOLED} }}", (SHAPE, (number, 5)))
    with torch.no_grad():
        without_places = run(net, x, regions)["t0"]
    y = run(net, x, regions)["t0"]
    wanted = roi_pooling(x.detach().numpy(), regions.numpy(), 3, 2, 0.5)
    np.testing.assert_array_equal(y.detach(), wanted)
    np.testing.assert_array_equal(without_places, wanted)


def test_the_gradient_goes_to_the_first_of_the_largest() -> None:
    """Each bin adds its own to one pixel, an empty one to none. Of whole values many are equal."""
    x = torch.from_numpy(np.random.default_rng(2).integers(0, 3, SHAPE).astype(float))
    x.requires_grad_()
    regions = regions_of(30)
    net = build("ROIPooling", f"roi_pooling_param {{ {POOLED} }}", (SHAPE, (30, 5)))
    y = run(net, x, regions)["t0"]
    dy = torch.randn_like(y)
    (y * dy).sum().backward()
    wanted = np.zeros(SHAPE)
    for (r, c, i, j), value in np.ndenumerate(y.detach().numpy()):
        image = int(regions[r, 0])
        # Marked one by one, a pixel is the bin's if the bin's value follows it.
        for h, w in np.ndindex(*SHAPE[2:]):
            if x[image, c, h, w] == value and is_in_bin(regions[r].tolist(), i, j, h, w):
                wanted[image, c, h, w] += dy[r, c, i, j]
                break
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, wanted, rtol=1e-12, atol=1e-12)


def is_in_bin(region: list[float], i: int, j: int, h: int, w: int) -> bool:
    """Whether bin (i, j) of a region has pixel (h, w)."""
    left, top, right, bottom = (away(corner * 0.5) for corner in region[1:])
    high, wide = max(bottom - top + 1, 1) / 3, max(right - left + 1, 1) / 2
    return np.floor(i * high) <= h - top < np.ceil((i + 1) * high) and np.floor(
        j * wide
    ) <= w - left < np.ceil((j + 1) * wide)


def test_nan_and_what_is_below_every_number_never_win() -> None:
    """-FLT_MAX is the value then, and no pixel gets the gradient."""
    x = torch.full((1, 1, 2, 2), np.nan, dtype=torch.float64, requires_grad=True)
    net = build(
        "ROIPooling", "roi_pooling_param { pooled_h: 1 pooled_w: 1 }", ((1, 1, 2, 2), (1, 5))
    )
    y = run(net, x, torch.tensor([[0.0, 0, 0, 1, 1]], dtype=torch.float64))["t0"]
    assert y.item() == float(-np.finfo(np.float32).max)
    y.sum().backward()
    assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("number", [1, 40])
def test_means_of_bins(number: int) -> None:
    shape = (2, 18, 13, 17)
    (x,) = leaves(shape)
    regions = regions_of(number)
    settings = "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.5 }"
    net = build("PSROIPooling", settings, (shape, (number, 5)))
    y = run(net, x, regions)["t0"]
    wanted = psroi_pooling(x.detach().numpy(), regions.numpy(), 2, 3, 0.5)
    np.testing.assert_allclose(y.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "settings", "channels"),
    [
        ("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 1 }", 8),
        ("ROIAlign", "roi_pooling_param { pooled_h: 2 pooled_w: 3 pad_ratio: 0.1 }", 2),
        ("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 3 pad_ratio: 0.1 }", 2),
    ],
)
def test_gradients_are_derivatives(kind: str, settings: str, channels: int) -> None:
    shape = (2, channels, 5, 6)
    (x,) = leaves(shape)
    regions = regions_of(9)
    regions[:, 1:] /= 5
    net = build(kind, settings, (shape, (9, 5)))
    assert torch.autograd.gradcheck(lambda x: run(net, x, regions)["t0"], (x,))


@pytest.mark.parametrize("number", [1, 40])
def test_values_between_pixels(number: int) -> None:
    (x,) = leaves(SHAPE)
    regions = regions_of(number)
    net = build("ROIAlign", f"roi_pooling_param {{ {POOLED} }}", (SHAPE, (number, 5)))
    y = run(net, x, regions)["t0"]
    wanted = roi_align(x.detach().numpy(), regions.numpy(), 3, 2, 0.5)
    np.testing.assert_allclose(y.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ROIPooling", f"roi_pooling_param {{ {POOLED} }}"),
        ("ROIAlign", f"roi_pooling_param {{ {POOLED} }}"),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 1 group_size: 2 spatial_scale: 1 }"),
    ],
)
def test_a_filter_may_leave_no_region(kind: str, settings: str) -> None:
    text = "\n".join(
        [
            *net_text(kind, settings, (SHAPE, (3, 5))).splitlines()[:-1],
            'layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 3 } } }',
            'layer { name: "f" type: "Filter" bottom: "b1" bottom: "s" top: "r" }',
            f'layer {{ name: "l" type: "{kind}" bottom: "b0" bottom: "r" top: "t0" {settings} }}',
        ]
    )
    net = build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"), "TRAIN")).double()
    (x,) = leaves(SHAPE)
    y = net({"b0": x, "b1": regions_of(3), "s": torch.zeros(3)})["t0"]
    assert y.shape[:2] == (0, 1 if kind == "PSROIPooling" else 4)
    y.sum().backward()
    assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("image", [-1, 2])
@pytest.mark.parametrize("kind", ["ROIPooling", "ROIAlign"])
def test_an_image_that_is_not_there_is_an_error(kind: str, image: int) -> None:
    (x,) = leaves(SHAPE)
    regions = regions_of(3)
    regions[1, 0] = image
    net = build(kind, f"roi_pooling_param {{ {POOLED} }}", (SHAPE, (3, 5)))
    with pytest.raises(NetError, match=f'image {image} in "b1" is not among the 2 of "b0"'):
        run(net, x, regions)


@pytest.mark.parametrize(
    ("kind", "settings", "regions", "says"),
    [
        ("ROIPooling", "roi_pooling_param { pooled_h: 2 }", (3, 5), "pooled_w 0 must be > 0"),
        ("ROIPooling", f"roi_pooling_param {{ {POOLED} }}", (3, 4), r"must be \(3, 5\)"),
        ("ROIPooling", f"roi_pooling_param {{ {POOLED} }}", (3, 5, 2, 1), r"must be \(3, 5\)"),
        (
            "PSROIPooling",
            "psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 1 }",
            (3, 5),
            "group_size 2² = 8 channels",
        ),
    ],
)
def test_what_does_not_fit(kind: str, settings: str, regions: tuple[int, ...], says: str) -> None:
    with pytest.raises(NetError, match=says):
        build(kind, settings, (SHAPE, regions))


# R-FCN's losses ----------------------------------------------------------------------------------


def test_the_weights_of_smooth_l1_are_no_factor_of_its_gradient() -> None:
    """±f'(w · d), to both bottoms; none for w, and none through the second top."""
    net = build("SmoothL1LossOHEM", "loss_weight: 2 loss_weight: 3", ((5, 4),) * 3, tops=2)
    a, b, w = leaves((5, 4), (5, 4), (5, 4))
    total, _ = net.loss({"b0": a, "b1": b, "b2": w})
    total.backward()
    wanted = 2 / 5 * (w * (a - b)).detach().clamp(-1, 1)
    torch.testing.assert_close(a.grad, wanted)
    torch.testing.assert_close(b.grad, -wanted)
    assert w.grad is None


def test_softmax_of_regions_has_softmax_with_losss_gradient() -> None:
    settings = "loss_param { ignore_label: -1 normalization: NONE }"
    labels = torch.tensor([0.0, -1, 2, 1], dtype=torch.float64)
    found = []
    for kind, tops in (("SoftmaxWithLoss", 1), ("SoftmaxWithLossOHEM", 3)):
        weights = "loss_weight: 1" + " loss_weight: 5" * (tops - 1)
        net = build(kind, f"{settings} {weights}", ((4, 3), (4,)), tops)
        (x,) = leaves((4, 3))
        total, _ = net.loss({"b0": x, "b1": labels})
        total.backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


def test_class_weights_are_factors_of_the_gradient() -> None:
    settings = "loss_param { weight_by_label_freqs: true class_weighting: 2 class_weighting: 0.5 }"
    net = build("SoftmaxWithLoss", settings, ((2, 2, 3), (2, 3)))
    (x,) = leaves((2, 2, 3))
    labels = torch.tensor([[0.0, 1, 1], [1, 0, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: run(net, x, labels)["t0"], (x,))
    with pytest.raises(NetError, match="for each of the 3 classes of"):
        build("SoftmaxWithLoss", settings, ((2, 3), (2,)))


@pytest.mark.parametrize("given", ["class_weighting: 2 class_weighting: 0.5", ""])
def test_class_weights_count_with_the_flag_alone(given: str) -> None:
    (x,) = leaves((4, 2))
    labels = torch.tensor([0.0, 1, 1, 0], dtype=torch.float64)
    found = run(build("SoftmaxWithLoss", f"loss_param {{ {given} }}", ((4, 2), (4,))), x, labels)
    wanted = torch.nn.functional.cross_entropy(x, labels.long())
    torch.testing.assert_close(found["t0"], wanted)


def test_a_fixed_normalizer_is_1_at_least() -> None:
    settings = "loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 0.25 }"
    (a, b) = leaves((5, 4), (5, 4))
    found = run(build("SmoothL1LossOHEM", settings, ((5, 4),) * 2), a, b)["t0"]
    torch.testing.assert_close(found, torch.nn.functional.smooth_l1_loss(a, b, reduction="sum"))


# Proposal ----------------------------------------------------------------------------------------


def test_boxes_beyond_a_block_are_suppressed_too() -> None:
    """One after another, as the fork does; and no more than are wanted."""
    random = np.random.default_rng(1)
    corners = random.uniform(0, 60, (2 * BLOCK + 50, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0, 12, corners.shape)], 1)
    kept: list[int] = []
    for n, box in enumerate(boxes):
        others = boxes[kept]
        sides = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
        apart = (sides < 0).any(1)
        shared = np.where(apart, 0, (sides + 1).prod(1))
        areas = (others[:, 2:] - others[:, :2] + 1).prod(1) + (box[2:] - box[:2] + 1).prod()
        if not (shared / (areas - shared) > 0.4).any():
            kept.append(n)
    found = greedy(torch.from_numpy(boxes), 0.4, pixels_above)
    assert found.tolist() == kept
    assert greedy(torch.from_numpy(boxes), 0.4, pixels_above, 9).tolist() == kept[:9]


def test_proposals_without_settings_or_of_other_shapes_are_refused() -> None:
    shapes = ((1, 4, 2, 2), (1, 8, 2, 2), (1, 3))
    for settings, other, says in (
        ("scale: 8", shapes, "needs a ratio and a scale"),
        ("ratio: 1 scale: 8", shapes, "2 scores for each of 1 anchors"),
        ("ratio: 1 ratio: 2 scale: 8", (*shapes[:2], (1, 2)), "height, width and scale"),
    ):
        with pytest.raises((NetError, ShapeError), match=says):
            build("Proposal", f"proposal_param {{ {settings} }}", other)
