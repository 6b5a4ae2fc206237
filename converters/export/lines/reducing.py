"""Lines of layers that sum up an axis, or choose from it."""

from __future__ import annotations

from converters.export.writing import Call, line, number
from converters.layers.reducing import ArgMax
from converters.layers.registry import Layer
from converters.proto import caffe_pb2 as pb

_REDUCE = {
    pb.ReductionParameter.SUM: "{x}.sum(-1)",
    pb.ReductionParameter.ASUM: "{x}.abs().sum(-1)",
    pb.ReductionParameter.SUMSQ: "{x}.square().sum(-1)",
    pb.ReductionParameter.MEAN: "{x}.mean(-1)",
}


@line("Softmax")
def _softmax(layer: Layer, call: Call) -> str:
    return f"F.softmax({call.x}, {layer.param.softmax_param.axis})"


@line("Reduction")
def _reduction(layer: Layer, call: Call) -> str:
    param = layer.param.reduction_param
    y = _REDUCE[param.operation].format(x=f"{call.x}.flatten({param.axis})")
    return y if param.coeff == 1 else f"{number(param.coeff)} * {y}"


@line("ArgMax")
def _arg_max(layer: ArgMax, call: Call) -> str:
    param = layer.param.argmax_param
    if not layer.has_axis:
        return f"arg_max_of_items({call.x}, {param.top_k}, {param.out_max_val})"
    axis = param.axis % len(call.shape)
    return f"arg_max({call.x}, {axis}, {param.top_k})[{0 if param.out_max_val else 1}]"
