"""Lines of layers that normalize, scale or shift."""

from __future__ import annotations

from converters.export.writing import Call, line, number, spread
from converters.layers.normalization import LRN, BatchNorm, Bias, Scale
from converters.layers.registry import Layer


@line("BatchNorm")
def _batch_norm(layer: BatchNorm, call: Call) -> str:
    by_phase = layer.phase == "TEST"
    if by_phase if layer.use_global_stats is None else layer.use_global_stats:
        return f"batch_norm({', '.join((call.x, *call.blobs))}, {number(layer.eps)})"
    call.notes.append("normalizes by its batch; the statistics that Caffe gathers stay as they are")
    return f"batch_norm_by_batch({call.x}, {number(layer.eps)})"


@line("Scale")
def _scale(layer: Scale, call: Call) -> str:
    axes = len(call.shape)
    factor, shape = (*call.bottoms, call.blobs[0] if call.blobs else "")[1], layer.blob_shape
    y = f"{call.x} * {spread(factor, shape, layer.start, axes)}"
    if not layer.param.scale_param.bias_term:
        return y
    return f"{y} + {spread(call.blobs[-1], shape, layer.start, axes)}"


@line("Bias")
def _bias(layer: Bias, call: Call) -> str:
    bias = (*call.bottoms, *call.blobs)[1]
    return f"{call.x} + {spread(bias, layer.blob_shape, layer.start, len(call.shape))}"


@line("LRN")
def _lrn(layer: LRN, call: Call) -> str:
    size, across, k, alpha, beta = layer.settings
    a, b = number(alpha), number(beta)
    if across:
        return f"F.local_response_norm({call.x}, {size}, {a}, {b}, {number(k)})"
    mean = f"F.avg_pool2d({call.x} * {call.x}, {size}, 1, {size // 2})"
    return f"{call.x} * (1 + {a} * {mean}) ** -{b}"


@line("MVN")
def _mvn(layer: Layer, call: Call) -> str:
    param, missing = layer.param.mvn_param, 4 - len(call.shape)
    x = f"{call.x}.reshape(*{call.x}.shape{', 1' * missing})" if missing else call.x
    axes = (1, 2, 3) if param.across_channels else (2, 3)
    if param.normalize_variance:
        return f"mvn({x}, {axes}, {number(param.eps)})"
    return f"{x} - {x}.mean({axes}, keepdim=True)"
