"""Lines of layers that multiply by a learned matrix, or are one, or a constant."""

from __future__ import annotations

import torch

from converters.export.writing import Call, NoLineError, line
from converters.layers.data import DummyData
from converters.layers.linear import InnerProduct
from converters.layers.registry import Layer


@line("InnerProduct")
def _inner_product(layer: InnerProduct, call: Call) -> str:
    weight, *bias = call.blobs
    x = f"{call.x}.flatten({layer.start})" if len(call.shape) != layer.start + 1 else call.x
    weight = f"{weight}.t()" if layer.param.inner_product_param.transpose else weight
    return f"F.linear({', '.join((x, weight, *bias))})"


@line("Embed")
def _embed(layer: Layer, call: Call) -> str:
    return " + ".join([f"F.embedding({call.x}.long(), {call.blobs[0]})", *call.blobs[1:]])


@line("Parameter")
def _parameter(layer: Layer, call: Call) -> str:
    return call.blobs[0]


@line("DummyData")
def _dummy_data(layer: DummyData, call: Call) -> str:
    for filler in layer.fillers:
        if filler.type != "constant":
            raise NoLineError(f"draws its values at random (filler {filler.type})")
    return ", ".join(
        call.constant(f"top{index}", torch.full(shape, filler.value))
        for index, (shape, filler) in enumerate(zip(layer.shapes, layer.fillers, strict=True))
    )
