"""Forks' small layers where no golden case is: gradients by naive formulas, state, meanings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_rows import net_text
from fork_fields.faces import margin as margin_of
from fork_fields.moving import reorg
from torch import Tensor

from converters import load_net, save_caffemodel
from converters.errors import NetError, ShapeError
from converters.layers import LAYERS
from converters.layers.forks import faces, loss
from converters.layers.forks.arithmetic.suppression import BLOCK, greedy, overlaps
from converters.layers.registry import Shape
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice
from converters.net.written import snapshot_net
from converters.prototxt.text import parse_net


def build(
    kind: str, settings: str, bottoms: tuple[Shape, ...], tops: int = 1, phase: str = "TRAIN"
) -> CaffeNet:
    """A net of one layer in double precision, its blobs drawn at random."""
    text = f"force_backward: true {net_text(kind, settings, bottoms, tops)}"
    torch.manual_seed(2)
    net = build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"), phase)).double()
    for blobs in net.params.values():
        for blob in blobs:
            torch.nn.init.normal_(blob)
    return net


def leaves(*shapes: Shape) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def run(net: CaffeNet, *bottoms: Tensor) -> dict[str, Tensor]:
    return net({f"b{index}": x for index, x in enumerate(bottoms)}, blobs="all")


# Gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_reorg_has_its_true_gradient(reverse: bool) -> None:
    """Each value goes to one place: the gradient is the other direction's forward."""
    settings = f"reorg_param {{ stride: 2 reverse: {str(reverse).lower()} }}"
    (x,) = leaves((2, 8, 4, 6))
    y = run(build("Reorg", settings, ((2, 8, 4, 6),)), x)["t0"]
    dy = torch.randn_like(y)
    (y * dy).sum().backward()
    places = reorg(np.arange(x.numel(), dtype=float).reshape(x.shape), 2, reverse)
    wanted = np.zeros(x.numel())
    wanted[places.astype(int).ravel()] = dy.numpy().ravel()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy().ravel(), wanted)


def test_reorg_and_its_reverse_undo_each_other() -> None:
    (x,) = leaves((2, 16, 4, 6))
    there = run(build("Reorg", "reorg_param { stride: 2 }", ((2, 16, 4, 6),)), x)["t0"]
    back = build("Reorg", "reorg_param { stride: 2 reverse: true }", (tuple(there.shape),))
    # The order is darknet's: reversing takes maps of another number, so shapes come back alone.
    assert run(back, there)["t0"].shape == x.shape


@pytest.mark.parametrize("kind", ["CenterLoss", "CenterLoss of happynear"])
def test_center_loss_moves_centers_by_their_means(kind: str) -> None:
    """Σ (c - x) / (1 + count), whatever the loss weight; of x the loss weight over N."""
    distance = 'distance_type: "L1"' if "happynear" in kind else ""
    settings = f"center_loss_param {{ num_output: 4 {distance} }} loss_weight: 0.25"
    net = build(kind, settings, ((5, 3), (5,)))
    x, _ = leaves((5, 3), (5,))
    labels = torch.tensor([2.0, 0, 2, 2, 1], dtype=torch.float64)
    total, _ = net.loss({"b0": x, "b1": labels})
    total.backward()
    centers = net.params["layer"][0]
    difference = x.detach() - centers.detach()[labels.long()]
    used = difference.sign() if distance else difference
    assert x.grad is not None and centers.grad is not None
    torch.testing.assert_close(x.grad, 0.25 / 5 * used)
    wanted = torch.zeros(4, 3, dtype=torch.float64)
    for index, label in enumerate(labels.long()):
        wanted[label] -= used[index] / (1 + int((labels == label).sum()))
    torch.testing.assert_close(centers.grad, wanted)


def test_center_loss_counts_nothing_without_a_loss_weight() -> None:
    net = build("CenterLoss", "center_loss_param { num_output: 4 }", ((5, 3), (5,)))
    x, labels = leaves((5, 3))[0], torch.zeros(5, dtype=torch.float64)
    total, _ = net.loss({"b0": x, "b1": labels})
    assert float(total.detach()) == 0


MARGINS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "QUADRUPLE": 4}


@pytest.mark.parametrize("kind", MARGINS)
def test_margin_has_the_forks_gradients(kind: str) -> None:
    """W's is that of W·x. x's own row has its derivative's direction and length 1, and λ's share;
    the derivative is taken here by differences of the formula with the angle itself.
    """
    settings = f"margin_inner_product_param {{ num_output: 3 type: {kind} base: 2 }}"
    net = build("MarginInnerProduct", settings, ((4, 5), (4,)), 2)
    x = leaves((4, 5))[0]
    labels = torch.tensor([0.0, 2, 1, 2], dtype=torch.float64)
    y = run(net, x, labels)["t0"]
    dy = torch.randn_like(y)
    (y * dy).sum().backward()
    weight = net.params["layer"][0]
    rows = weight.detach()
    torch.testing.assert_close(rows.square().sum(1), torch.ones(3, dtype=torch.float64))
    assert x.grad is not None and weight.grad is not None
    torch.testing.assert_close(weight.grad, dy.T @ x.detach())
    wanted = dy @ rows
    for n, label in enumerate(labels.long() if MARGINS[kind] > 1 else ()):
        slope = np.zeros(5)
        for k in range(5):
            ends = []
            for step in (1e-6, -1e-6):
                moved = x.detach()[n : n + 1].clone().numpy()
                moved[0, k] += step
                given: list[Any] = [moved, labels.numpy()[n : n + 1]]
                ends.append(margin_of(given, [rows.numpy()], MARGINS[kind], 0.0)[0][0, label])
            slope[k] = (ends[0] - ends[1]) / 2e-6
        # |x|·ψ has slope a·w + b·x: its length is not 1, the fork's sqrt(a² + b²) is.
        basis = np.stack([rows[label].numpy(), x.detach()[n].numpy()])
        a, b = np.linalg.lstsq(basis.T, slope, rcond=None)[0]
        own = torch.tensor(slope / np.hypot(a, b)) - rows[label]
        wanted[n] += dy[n, label] * own / 3
    torch.testing.assert_close(x.grad, wanted, rtol=1e-6, atol=1e-6)


def test_margin_counts_its_forwards_for_lambda() -> None:
    settings = (
        "margin_inner_product_param { num_output: 3 type: DOUBLE base: 8 gamma: 1 power: 1 "
        "iteration: 2 lambda_min: 1.5 }"
    )
    net = build("MarginInnerProduct", settings, ((4, 5), (4,)), 2)
    x, labels = leaves((4, 5))[0], torch.zeros(4, dtype=torch.float64)
    rates = [float(run(net, x, labels)["t1"]) for _ in range(4)]
    assert rates == pytest.approx([8 / 4, 8 / 5, 1.5, 1.5])


def test_l1_loss_has_no_gradient_where_bottoms_agree() -> None:
    first, second = leaves((3, 4), (3, 4))
    with torch.no_grad():
        second[0] = first[0]
    total, _ = build("L1Loss", "", ((3, 4), (3, 4))).loss({"b0": first, "b1": second})
    total.backward()
    assert first.grad is not None and second.grad is not None
    wanted = (first - second).detach().sign() / 3
    torch.testing.assert_close(first.grad, wanted)
    torch.testing.assert_close(second.grad, -wanted)


def test_flownets_l1_loss_leaves_nan_out() -> None:
    settings = "l1_loss_param { normalize_by_num_entries: true }"
    net = build("L1Loss", settings, ((2, 2, 1, 3),))
    x = leaves((2, 2, 1, 3))[0]
    with torch.no_grad():
        x[0, 0, 0, 0] = torch.nan
        x[0, 0, 0, 1] = 0
    total, _ = net.loss({"b0": x})
    total.backward()
    values = x.detach().nan_to_num(0)
    torch.testing.assert_close(total.detach(), values.abs().sum() / (11 / 2))
    assert x.grad is not None
    # 0 where nothing is known, and -1 at 0.
    assert [float(v) for v in x.grad[0, 0, 0, :2]] == pytest.approx([0, -2 / 11])


def test_relu6_has_no_gradient_at_its_ends() -> None:
    x = torch.tensor([[-1.0, 0, 0.5, 6, 7]], dtype=torch.float64, requires_grad=True)
    for slope in (0.0, 0.5):
        x.grad = None
        net = build("ReLU6", f"relu6_param {{ negative_slope: {slope} }}", ((1, 5),))
        run(net, x)["t0"].sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [[slope, slope, 1, 0, 0]]


# Boxes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 7, 300, BLOCK + 90])
def test_suppression_is_greedy(number: int) -> None:
    torch.manual_seed(number)
    corner = torch.rand(number, 2, dtype=torch.float64)
    boxes = torch.cat([corner, corner + torch.rand(number, 2, dtype=torch.float64) / 3], 1)
    overlap = overlaps(boxes, boxes).numpy()
    kept: list[int] = []
    for index in range(number):
        if not (overlap[kept, index] >= 0.3).any():
            kept.append(index)
    assert greedy(boxes, 0.3).tolist() == kept


YOLO = (
    "yolov3_detection_output_param { num_classes: 1 num_box: 1 confidence_threshold: 0.9 "
    "biases: 2 biases: 2 mask: 0 anchors_scale: 8 mask_group_num: 1 }"
)


def test_yolo_without_detections_has_a_row_an_image() -> None:
    net = build("Yolov3DetectionOutput", YOLO, ((3, 6, 2, 2),), phase="TEST")
    rows = run(net, torch.zeros(3, 6, 2, 2, dtype=torch.float64))["t0"]
    assert rows.tolist() == [[[[n, *[-1.0] * 6] for n in range(3)]]]


def test_yolo_takes_each_image_by_itself() -> None:
    x = torch.zeros(2, 6, 2, 2, dtype=torch.float64)
    x[:, 4:, 1, 0] = 9
    net = build("Yolov3DetectionOutput", YOLO, ((2, 6, 2, 2),), phase="TEST")
    rows = run(net, x)["t0"][0, 0]
    score = float(torch.tensor(9.0, dtype=torch.float64).sigmoid() ** 2)
    # The centre (0.5, 1.5) of 2 cells, an anchor of 2 over 2 cells of 8.
    box = [0.25 - 0.0625, 0.75 - 0.0625, 0.25 + 0.0625, 0.75 + 0.0625]
    np.testing.assert_allclose(rows.numpy(), [[0, 1, score, *box], [1, 1, score, *box]])


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "bottoms", "error", "says"),
    [
        ("ShuffleChannel", "shuffle_channel_param { group: 3 }", ((1, 4),), ShapeError, "group 3"),
        ("Axpy", "", ((2, 3), (2, 4, 1, 1), (2, 4, 1, 1)), ShapeError, r"\(N, C, 1, 1\)"),
        ("Axpy", "", ((2, 4), (2, 4, 1, 2), (2, 4, 1, 1)), ShapeError, "one shape"),
        ("Reorg", "", ((1, 4, 2, 2),), NetError, "stride 0 must be given"),
        ("Reorg", "reorg_param { stride: 2 }", ((1, 6, 2, 2),), ShapeError, "6 channels"),
        ("Reorg", "reorg_param { stride: 2 }", ((1, 4, 3, 2),), ShapeError, "height 3"),
        ("Reverse", "reverse_param { axis: 2 }", ((1, 4),), ShapeError, "axis 2 is no axis"),
        ("Transpose", "transpose_param { dim: 0 }", ((1, 4),), NetError, r"dim \[0\] must name"),
        ("CenterLoss", "", ((2, 3), (2,)), NetError, "num_output 0"),
        (
            "NdConvolution",
            "convolution_param { num_output: 2 kernel_shape { dim: 3 } }",
            ((1, 2, 4, 4),),
            NetError,
            r"kernel_shape \[3\] must have a dim for each of the 2 spatial axes",
        ),
        (
            "NdPooling",
            "pooling_param { kernel_shape { dim: 2 dim: 0 } }",
            ((1, 2, 4, 4),),
            NetError,
            "must be 1 or more",
        ),
        (
            "Yolov3DetectionOutput",
            YOLO.replace("mask: 0", "mask: 1"),
            ((1, 6, 2, 2),),
            NetError,
            r"mask \[1\] must have 1 places of the 1 anchors",
        ),
        ("Yolov3DetectionOutput", YOLO, ((1, 7, 2, 2),), ShapeError, r"must be \(1, 6, h, w\)"),
    ],
)
def test_what_does_not_fit_is_named(
    kind: str, settings: str, bottoms: tuple[Shape, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        build(kind, settings, bottoms)
    assert 'net.prototxt: layer "layer"' in str(raised.value)


def test_a_label_outside_the_classes_is_an_error() -> None:
    net = build("CenterLoss", "center_loss_param { num_output: 4 }", ((2, 3), (2,)))
    with pytest.raises(NetError, match=r"label 4 in .*b1"):
        run(net, torch.zeros(2, 3).double(), torch.tensor([0.0, 4]).double())


# One name, several meanings ----------------------------------------------------------------------


def meant(text: str) -> type:
    net = build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"), "TRAIN"))
    return type(net.plan.layers[-1].layer)


SHAPES = ((2, 3), (2,))


def test_fields_decide_between_meanings(caplog: pytest.LogCaptureFixture) -> None:
    settings = "center_loss_param { num_output: 4 %s }"
    assert meant(net_text("CenterLoss", settings % "", SHAPES)) is faces.CenterLoss
    with caplog.at_level(logging.WARNING):
        named = net_text("CenterLoss", settings % 'distance_type: "L2"', SHAPES)
        assert meant(named) is faces.NamedCenterLoss
        assert meant(named) is faces.NamedCenterLoss
    assert caplog.messages == [
        "net.prototxt: type CenterLoss is that of happynear (distance_type is set)"
    ]


def test_bottoms_decide_between_meanings() -> None:
    assert meant(net_text("L1Loss", "", ((2, 3), (2, 3)))) is loss.L1Loss
    assert meant(net_text("L1Loss", "", ((2, 3),))) is loss.MaskedL1Loss


def test_the_other_layers_of_the_type_decide_where_one_says_nothing() -> None:
    first = net_text(
        "CenterLoss", 'center_loss_param { num_output: 4 distance_type: "L2" }', SHAPES
    )
    second = (
        'layer { name: "second" type: "CenterLoss" bottom: "b0" bottom: "b1" top: "s" '
        "center_loss_param { num_output: 4 } }"
    )
    assert meant(f"{first}\n{second}") is faces.NamedCenterLoss


def test_a_prototxt_may_say_the_meaning_itself() -> None:
    text = net_text("L1Loss of FlowNet2", "", ((2, 3), (2, 3)))
    assert meant(text) is loss.MaskedL1Loss


@pytest.fixture
def by_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second meaning of CenterLoss as if its blobs told it: two classes."""
    monkeypatch.setattr(
        faces.NamedCenterLoss, "fits_blobs", classmethod(lambda cls, shapes: shapes[0][0] == 2)
    )


@pytest.mark.usefixtures("by_blobs")
@pytest.mark.parametrize(("classes", "wanted"), [(2, "NamedCenterLoss"), (3, "CenterLoss")])
def test_blobs_in_the_weights_decide_where_the_prototxt_says_nothing(
    classes: int, wanted: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        net_text("CenterLoss", f"center_loss_param {{ num_output: {classes} }}", SHAPES)
    )
    save_caffemodel(load_net(path), tmp_path / "w.caffemodel")
    caplog.clear()
    net = load_net(path, weights=tmp_path / "w.caffemodel")
    assert type(net.plan.layers[-1].layer).__name__ == wanted
    assert any(f"({classes}, 3)" in message for message in caplog.messages) == (classes == 2)


def test_meanings_are_entries_of_the_registry() -> None:
    assert LAYERS["CenterLoss"] is faces.CenterLoss
    assert LAYERS["CenterLoss of happynear"] is faces.NamedCenterLoss
    assert faces.NamedCenterLoss.type == "CenterLoss"


def test_a_snapshot_completes_the_meaning_that_is_meant() -> None:
    text = net_text("L1Loss", "l1_loss_param { plateau: 1 }", ((2, 3), (2, 3)))
    written = snapshot_net(parse_net(text, "net.prototxt"), "TRAIN", "net.prototxt")
    assert list(written.layer[-1].loss_weight) == [1]
    assert written.layer[-1].type == "L1Loss"
