"""Every layer against real Caffe: forward in both phases, gradients, BatchNorm's blobs.

The cases bring weights; what layers start from without them is compared with Caffe's formulas.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from golden_case import GOLDEN, GoldenCase

from converters import load_net
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import read_net

CASES = sorted(path.name for path in (GOLDEN / "layers").iterdir())
PHASES = [
    (name, phase)
    for name in CASES
    for phase in json.loads((GOLDEN / "layers" / name / "case.json").read_text())["phases"]
]


def test_all_cases_are_here() -> None:
    assert len(CASES) == 160
    assert sum(name.startswith("net_") for name in CASES) == 7


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_golden(name: str, phase: str) -> None:
    assert GoldenCase(name).check(phase) > 0


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_golden_with_the_channels_last(name: str, phase: str) -> None:
    assert GoldenCase(name, layout=torch.channels_last).check(phase) > 0


def filler_of(layer: pb.LayerParameter, blob: torch.Tensor, place: int) -> pb.FillerParameter:
    """What the prototxt says of a blob, or Caffe's default: 0, for slopes 1/4, for scales 1."""
    if layer.type in ("BatchNorm", "Parameter"):
        return pb.FillerParameter()
    if layer.type in ("Scale", "PReLU", "Bias"):
        param = getattr(layer, f"{layer.type.lower()}_param")
        if place == 1:
            return param.bias_filler
        value = {"Scale": 1, "PReLU": 0.25, "Bias": 0}[layer.type]
        return param.filler if param.HasField("filler") else pb.FillerParameter(value=value)
    messages = {
        **dict.fromkeys(("Convolution", "Deconvolution"), "convolution_param"),
        **dict.fromkeys(("LSTM", "RNN"), "recurrent_param"),
        "InnerProduct": "inner_product_param",
        "Embed": "embed_param",
    }
    param = getattr(layer, messages[layer.type])
    return param.bias_filler if blob.dim() == 1 else param.weight_filler


def mean_and_deviation(filler: pb.FillerParameter, fan_in: float) -> tuple[float, float]:
    if filler.type == "uniform":
        return (filler.min + filler.max) / 2, (filler.max - filler.min) / math.sqrt(12)
    deviations = {"constant": 0.0, "xavier": math.sqrt(1 / fan_in), "msra": math.sqrt(2 / fan_in)}
    return (filler.value if filler.type == "constant" else 0.0), deviations[filler.type]


@pytest.mark.parametrize(
    "name", [name for name in CASES if (GOLDEN / "layers" / name / "weights.caffemodel").exists()]
)
def test_without_weights_every_blob_is_as_its_filler_says(name: str) -> None:
    torch.manual_seed(1)
    path = GOLDEN / "layers" / name / "net.prototxt"
    net = load_net(path)
    layers = {layer.name: layer for layer in read_net(path).layer}
    assert net.params
    for owner, blobs in net.params.items():
        for place, blob in enumerate(blobs):
            filler = filler_of(layers[owner], blob, place)
            fan_in = blob.numel() / blob.shape[0] if blob.dim() else 1.0
            mean, deviation = mean_and_deviation(filler, fan_in)
            found = blob.detach().double() - mean
            # Five standard errors, of the mean and (at most, for a gaussian) of the variance.
            assert abs(found.mean()) <= 5 * deviation / math.sqrt(blob.numel()) + 1e-7
            variance = float(found.square().mean())
            error = 5 * math.sqrt(2 / blob.numel())
            assert abs(variance - deviation**2) <= error * deviation**2 + 1e-12
