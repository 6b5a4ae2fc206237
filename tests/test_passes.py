"""Rewritten graphs against those that run each layer by itself: values and gradients.

`net(x)` and `net.loss(x)` are rewritten for speed; `blobs="all"` is not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from golden_case import GOLDEN, bounds_of, relative_error
from small_net import load_text

from converters import CaffeNet
from converters.prototxt.text import read_net, to_text

X = torch.linspace(-1, 1, 2 * 2 * 3 * 3).reshape(2, 2, 3, 3)
CONVOLUTION = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 2 dim: 3 dim: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "msra" } } }
"""
RELU = 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "relu" %s }\n'
SUM = 'layer { name: "sum" type: "Reduction" bottom: "%s" top: "sum" loss_weight: 1 }\n'


@pytest.mark.parametrize("relu_is_first", [True, False])
def test_a_relu_spares_a_blob_that_another_layer_reads(relu_is_first: bool) -> None:
    layers = [
        RELU % "",
        'layer { name: "double" type: "Power" bottom: "conv" top: "double" '
        "power_param { scale: 2 } }\n",
    ]
    torch.manual_seed(0)
    net = load_text(CONVOLUTION + "".join(layers if relu_is_first else layers[::-1]))
    weight = net.params["conv"][0].detach()
    conv = torch.nn.functional.conv2d(X, weight)
    assert (conv < 0).any()
    with torch.no_grad():
        tops = net({"x": X})
    torch.testing.assert_close(tops["double"], 2 * conv)
    torch.testing.assert_close(tops["relu"], conv.relu())


def trained(net: CaffeNet) -> dict[str, bool]:
    """After a backward pass: which layers' first blobs received a gradient."""
    loss, _ = net.loss({"x": X})
    if loss.requires_grad:
        loss.backward()
    return {name: blobs[0].grad is not None for name, blobs in net.params.items()}


def test_propagate_down_false_on_a_relu_spares_the_convolution() -> None:
    assert trained(load_text(CONVOLUTION + RELU % "" + SUM % "relu", "TRAIN")) == {"conv": True}
    cut = load_text(CONVOLUTION + RELU % "propagate_down: false" + SUM % "relu", "TRAIN")
    assert trained(cut) == {"conv": False}


@pytest.mark.parametrize("cut", ["BatchNorm", "Scale"])
def test_propagate_down_false_is_kept_where_batch_norm_and_scale_are_one(cut: str) -> None:
    flags = {kind: "propagate_down: false" * (kind == cut) for kind in ("BatchNorm", "Scale")}
    net = load_text(
        CONVOLUTION
        + f'layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" {flags["BatchNorm"]} }}'
        f'layer {{ name: "scale" type: "Scale" bottom: "bn" top: "scale" {flags["Scale"]} '
        "scale_param { bias_term: true } }" + SUM % "scale",
        "TRAIN",
    )
    assert trained(net) == {"conv": False, "bn": False, "scale": True}


# Every case that has both; no other holds anything to fuse.
WITH_BATCH_NORM_AND_SCALE = [
    folder.name
    for folder in sorted((GOLDEN / "layers").iterdir())
    if {"BatchNorm", "Scale"} <= {layer.type for layer in read_net(folder / "net.prototxt").layer}
]
Run = Callable[[CaffeNet, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
REWRITTEN: list[Run] = [lambda net, x: net(x), lambda net, x: net.loss(x)[1]]


def gradients(name: str, cut: str, run: Run) -> dict[str, np.ndarray]:
    """Of a random sum of the outputs, by every input and blob; `cut` is a type to cut before."""
    folder = GOLDEN / "layers" / name
    message = read_net(folder / "net.prototxt")
    # force_backward overrules propagate_down.
    message.force_backward = False
    for layer in message.layer:
        if layer.type == cut:
            layer.propagate_down[:] = [False] * len(layer.bottom)
    weights = folder / "weights.caffemodel"
    net = load_text(to_text(message), "TRAIN", weights=weights)
    arrays = np.load(folder / "golden.npz")
    leaves = {key: torch.tensor(arrays[f"in/{key}"]).requires_grad_() for key in net.inputs}
    outputs = run(net, leaves)
    torch.manual_seed(1)
    total = torch.zeros(())
    for output in net.outputs:
        total = total + (outputs[output] * torch.randn(outputs[output].shape)).sum()
    if total.requires_grad:
        total.backward()
    for layer, blobs in net.params.items():
        leaves |= {f"{layer}[{place}]": blob for place, blob in enumerate(blobs)}
    return {
        key: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        for key, leaf in leaves.items()
    }


@pytest.mark.parametrize("run", REWRITTEN, ids=["outputs", "loss"])
@pytest.mark.parametrize(
    "cut",
    ["", pytest.param("BatchNorm"), pytest.param("Scale")],
)
@pytest.mark.parametrize("name", WITH_BATCH_NORM_AND_SCALE)
def test_rewritten_or_not_the_gradients_are_the_same(name: str, cut: str, run: Run) -> None:
    plain = gradients(name, cut, lambda net, x: net(x, blobs="all"))
    found = gradients(name, cut, run)
    assert any(array.any() for array in plain.values())
    for key, wanted in plain.items():
        error = relative_error(found[key], wanted)
        assert error <= bounds_of(name).gradients, f"{key}: error {error:.2e}"
