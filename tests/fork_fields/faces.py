"""Fields of CenterLoss and MarginInnerProduct."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from field_checks import shows
from field_rows import Row, net_text
from oracle import Array

from converters.errors import ShapeError
from converters.net.caffe_net import build_net
from converters.net.choice import NetChoice
from converters.prototxt.text import parse_net
from fork_fields import Filled


def center_loss(b: list[Array], w: list[Array], distance: str = "L2") -> list[Array]:
    x, labels = b[0].reshape(len(b[0]), -1), b[1].astype(int)
    each = [x[n] - w[0][label] for n, label in enumerate(labels.flat)]
    total = sum((d**2).sum() / 2 if distance == "L2" else abs(d).sum() for d in each)
    return [np.array(total / len(x))]


def margin(b: list[Array], w: list[Array], m: int, rate: float) -> list[Array]:
    """By the angle itself: (-1)^k · cos(mθ) - 2k."""
    x, labels = b[0].reshape(-1, w[0].shape[1]), b[1].astype(int)
    rows = w[0] / np.sqrt((w[0] ** 2).sum(1, keepdims=True))
    y = x @ rows.T
    for n, label in enumerate(labels.flat):
        length = np.sqrt((x[n] ** 2).sum())
        angle = math.acos(y[n, label] / length)
        k = min(m - 1, math.floor(angle * m / math.pi))
        psi = (-1) ** k * math.cos(m * angle) - 2 * k
        y[n, label] = (rate * y[n, label] + length * psi) / (1 + rate)
    return [y.reshape(*b[1].shape, -1)]


SIZES = ((8, 2, 3), (8,))

ROWS = [
    Row(
        "CenterLoss",
        "num_output",
        "center_loss_param { num_output: 5 }",
        SIZES,
        center_loss,
        labels=3,
    ),
    Row(
        "CenterLoss of happynear",
        "num_output distance_type",
        'center_loss_param { num_output: 5 distance_type: "L1" }',
        SIZES,
        lambda b, w: center_loss(b, w, "L1"),
        labels=3,
    ),
    *(
        Row(
            "MarginInnerProduct",
            "num_output axis type base gamma power iteration",
            f"margin_inner_product_param {{ num_output: 4 axis: 2 type: {kind} base: 6 "
            "gamma: 0.5 power: 2 iteration: 3 }",
            ((4, 2, 3), (4, 2)),
            # The first forward is number 3 + 1.
            lambda b, w, m=m: margin(b, w, m, 6 * (1 + 0.5 * 4) ** -2.0),
            labels=4,
        )
        for m, kind in ((2, "DOUBLE"), (3, "TRIPLE"), (4, "QUADRUPLE"))
    ),
    Row(
        "MarginInnerProduct",
        "lambda_min",
        "margin_inner_product_param { num_output: 4 type: QUADRUPLE lambda_min: 5 }",
        SIZES,
        lambda b, w: margin(b, w, 4, 5.0),
        labels=4,
    ),
]

FILLED = {
    ("CenterLoss", "center_loss_param.center_filler"): Filled("num_output: 4", SIZES, 0),
    ("CenterLoss of happynear", "center_loss_param.center_filler"): Filled(
        "num_output: 4", SIZES, 0
    ),
    ("MarginInnerProduct", "margin_inner_product_param.weight_filler"): Filled(
        "num_output: 4", SIZES, 0
    ),
}


@shows("CenterLoss", "center_loss_param.axis")
@shows("CenterLoss of happynear", "center_loss_param.axis")
def axis_leaves_values_out(folder: Path) -> None:
    """From axis 2 on an item of (8, 2, 3) has 3 values, and the fork would take those of others."""
    text = net_text("CenterLoss", "center_loss_param { num_output: 4 axis: %d }", SIZES)
    for axis, refused in ((1, False), (-2, False), (2, True)):
        choice = NetChoice("net.prototxt", parse_net(text % axis, "net.prototxt"))
        with pytest.raises(ShapeError, match="3 values an item") if refused else nullcontext():
            build_net(choice)
