"""The net as a plain torch object: its code, its names, torch.export and torch.compile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden_case import GOLDEN, GoldenCase

from converters.errors import ShapeError
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice
from converters.net.layer_module import attribute
from converters.prototxt.text import parse_net, read_net

# Those that stay as they are in a module, and those that torch or Python cannot have so.
PLAIN = ["a_b", "a/b", "loss", "params", "1x1", "a_x2e_b"]
NAMES = [*PLAIN, "a.b", "forward", "class", "self", "größe", '"), 1/0, ("', ""]
NET = """
name: "names"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv/1" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 bias_term: false
    weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "loss" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


def build(text: str = NET, phase: str = "TEST") -> CaffeNet:
    torch.manual_seed(0)
    return build_net(NetChoice("net.prototxt", parse_net(text), phase))


X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def test_the_code_reads_like_a_forward_function() -> None:
    code = build().graph_module.code
    lines = [line.strip() for line in code.splitlines() if "=" in line and "self" in line]
    called = ["conv/1", "scale", "relu", "pool", "loss", "prob"]
    assert len(lines) == len(called)
    for line, name in zip(lines, called):
        assert name in line, line


def test_names_stay_apart_and_clash_with_nothing() -> None:
    escaped = [attribute(name) for name in NAMES]
    assert len(set(escaped)) == len(NAMES)
    assert escaped[: len(PLAIN)] == PLAIN
    quoted = {name: json.dumps(name) for name in NAMES}
    layers = [
        f"layer {{ name: {text} type: 'InnerProduct' bottom: 'x' top: {text} "
        "inner_product_param { num_output: 1 } }"
        for text in quoted.values()
    ]
    data = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 } } }'
    net = build("\n".join([data, *layers]))
    assert list(net.params) == NAMES
    assert net({"x": torch.ones(1, 1)}).keys() == set(NAMES)


def test_graph_module_takes_inputs_and_returns_outputs_in_order() -> None:
    net = build()
    assert (net.inputs, net.outputs) == (["data"], ["prob"])
    (found,) = net.graph_module(X)
    torch.testing.assert_close(found, net({"data": X})["prob"])


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_with_and_without_the_passes_the_values_are_the_same(phase: str) -> None:
    """The graph that returns every blob runs each layer by itself."""
    fused, plain = build(phase=phase), build(phase=phase)
    for net in (fused, plain):
        for blob, value in zip(net.params["bn"], (0.3, 2.0, 1.5)):
            blob.fill_(value)
    torch.testing.assert_close(
        fused({"data": X})["prob"], plain({"data": X}, blobs="all")["prob"], rtol=1e-6, atol=1e-6
    )
    for a, b in zip(fused.params["bn"], plain.params["bn"]):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_it_exports_and_compiles() -> None:
    net = build()
    (wanted,) = net.graph_module(X)
    exported = torch.export.export(net.graph_module, (X,))
    torch.testing.assert_close(exported.module()(X)[0], wanted)
    compiled = torch.compile(net.graph_module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X)[0], wanted)


def one_case_a_type() -> dict[str, str]:
    """Layer type → the first of Caffe's single-layer cases that has it."""
    cases: dict[str, str] = {}
    for folder in sorted((GOLDEN / "layers").iterdir()):
        if not folder.name.startswith("net_"):
            for layer in read_net(folder / "net.prototxt").layer:
                cases.setdefault(layer.type, folder.name)
    return cases


@pytest.mark.parametrize("name", sorted(set(one_case_a_type().values())))
def test_each_golden_layer_type_compiles_without_a_break(name: str) -> None:
    case = GoldenCase(name)
    net = case.load("TEST")
    inputs = [case.inputs(0)[blob].detach() for blob in net.inputs]
    wanted = net.graph_module(*inputs)
    net.reset_state()
    torch.compiler.reset()
    found = torch.compile(net.graph_module, backend="eager", fullgraph=True)(*inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_it_can_be_saved_as_torch_does(tmp_path: Path) -> None:
    net, other = build(), build()
    with torch.no_grad():
        net.params["loss"][0].fill_(0.25)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    torch.testing.assert_close(other({"data": X})["prob"], net({"data": X})["prob"])


def test_an_unknown_blob_is_named() -> None:
    with pytest.raises(
        ShapeError, match=r"no blob .conv2.; did you mean 'conv'. blobs: data, conv, pool"
    ):
        build()({"data": X}, blobs=["conv2"])
