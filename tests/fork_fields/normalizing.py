"""Fields of both Normalize layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from field_checks import shows
from field_rows import Row, net_text
from oracle import Array

from converters.net.caffe_net import build_net
from converters.net.choice import NetChoice
from converters.prototxt.text import parse_net
from fork_fields import Filled, Refused

SHAPE = ((2, 3, 4, 5),)


def by_type(b: list[Array], w: list[Array]) -> list[Array]:
    length = np.zeros((2, 1, 4, 5))
    for n, i, j in np.ndindex(2, 4, 5):
        length[n, 0, i, j] = sum(abs(value) for value in b[0][n, :, i, j]) + 1e-6
    return [b[0] / length, length]


ROWS = [
    Row(
        "Normalize",
        "across_spatial channel_shared eps",
        "norm_param { across_spatial: false channel_shared: false eps: 0.5 }",
        SHAPE,
        lambda b, w: [
            b[0] / np.sqrt((b[0] ** 2).sum(1, keepdims=True) + 0.5) * w[0].reshape(3, 1, 1)
        ],
    ),
    Row(
        "Normalize of happynear",
        "normalize_type",
        'normalize_param { normalize_type: "L1" }',
        SHAPE,
        by_type,
        tops=2,
    ),
]
FILLED = {("Normalize", "norm_param.scale_filler"): Filled("", SHAPE, 0)}
REFUSED = {
    ("Normalize of happynear", f"normalize_param.{name}"): Refused(
        f"normalize_param {{ {name}{value} }}", SHAPE, f"{name}: fields of SSD's Normalize"
    )
    for name, value in (
        ("across_spatial", ": false"),
        ("channel_shared", ": false"),
        ("eps", ": 1"),
        ("scale_filler", " { value: 2 }"),
    )
}


@shows("Normalize of happynear", "normalize_param.fix_gradient", "normalize_param.bp_norm")
def gradients_by_differences(folder: Path) -> None:
    """The derivative of each top by itself, with the fork's two changes."""
    x = torch.randn(SHAPE[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for kind in ("L1", "L2"):
        for undivided, through in ((False, False), (True, False), (False, True), (True, True)):
            settings = (
                f'normalize_param {{ normalize_type: "{kind}" '
                f"fix_gradient: {str(undivided).lower()} bp_norm: {str(through).lower()} }}"
            )
            text = f"force_backward: true {net_text('Normalize', settings, SHAPE, 2)}"
            net = build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"))).double()
            leaf = x.clone().requires_grad_()
            tops = net({"b0": leaf}, blobs=["t0", "t1"])
            dy, dlength = torch.rand_like(tops["t0"]), torch.rand_like(tops["t1"])
            ((tops["t0"] * dy).sum() + (tops["t1"] * dlength).sum()).backward()
            y, length = tops["t0"].detach(), tops["t1"].detach()
            # dy less its share along the length's own gradient, all over the length.
            along = x.sign() if kind == "L1" else y
            wanted = dy - along * (y * dy).sum(1, keepdim=True)
            wanted = wanted if undivided else wanted / length
            torch.testing.assert_close(leaf.grad, wanted + along * dlength * through)
