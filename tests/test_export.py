"""Nets out of Caffe: every line beside what real Caffe computed, each form beside the net."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import GOLDEN, READY, GoldenCase, case_folder, relative_error
from small_net import load_text

from bench.nets.builder import deploy
from bench.nets.googlenet import googlenet
from bench.nets.mobilenet_ssd import mobilenet_ssd
from bench.nets.resnet50 import resnet50
from converters import CaffeNet, load_net
from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.errors import NetError, WeightsError
from converters.export.forms import FORMS, export
from converters.export.part import part_of
from converters.export.source import used_functions, write_module
from converters.export.writing import LINES
from converters.formats.safetensors import read_safetensors, write_safetensors
from converters.layers import LAYERS
from converters.net.caffe_net import build_net
from converters.net.choice import NetChoice
from converters.net.saving import save_caffemodel
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import read_net

CASES = sorted(path.name for path in (GOLDEN / "layers").iterdir()) + READY
NETS = [name for name in CASES if name.startswith("net_")]
TRACED = {"net_ssd_0": ("loc", "conf/flat", "prior")}
"""Up to where a net can be traced: how many boxes DetectionOutput keeps depends on the data."""
ANEW = {"lstm_state", "rnn_state"}
"""What Caffe computes there begins where the forward before ended; an export begins anew."""
NO_LINE = {
    *("Python", "Yolov3DetectionOutput", "NdPooling"),
    *("ROIPooling", "PSROIPooling", "ROIAlign", "Proposal"),
    # For training and its scores.
    *("MultiBoxLoss", "DetectionEvaluate", "MarginInnerProduct", "SegAccuracy"),
    *("SmoothL1Loss", "SmoothL1Loss of Fast R-CNN", "SmoothL1Loss of R-FCN", "L1Loss of FlowNet2"),
    *("BoxAnnotatorOHEM", "SoftmaxWithLossOHEM", "SmoothL1LossOHEM", "Normalize of happynear"),
}
"""Types that are called as in the net, or named: no line says what they compute."""


def has_lines(name: str) -> bool:
    """Whether a golden case is of phase TEST and each of its layers a line."""
    folder = case_folder(name)
    phases = json.loads((folder / "case.json").read_text())["phases"]
    types = {layer.type for layer in read_net(folder / "net.prototxt").layer}
    return "TEST" in phases and not types & NO_LINE and name not in ANEW


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


@pytest.mark.parametrize("name", list(filter(has_lines, CASES)))
def test_a_line_computes_what_caffe_computed(name: str) -> None:
    """The text alone, on Caffe's weights and inputs: every output that the golden file has."""
    case = GoldenCase(name)
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
    assert missing == NO_LINE


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


DETECTOR_PARTS = ("mbox_loc", "mbox_conf_flatten", "mbox_priorbox")


# Forms -------------------------------------------------------------------------------------------


QUICK = ("net_lenet", "net_ssd_0")
"""The nets that torch traces each time: a net of many layers takes it up to half a minute."""


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(
            name,
            form,
            marks=pytest.mark.long if form in (".pt2", ".onnx") and name not in QUICK else (),
        )
        for name in NETS
        for form in FORMS
    ],
)
def test_golden_nets_go_out_in_every_form(name: str, form: str, tmp_path: Path) -> None:
    net = GoldenCase(name).load("TEST")
    until = TRACED.get(name, ()) if form in (".pt2", ".onnx") else ()
    assert exported(net, tmp_path / f"net{form}", until=until) < 2e-6


def test_what_cannot_be_traced_is_named_with_what_comes_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = case_folder("net_ssd_0")
    arguments = [folder / "net.prototxt", "--weights", folder / "weights.caffemodel"]
    assert command(*arguments, tmp_path / "net.pt2") == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert 'layer "out" (DetectionOutput): torch.export does not take it' in error
    assert error.endswith("leave it out: --until loc --until conf/flat --until prior")
    assert not list(tmp_path.iterdir())


def thinned(net: pb.NetParameter, by: int) -> pb.NetParameter:
    """The net with fewer channels: shapes alike, weights few."""
    for layer in net.layer:
        if layer.type == "Convolution":
            layer.convolution_param.num_output //= by
        elif layer.type == "InnerProduct":
            layer.inner_product_param.num_output //= by
    return net


def of_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> CaffeNet:
    """GoogLeNet or ResNet with few channels, on small images, its weights from fillers."""
    torch.manual_seed(0)
    monkeypatch.setattr("bench.nets.resnet50.STAGES", ((64, 2), (128, 2)))
    made, size = (googlenet(), 96) if name == "googlenet" else (resnet50(), 64)
    message = deploy(thinned(made, 8), (2, 3, size, size))
    for layer in message.layer:
        if layer.type == "Pooling" and layer.pooling_param.kernel_size == 7:
            layer.pooling_param.kernel_size = 3
    net = build_net(NetChoice(f"{name}.prototxt", message))
    for blobs in net.params.values():
        if len(blobs) == 3:  # the statistics of a net that was trained for a while
            mean, variance, weight = blobs
            mean.normal_()
            variance.uniform_(1, 2)
            weight.fill_(2.5)
    return net


@pytest.mark.parametrize(
    ("name", "form", "until"),
    [
        ("googlenet", ".py", "prob"),
        pytest.param("googlenet", ".onnx", "inception_3b/output", marks=pytest.mark.long),
        ("resnet", ".py", "prob"),
        pytest.param("resnet", ".onnx", "prob", marks=pytest.mark.long),
    ],
)
def test_nets_of_known_shapes(
    name: str, form: str, until: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = of_shape(name, monkeypatch)
    assert exported(net, tmp_path / f"net{form}", until=(until,)) < 1e-5


def detector() -> CaffeNet:
    """A MobileNet-SSD with an eighth of the channels, on its own images."""
    torch.manual_seed(0)
    message = mobilenet_ssd()
    for layer in message.layer:
        if layer.type == "Convolution" and "mbox" not in layer.name:
            layer.convolution_param.num_output //= 8
            if layer.convolution_param.group > 1:
                layer.convolution_param.group //= 8
    return build_net(NetChoice("mobilenet_ssd.prototxt", message))


@pytest.mark.parametrize(
    ("form", "until"),
    [
        (".py", ()),
        pytest.param(".pt2", DETECTOR_PARTS, marks=pytest.mark.long),
        pytest.param(".onnx", DETECTOR_PARTS, marks=pytest.mark.long),
    ],
)
def test_a_detector_goes_out(form: str, until: tuple[str, ...], tmp_path: Path) -> None:
    assert exported(detector(), tmp_path / f"net{form}", until=until) < 1e-5


def test_a_module_needs_torch_and_the_standard_library_alone(tmp_path: Path) -> None:
    """Imported from its folder where nothing of ours, nor any other package, can be."""
    net = GoldenCase("net_grouped_bn").load("TEST")
    exported(net, tmp_path / "grouped.py")
    feed = GoldenCase("net_grouped_bn").inputs(0)
    np.savez(tmp_path / "in.npz", *(feed[name].detach().numpy() for name in net.inputs))
    program = """
import sys, torch
class Wall:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("converters", "gmnet_pt", "safetensors", "onnx", "google"):
            raise ImportError(name)
sys.meta_path.insert(0, Wall())
before = set(sys.modules)
import grouped
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert new <= {"grouped", "json", "pathlib", "torch", *sys.stdlib_module_names}, new
import numpy
arrays = numpy.load("in.npz")
net = grouped.load()
assert isinstance(net, torch.nn.Module) and not net.training
outputs = net(*(torch.from_numpy(arrays[name]) for name in arrays.files))
outputs = outputs if isinstance(outputs, tuple) else (outputs,)
numpy.savez("out.npz", *(output.detach().numpy() for output in outputs))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        wanted = net({name: x.detach() for name, x in feed.items()}, blobs=net.outputs)
    arrays = np.load(tmp_path / "out.npz")
    for file, name in zip(arrays.files, net.outputs, strict=True):
        np.testing.assert_allclose(arrays[file], wanted[name].numpy(), rtol=1e-5, atol=1e-6)


SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 2 dim: 6 dim: 6 } } }
layer { name: "conv/3x3.a" type: "Convolution" bottom: "data" top: "conv/3x3"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv/3x3" top: "conv/3x3" }
layer { name: "class" type: "ReLU" bottom: "conv/3x3" top: "conv/3x3" }
layer { name: "fc" type: "InnerProduct" bottom: "conv/3x3" top: "F"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "prob" type: "Softmax" bottom: "F" top: "prob" }
"""


@pytest.fixture
def small(tmp_path: Path) -> list[Path]:
    """The prototxt of SMALL, and weights for it."""
    net, weights = tmp_path / "small.prototxt", tmp_path / "small.caffemodel"
    net.write_text(SMALL)
    built = load_net(net)
    built.params["bn"][2].fill_(1)
    built.params["bn"][1].fill_(2)
    save_caffemodel(built, weights)
    return [net, weights]


def test_a_line_a_layer_with_its_name(small: list[Path]) -> None:
    net = load_net(small[0], weights=small[1])
    module = write_module(net, part_of(net.plan), "small.safetensors")
    body = [line.strip() for line in module.text.splitlines() if "  # " in line]
    assert body == [
        'conv_3x3 = F.conv2d(data, self["conv/3x3%2Ea.weight"], self["conv/3x3%2Ea.bias"])'
        "  # conv/3x3.a (Convolution)",
        'conv_3x3 = batch_norm(conv_3x3, self["bn.mean"], self["bn.variance"], '
        'self["bn.scale_factor"], 1e-05)  # bn (BatchNorm)',
        "conv_3x3 = F.relu(conv_3x3)  # class (ReLU)",
        'F_ = F.linear(conv_3x3.flatten(1), self["fc.weight"], self["fc.bias"])'
        "  # fc (InnerProduct)",
        "prob = F.softmax(F_, 1)  # prob (Softmax)",
    ]
    built = module.build()
    trained = {name for name, blob in built.named_parameters() if blob.requires_grad}
    statistics = {"bn.mean", "bn.variance", "bn.scale_factor"}
    assert set(dict(built.named_buffers())) == statistics
    keys = {key.removeprefix("layers.") for key in net.state_dict()}
    assert keys == trained | statistics == set(module.blobs)


def test_the_command_says_how_close_it_comes(
    small: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.py"
    assert command(small[0], "--weights", small[1], out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{out}: 5 layers, data (4, 2, 6, 6) → prob (4, 5)"
    assert lines[1].startswith("largest difference ")
    assert lines[1].endswith('(output "prob"; batches of 1 and 3; any size); the limit is 1e-04')
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["net.py", "net.safetensors", "small.caffemodel", "small.prototxt"]
    )


def test_onnx_takes_any_batch_and_names_what_caffe_names(small: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    tracer(".onnx")
    assert command(small[0], "--weights", small[1], out, "--until", "F") == 0
    import onnx
    import onnxruntime

    graph = onnx.load(out).graph
    (taken,), (given,) = graph.input, graph.output
    dims = [one.dim_param or one.dim_value for one in taken.type.tensor_type.shape.dim]
    assert (taken.name, dims, given.name) == ("data", ["batch", 2, 6, 6], "F")
    assert {node.name.partition("/")[0] for node in graph.node} >= {"class", "fc"}
    x = torch.randn(7, 2, 6, 6)
    (found,) = onnxruntime.InferenceSession(out).run(None, {"data": x.numpy()})
    wanted = load_net(small[0], weights=small[1])(x, blobs="F")["F"]
    torch.testing.assert_close(torch.from_numpy(found), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_a_traced_program_takes_any_batch(small: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    assert command(small[0], "--weights", small[1], out) == 0
    program = torch.export.load(out).module()
    x = torch.randn(7, 2, 6, 6)
    wanted = load_net(small[0], weights=small[1])(x)["prob"]
    torch.testing.assert_close(program(x), wanted)


# What goes wrong ---------------------------------------------------------------------------------


def test_of_what_differs_nothing_is_left(
    small: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line that is wrong by a factor of 1.001 is found, in every form that is made of lines."""
    monkeypatch.setitem(LINES._entries, "ReLU", lambda layer, call: f"F.relu({call.x}) * 1.001")
    before = sorted(tmp_path.iterdir())
    for form in (".py", ".pt2", tracer(".onnx")):
        out = tmp_path / f"net{form}"
        assert command(small[0], "--weights", small[1], out, "--until", "F") == 1
        error = capsys.readouterr().err
        assert f'{out}: output "F" differs by 1.0e-03 of its largest value; the limit' in error
        assert sorted(tmp_path.iterdir()) == before


def test_what_stood_there_stays_where_an_export_fails(small: list[Path], tmp_path: Path) -> None:
    for name in ("net.py", "net.safetensors"):
        (tmp_path / name).write_text("mine")
    assert command(small[0], "--weights", small[1], tmp_path / "net.py", "--until", "data") == 1
    assert all((tmp_path / name).read_text() == "mine" for name in ("net.py", "net.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.py", "--until", "pro"], "no blob \"pro\"; did you mean 'prob'?"),
        (["net.py", "--until", "data"], "nothing to export: blob data is an input"),
        (["net.h5"], "cannot be written as '.h5', only as .onnx, .pt2, .safetensors, .py"),
        (["json.py"], "a module of that name would hide Python's or torch's own"),
    ],
)
def test_errors_of_the_command(
    arguments: list[str],
    message: str,
    small: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, *rest = arguments
    assert command(small[0], "--weights", small[1], tmp_path / out, *rest) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


RANDOM = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "noise" type: "DummyData" top: "noise" dummy_data_param {
  shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } } }
layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "noise" top: "sum" }
layer { name: "last" type: "ReLU" bottom: "data" top: "last" }
"""


def test_what_has_no_line_is_named(tmp_path: Path) -> None:
    net = load_text(RANDOM)
    with pytest.raises(NetError, match=r'layer "noise" \(DummyData\): draws its values at random'):
        export(net, part_of(net.plan), tmp_path / "net.py", ".py")
    assert not list(tmp_path.iterdir())
    assert exported(net, tmp_path / "net.py", until=("last",)) == 0


@pytest.mark.parametrize("form", FORMS)
def test_dropout_of_a_fork_scales_in_test(form: str, tmp_path: Path) -> None:
    net = load_text(
        """layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "drop" type: "Dropout" bottom: "x" top: "y"
          dropout_param { dropout_ratio: 0.75 scale_train: false } }"""
    )
    assert exported(net, tmp_path / f"net{form}") == 0


def test_the_loss_at_each_label_has_no_line(tmp_path: Path) -> None:
    net = load_text(
        """layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 } } }
        layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "l" top: "p" top: "e"
          loss_weight: 1 loss_weight: 0 loss_weight: 0 }"""
    )
    with pytest.raises(NetError, match=r'layer "l" \(SoftmaxWithLoss\): .*third top'):
        export(net, part_of(net.plan), tmp_path / "net.py", ".py")


def test_a_batch_that_the_net_fixes_is_said(tmp_path: Path) -> None:
    net = load_text(
        """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 12 } } }
        layer { name: "fixed" type: "Reshape" bottom: "x" top: "y"
          reshape_param { shape { dim: 2 dim: 3 dim: 4 } } }
        """
    )
    for form in (".py", ".pt2"):
        report = export(net, part_of(net.plan), tmp_path / f"net{form}", form)
        assert not report.free.names and report.difference.largest == 0


def test_an_absent_extra_prints_the_line_that_installs_it(
    small: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert command(small[0], "--weights", small[1], tmp_path / "net.onnx") == 1
    assert "pip install 'gmnet-caffe[onnx]'" in capsys.readouterr().err


def test_weights_are_asked_for(small: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command(small[0], "net.py")
    assert raised.value.code == 2 and "--weights" in capsys.readouterr().err


def test_inputs_of_data_layers_and_several_outputs(tmp_path: Path) -> None:
    """Tops of a data layer are inputs, in the net's order; so are outputs."""
    text = """
    layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "absent" } }
    layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param {
      num_output: 4 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
    layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }
    """
    net = load_text(text, input_shapes={"data": (4, 3, 2, 2), "label": (4,)})
    part = part_of(net.plan)
    assert (part.inputs, part.outputs) == (("data", "label"), ("accuracy", "loss"))
    assert exported(net, tmp_path / "net.py") < 1e-6
    alone = part_of(net.plan, ["fc"])
    assert (alone.inputs, alone.outputs) == (("data",), ("fc",))


# The file of arrays ------------------------------------------------------------------------------


def test_safetensors_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    arrays = {
        "a/b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scalar": np.float32(2.5).reshape(()),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    write_safetensors(path, arrays, {"format": "pt"})
    found = read_safetensors(path)
    assert list(found.arrays) == list(arrays) and found.metadata == {"format": "pt"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    data = path.read_bytes()
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0


def test_safetensors_of_others_read_what_we_write(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="pip install safetensors")
    net = GoldenCase("net_lenet").load("TEST")
    exported(net, tmp_path / "net.safetensors")
    found = safetensors.load_file(tmp_path / "net.safetensors")
    ours = {key.removeprefix("layers."): blob for key, blob in net.state_dict().items()}
    assert set(found) == set(ours)
    assert all(torch.equal(found[key], ours[key]) for key in ours)


@pytest.mark.parametrize(
    "data", [b"", b"\x10\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 20]
)
def test_what_is_no_safetensors_is_an_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"x\.safetensors: is no \.safetensors file"):
        read_safetensors(tmp_path / "x.safetensors")
