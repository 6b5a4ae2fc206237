"""Lines of layers that join blobs, part one, or choose from them."""

from __future__ import annotations

from functools import reduce

from converters.export.writing import Call, line, number
from converters.layers.joining import Concat, Eltwise, Slice
from converters.layers.registry import Layer
from converters.proto import caffe_pb2 as pb


@line("Eltwise")
def _eltwise(layer: Eltwise, call: Call) -> str:
    operation = layer.param.eltwise_param.operation
    if operation == pb.EltwiseParameter.PROD:
        return " * ".join(call.bottoms)
    if operation == pb.EltwiseParameter.MAX:
        return reduce(lambda y, x: f"torch.maximum({y}, {x})", call.bottoms)
    terms = (
        x if factor == 1 else f"{number(factor)} * {x}"
        for x, factor in zip(call.bottoms, layer.coefficients, strict=True)
    )
    return " + ".join(terms)


@line("Concat")
def _concat(layer: Concat, call: Call) -> str:
    if len(call.bottoms) == 1:
        return call.x
    return f"torch.cat(({', '.join(call.bottoms)}), {layer.along})"


@line("Slice")
def _slice(layer: Slice, call: Call) -> str:
    if layer.parts == 1:
        return call.x
    if layer.points:
        return f"torch.tensor_split({call.x}, {tuple(layer.points)}, {layer.along})"
    return f"torch.tensor_split({call.x}, {layer.parts}, {layer.along})"


@line("Split")
def _split(layer: Layer, call: Call) -> str:
    return ", ".join([call.x] * len(layer.param.top))


@line("BatchReindex")
def _batch_reindex(layer: Layer, call: Call) -> str:
    return f"{call.x}[{call.bottoms[1]}.long()]"


@line("Filter")
def _filter(layer: Layer, call: Call) -> str:
    chosen = f"{call.bottoms[-1]}.flatten() != 0"
    return ", ".join(f"{x}[{chosen}]" for x in call.bottoms[:-1])


@line("Axpy")
def _axpy(layer: Layer, call: Call) -> str:
    a, x, y = call.bottoms
    behind = len(call.shapes[1]) - 2
    scale = a if len(call.shapes[0]) == 2 + behind else f"{a}[{', '.join(':' * 2 + 'N' * behind)}]"
    return f"{scale.replace('N', 'None')} * {x} + {y}"
