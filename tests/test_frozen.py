"""Nets without gradients: folded and packed weights, which never outlive the blobs they are of."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_case import GoldenCase
from small_net import load_text
from test_bad_input import Folder
from test_layers import CASES
from torch import Tensor, fx, nn
from torch.nn.utils import prune

from converters import CaffeNet, save_caffemodel
from converters.layers import onednn
from converters.net import caffe_net
from converters.net import frozen as frozen_graphs
from gmnet_pt import Solver

BATCH_NORM = (
    'layer {{ name: "bn{0}" type: "BatchNorm" bottom: "{1}" top: "bn{0}" }}'
    'layer {{ name: "scale{0}" type: "Scale" bottom: "bn{0}" top: "bn{0}" '
    "scale_param {{ bias_term: true }} }}"
)
CONVOLUTION = (
    'layer {{ name: "conv{0}" type: "Convolution" bottom: "{1}" top: "conv{0}" convolution_param '
    '{{ num_output: 8 kernel_size: 3 pad: 1 weight_filler {{ type: "msra" }} {2} }} }}'
)
RELU = 'layer {{ name: "relu{0}" type: "ReLU" bottom: "{0}" top: "{0}" }}'
NET = "\n".join(
    [
        'layer { name: "in" type: "Input" top: "data" input_param '
        "{ shape { dim: 5 dim: 3 dim: 6 dim: 6 } } }",
        CONVOLUTION.format(1, "data", ""),
        BATCH_NORM.format(1, "conv1"),
        RELU.format("bn1"),
        CONVOLUTION.format(4, "data", ""),
        CONVOLUTION.format(2, "bn1", "bias_term: false group: 2"),
        BATCH_NORM.format(2, "conv2"),
        'layer { name: "sum" type: "Eltwise" bottom: "conv4" bottom: "bn2" top: "sum" }',
        RELU.format("sum"),
        CONVOLUTION.format(3, "sum", ""),
        'layer { name: "bias" type: "Bias" bottom: "conv3" top: "bias" }',
        'layer { name: "drop" type: "Dropout" bottom: "bias" top: "drop" }',
        'layer { name: "add" type: "Eltwise" bottom: "drop" bottom: "sum" top: "add" }',
        'layer { name: "fc" type: "InnerProduct" bottom: "add" top: "fc" '
        'inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }',
        'layer { name: "gain" type: "Scale" bottom: "fc" top: "gain" }',
        RELU.format("gain"),
    ]
)
X = torch.linspace(-1, 1, 5 * 3 * 6 * 6).reshape(5, 3, 6, 6)


def build(text: str = NET, phase: str = "TEST") -> CaffeNet:
    torch.manual_seed(0)
    net = load_text(text, phase)
    with torch.no_grad():
        for blobs in net.params.values():
            for blob in blobs:
                if blob.dim() == 1:
                    blob.uniform_(0.5, 1.5)
    return net


def plain(net: CaffeNet, x: Tensor = X) -> Tensor:
    """Layer by layer."""
    return net(x, blobs="all")["gain"]


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The code of what was frozen, gradients off."""
    made: list[str] = []
    real = frozen_graphs.straight

    def straight(module: fx.GraphModule) -> object:
        made.append(str(module.graph))
        return real(module)

    monkeypatch.setattr(frozen_graphs, "straight", straight)
    with torch.no_grad():
        yield made


def assert_same(net: CaffeNet, x: Tensor = X) -> None:
    found, wanted = net(x)["gain"], plain(net, x)
    assert found.dtype == wanted.dtype
    close = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-5, torch.float64: 1e-12}
    bound = close[found.dtype]
    torch.testing.assert_close(found, wanted, rtol=bound, atol=bound * float(wanted.abs().max()))


def test_a_weight_without_bound_is_a_number_too() -> None:
    net = load_text(
        'layer { name: "in" type: "Input" top: "x" top: "y" '
        "input_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 3 } } }"
        'layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "l" '
        "loss_weight: -inf }"
    )
    with torch.no_grad():
        loss, _ = net.loss({"x": torch.ones(2, 3), "y": torch.zeros(2, 3)})
    assert float(loss) == -math.inf


def test_it_calls_products_and_little_else(frozen: list[str]) -> None:
    """Of 18 layers the four convolutions, a sum in place and the product remain."""
    net = build()
    assert_same(net)
    (code,) = frozen
    calls = re.findall(r"call_module\[target=([^\]]+)\]\(args = \(([^)]*)\)", code)
    assert [name for name, _ in calls] == [
        *("folded.conv1", "folded.conv2", "folded.conv4", "folded.conv3"),
        *("in_place.sum", "folded.fc"),
    ]
    assert dict(calls)["folded.conv4"] == "%data, %conv2", "the sum is no part of it"


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 9])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["fp32", "fp64", "bf16"]
)
def test_the_values_are_those_of_the_layers(
    dtype: torch.dtype,
    rows: int,
    packing: bool,
    frozen: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onednn, "_THERE", packing and onednn._THERE)
    net = build().to(dtype)
    x = torch.cat([X, -X])[:rows]
    given = x.clone()
    for layout in (torch.contiguous_format, torch.channels_last):
        net.lay_out(layout)
        assert_same(net, x)
    assert x.equal(given)
    assert frozen


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_golden_without_gradients(
    name: str, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real Caffe's outputs in TEST; nothing that the layers keep is overwritten."""
    monkeypatch.setattr(onednn, "_THERE", packing and onednn._THERE)
    case = GoldenCase(name)
    if "TEST" not in case.about["phases"] or case.about["forwards"] > 1:
        pytest.skip("no such arrays")
    net, compared = case.load("TEST"), 0
    inputs = {key: value.detach() for key, value in case.inputs(0).items()}
    before = {key: value.clone() for key, value in inputs.items()}
    with torch.inference_mode():
        outputs = net(inputs)
    for key, value in outputs.items():
        if f"TEST/blob/{key}" in case.arrays:
            case._one(f"TEST/blob/{key}", value, case.bounds.blobs)
            compared += 1
    assert compared or not outputs
    for key, value in inputs.items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


# What may change between two calls ---------------------------------------------------------------


def times(net: CaffeNet, name: str = "conv1") -> None:
    with torch.no_grad():
        net.params[name][0].mul_(-2)


def by_data(net: CaffeNet) -> None:
    net.params["conv1"][0].data[...] = 0.5


def by_numpy(net: CaffeNet) -> None:
    net.params["conv2"][0].detach().numpy()[...] = 0.5


def by_optimizer(net: CaffeNet) -> None:
    for parameter in net.parameters():
        parameter.data.mul_(-1.5)


def by_wrapper(net: CaffeNet) -> None:
    for parameter in nn.Sequential(net).parameters():
        parameter.data.mul_(-1.5)


def by_layer(net: CaffeNet) -> None:
    net.layers["fc"].weight.data.mul_(-1.5)


def by_state(net: CaffeNet) -> None:
    net.state_dict()["layers.scale1.weight"].numpy()[...] = -3


def by_learnable(net: CaffeNet) -> None:
    net.learnable[0].data.mul_(-3)


def replaced(net: CaffeNet) -> None:
    net.layers["conv3"].weight = nn.Parameter(torch.ones_like(net.layers["conv3"].weight))


def loaded(net: CaffeNet) -> None:
    net.load_state_dict({key: value * 0.5 for key, value in net.state_dict().items()})


def rounded(net: CaffeNet) -> None:
    net.bfloat16().float()


def rounded_layer(net: CaffeNet) -> None:
    net.layers["conv1"].half().float()


def statistics(net: CaffeNet) -> None:
    net.params["bn1"][1].fill_(9.0)


def trained(net: CaffeNet) -> None:
    net.layers["bn1"].train()


def hooked(net: CaffeNet) -> None:
    net.layers["conv1"].register_forward_hook(lambda module, x, y: y + 1)


def exchanged(net: CaffeNet) -> None:
    net.set_submodule("layers.relubn1", nn.Identity())


def pruned(net: CaffeNet) -> None:
    prune.l1_unstructured(net.layers["conv1"], "weight", amount=0.7)


CHANGES = [
    *(times, by_data, by_numpy, by_optimizer, by_wrapper, by_layer, by_state, by_learnable),
    *(replaced, loaded, rounded, rounded_layer, statistics, trained, hooked, exchanged, pruned),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_it_follows_every_change(change: Callable[[CaffeNet], None], frozen: list[str]) -> None:
    net = build()
    before = net(X)["gain"]
    change(net)
    wanted = plain(copy.deepcopy(net))
    found = net(X)["gain"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, before, rtol=1e-5), "the change had no effect"


@pytest.mark.parametrize(
    "alias",
    [lambda blob: blob.data, lambda blob: blob.detach().numpy(), lambda blob: blob.data[0]],
    ids=["data", "numpy", "view"],
)
def test_what_somebody_holds_is_looked_at_each_time(
    alias: Callable[[Tensor], Any], frozen: list[str]
) -> None:
    net = build()
    held = alias(net.params["conv1"][0])
    for value in (0.5, -0.5, 0.25):
        held[...] = value
        assert_same(net)
        assert_same(net)
    assert len(frozen) == 3
    del held
    net(X)
    assert len(frozen) == 3
    (made,) = net._frozen.values()
    assert made.watch.given >= 0, "nobody holds it any more, and it is still compared"


def test_looking_at_a_blob_costs_one_packing(frozen: list[str]) -> None:
    net = build()
    for _ in range(4):
        net(X)
        float(net.params["conv1"][0].sum())
    assert len(frozen) == 2


def test_files_are_followed(frozen: list[str], tmp_path: Path) -> None:
    other = build()
    times(other)
    save_caffemodel(other, tmp_path / "other.caffemodel")
    net = build()
    net(X)
    net.load_weights(tmp_path / "other.caffemodel")
    torch.testing.assert_close(net(X)["gain"], plain(other), rtol=1e-5, atol=1e-5)


def test_a_test_net_follows_its_train_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder(tmp_path)
    folder.write_solver("SGD", "s", "momentum: 0.9 test_iter: 1 test_interval: 100", 3)
    solver = Solver("solver.prototxt", device="cpu")
    (net,) = solver.test_nets
    feed = solver._fed[1].next()
    for _ in range(3):
        solver.step()
        with torch.no_grad():
            found = net.loss(feed)[0]
            assert net._frozen, "it ran layer by layer"
        wanted = net.loss(feed)[0]
        assert wanted.requires_grad
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-6)


# Who wants more than values ----------------------------------------------------------------------


def test_with_gradients_the_layers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("frozen")

    monkeypatch.setattr(caffe_net, "freeze", never)
    net = build()
    net(X)["gain"].sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.requires_grad_(False)
    x = X.clone().requires_grad_()
    net(x)["gain"].sum().backward()
    assert x.grad is not None


def test_without_parameters_that_require_them_no_context_is_needed() -> None:
    net = build().requires_grad_(False)
    assert not net(X)["gain"].requires_grad
    assert net._frozen


def test_a_training_net_keeps_what_training_does(frozen: list[str]) -> None:
    one, other = build(phase="TRAIN"), build(phase="TRAIN")
    for net, blobs in ((one, None), (other, "all")):
        torch.manual_seed(1)
        net(X, blobs=blobs)
    for a, b in zip(one.learnable, other.learnable, strict=True):
        torch.testing.assert_close(a, b)


def test_a_copy_is_frozen_by_itself(frozen: list[str]) -> None:
    net = build()
    before = net(X)["gain"]
    other = copy.deepcopy(net)
    times(other)
    assert_same(other)
    assert net(X)["gain"].equal(before)


def test_weights_that_are_not_finite_stay_where_they_are(frozen: list[str]) -> None:
    """0 · ∞ is NaN where a bottom is 0; a weight that is infinite would make NaN elsewhere too."""
    net = build(NET[: NET.index('layer { name: "relubn1"')])
    net.params["scale1"][0][0] = float("inf")
    found, wanted = net(X)["bn1"], net(X, blobs="all")["bn1"]
    assert wanted[:, 0].isinf().any() and wanted[:, 1:].isfinite().all()
    torch.testing.assert_close(found, wanted, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_a_smaller_image_than_planned_runs_as_its_layers_do(frozen: list[str]) -> None:
    net = build(NET[: NET.index('layer { name: "bn1"')].replace("pad: 1", "stride: 2"))
    for size in (6, 3, 2):
        x = torch.rand(2, 3, size, size)
        torch.testing.assert_close(net(x)["conv1"], net(x, blobs="all")["conv1"])
    assert len(frozen) == 1


def test_inference_tensors_as_blobs() -> None:
    with torch.inference_mode():
        net = build()
        found = net(X)["gain"]
        net.params["conv1"][0].mul_(2)
        assert not net(X)["gain"].equal(found)
    assert np.isfinite(found.numpy()).all()
