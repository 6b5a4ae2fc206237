"""Nets out of Caffe: every line beside what real Caffe computed, each form beside the net."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_case import GOLDEN, READY, GoldenCase, relative_error
from small_net import load_text

from bench.nets.builder import deploy
from bench.nets.googlenet import googlenet
from bench.nets.resnet50 import resnet50
from converters import CaffeNet
from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.export.forms import FORMS, export
from converters.export.part import part_of
from converters.export.source import used_functions, write_module
from converters.export.writing import LINES
from converters.layers import LAYERS
from converters.net.caffe_net import build_net
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb

CASES = sorted(path.name for path in (GOLDEN / "layers").iterdir()) + READY
NETS = [name for name in CASES if name.startswith("net_")]
ANEW = {"lstm_state", "rnn_state"}
"""What Caffe computes there begins where the forward before ended; an export begins anew."""
NO_LINE = {"MarginInnerProduct", "NdPooling", "Python", "Yolov3DetectionOutput"}
"""Types that are called as in the net, or named: no line says what they compute."""


def tracer(form: str) -> str:
    """The form, skipped where what it needs is not installed."""
    if form == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="pip install 'gmnet-caffe[onnx]'")
    return form


def exported(net: CaffeNet, out: Path, until: tuple[str, ...] = ()) -> float:
    """Export a net; the largest difference, as it was found while it was written."""
    report = export(net, part_of(net.plan, until), out, tracer(out.suffix))
    assert out.is_file() and out.stat().st_size > 0
    return report.difference.largest


def command(*arguments: str | Path) -> int:
    """`python -m converters export …`."""
    return run_subcommand("converters", "", COMMANDS, ["export", *map(str, arguments)])


# Lines beside real Caffe -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CASES if name not in ANEW])
def test_a_line_computes_what_caffe_computed(name: str) -> None:
    """The text alone, on Caffe's weights and inputs: every output that the golden file has."""
    case = GoldenCase(name)
    if "TEST" not in case.about["phases"]:
        pytest.skip("the case has no TEST phase")
    net = case.load("TEST")
    part = part_of(net.plan)
    inputs = case.inputs(case.about["forwards"] - 1)
    with torch.no_grad():
        found = write_module(net, part, "weights").build()(*(inputs[n] for n in part.inputs))
    outputs = (found,) if isinstance(found, torch.Tensor) else found
    compared = 0
    for blob, output in zip(part.outputs, outputs, strict=True):
        golden = case.arrays.get(f"TEST/blob/{blob}")
        if golden is not None:
            compared += 1
            error = relative_error(output.detach().numpy(), golden)
            assert error <= case.bounds.blobs, f"{blob}: {error:.1e}"
    assert compared


def test_types_without_a_line_are_these_alone() -> None:
    data = {key for key, layer in LAYERS.items() if layer.is_data}
    without_tops = {key for key, layer in LAYERS.items() if layer.tops.most == 0}
    assert set(LINES) <= set(LAYERS)
    missing = set(LAYERS) - set(LINES) - data - without_tops
    assert missing == NO_LINE | {"L1Loss of FlowNet2"}


def test_functions_come_with_those_that_they_call() -> None:
    assert used_functions(["y = max_pool(x, 1)"]) == ["within_windows", "max_pool"]
    assert used_functions(["y = F.max_pool2d(x, 2)"]) == []


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(
    "settings",
    [
        "pool: MAX kernel_size: 2 stride: 3",
        "pool: MAX kernel_size: 3 stride: 2 pad: 2",
        "pool: MAX kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR",
        "pool: MAX global_pooling: true",
        "pool: AVE kernel_size: 3 stride: 2",
        "pool: AVE kernel_size: 3 stride: 2 pad: 1",
        "pool: AVE kernel_size: 3 stride: 2 pad: 2",
        "pool: AVE kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0",
        "pool: STOCHASTIC kernel_size: 3 stride: 2",
    ],
)
def test_pooling_in_caffes_windows(settings: str, size: int) -> None:
    """Each in the image's size, and the same text on another, where torch has the windows too."""
    text = f"""
    layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{
      dim: 2 dim: 3 dim: {size} dim: {size} }} }} }}
    layer {{ name: "pool" type: "Pooling" bottom: "x" top: "y" pooling_param {{ {settings} }} }}
    """
    net = load_text(text)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).abs()
    found = write_module(net, part_of(net.plan), "").build()(x)
    torch.testing.assert_close(found, net(x)["y"])


# Forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETS)
def test_golden_nets_go_out_in_every_form(name: str, form: str, tmp_path: Path) -> None:
    net = GoldenCase(name).load("TEST")
    assert exported(net, tmp_path / f"net{form}") < 2e-6


def thinned(net: pb.NetParameter, by: int) -> pb.NetParameter:
    """The net with fewer channels: shapes alike, weights few."""
    for layer in net.layer:
        if layer.type == "Convolution":
            layer.convolution_param.num_output //= by
        elif layer.type == "InnerProduct":
            layer.inner_product_param.num_output //= by
    return net


@pytest.fixture(scope="module")
def shaped() -> dict[str, CaffeNet]:
    """GoogLeNet and ResNet-50 with few channels, on small images, their weights from fillers."""
    torch.manual_seed(0)
    made = {}
    for name, net, size in (("googlenet", googlenet(), 96), ("resnet", resnet50(), 64)):
        message = deploy(thinned(net, 16 if name == "resnet" else 8), (2, 3, size, size))
        for layer in message.layer:
            if layer.type == "Pooling" and layer.pooling_param.kernel_size == 7:
                layer.pooling_param.kernel_size = 3
        made[name] = build_net(NetChoice(f"{name}.prototxt", message))
        for blobs in made[name].params.values():
            if len(blobs) == 3:  # statistics: of a net that was trained for a while
                blobs[0].normal_(), blobs[1].uniform_(1, 2), blobs[2].fill_(2.5)
    return made


@pytest.mark.parametrize("form", [".py", ".onnx"])
@pytest.mark.parametrize("name", ["googlenet", "resnet"])
def test_shaped_nets(shaped: dict[str, CaffeNet], name: str, form: str, tmp_path: Path) -> None:
    assert exported(shaped[name], tmp_path / f"net{form}") < 1e-5
