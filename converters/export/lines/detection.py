"""Lines of SSD's layers: the priors are constants, the detections a function of their own."""

from __future__ import annotations

import torch

from converters.export.writing import Call, line, number, spread
from converters.layers.forks.detection_output import DetectionOutput
from converters.layers.forks.moving import Permute
from converters.layers.forks.normalizing import Normalize
from converters.layers.registry import Layer, LayerState
from converters.proto import caffe_pb2 as pb


class _Nothing:
    """The state of a layer that keeps none."""

    training = False
    blobs: list[torch.Tensor] = []
    state: dict[str, torch.Tensor] = {}


_NOTHING: LayerState = _Nothing()


@line("PriorBox")
def _prior_box(layer: Layer, call: Call) -> str:
    priors = layer.forward(_NOTHING, *(torch.zeros(shape) for shape in call.shapes))
    assert isinstance(priors, torch.Tensor)
    call.notes.append("has the priors of these heights and widths alone")
    return call.constant("priors", priors)


@line("Permute")
def _permute(layer: Permute, call: Call) -> str:
    return f"{call.x}.permute({', '.join(map(str, layer.order))})"


@line("Normalize")
def _normalize(layer: Normalize, call: Call) -> str:
    axes = tuple(range(1, len(call.shape))) if layer.across else 1
    length = f"({call.x}.square().sum({axes}, keepdim=True) + {number(layer.eps)}).sqrt()"
    return f"{call.x} / {length} * {spread(call.blobs[0], layer.scales, 1, len(call.shape))}"


@line("DetectionOutput")
def _detection_output(layer: DetectionOutput, call: Call) -> str:
    code = pb.PriorBoxParameter.CodeType.Name(layer.code)
    settings = (
        *(layer.classes, layer.background, f'"{code}"', not layer.with_variance),
        *(number(layer.least), number(layer.threshold), number(layer.eta)),
        *(layer.top_k, layer.keep),
    )
    return f"detection_output({', '.join(map(str, (*call.bottoms[:3], *settings)))})"
