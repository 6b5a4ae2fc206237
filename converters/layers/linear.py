"""Layers that multiply by a learned matrix, or are one: InnerProduct, Embed, Parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients, onednn

register = Family("#dadaeb")


@register("InnerProduct", "inner_product_param")
class InnerProduct(Layer):
    """y = W·x + b over all values from `axis` on; W is (N, K), or (K, N) with transpose.

    Source: Caffe layers/inner_product_layer.cpp.
    """

    in_place = False
    counts_as_depth = True

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.inner_product_param
        if param.num_output <= 0:
            raise self.error(f"num_output {param.num_output} must be positive")
        self.start = self.axis(param.axis, len(bottoms[0]))
        self.inputs = math.prod(bottoms[0][self.start :])
        shape = (param.num_output, self.inputs)
        specs = [BlobSpec("weight", shape[::-1] if param.transpose else shape, param.weight_filler)]
        if param.bias_term:
            specs.append(BlobSpec("bias", (param.num_output,), param.bias_filler))
        return specs

    def detail(self) -> str:
        return str(self.param.inner_product_param.num_output)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        inputs = math.prod(bottoms[0][self.start :])
        if inputs != self.inputs:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} has {inputs} values from axis "
                f"{self.start} on, the weights take {self.inputs}"
            )
        return [(*bottoms[0][: self.start], self.param.inner_product_param.num_output)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        blobs, x = state.blobs, bottoms[0]
        weight = blobs[0].t() if self.param.inner_product_param.transpose else blobs[0]
        rows = gradients.plain(x).flatten(self.start)
        return onednn.linear(rows, weight, blobs[1] if len(blobs) > 1 else None)

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * self.inputs


@register("Embed", "embed_param")
class Embed(Layer):
    """Row number x of a (input_dim, num_output) table, plus a bias. Source: embed_layer.cpp."""

    differences = "an index outside the table is an error; Caffe reads beyond the table"
    no_gradient = (0,)
    whole_numbers = (0,)
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.embed_param
        if param.num_output <= 0 or param.input_dim <= 0:
            raise self.error(
                f"num_output {param.num_output} and input_dim {param.input_dim} must be positive"
            )
        specs = [BlobSpec("weight", (param.input_dim, param.num_output), param.weight_filler)]
        if param.bias_term:
            specs.append(BlobSpec("bias", (param.num_output,), param.bias_filler))
        return specs

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(*bottoms[0], self.param.embed_param.num_output)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        blobs = state.blobs
        try:
            y = F.embedding(bottoms[0].long(), blobs[0])
        except IndexError as error:
            raise self.shape_error(
                f"{self.bottom_name(0)} has an index outside the table "
                f"(accepted: 0 to {self.param.embed_param.input_dim - 1})"
            ) from error
        return y + blobs[1] if len(blobs) > 1 else y


@register("Parameter", "parameter_param")
class Parameter(Layer):
    """A blob that is learned, as a top; it starts at 0. Source: parameter_layer.hpp."""

    bottoms = Count(0, 0)

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        return [BlobSpec("value", tuple(self.param.parameter_param.shape.dim))]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [tuple(self.param.parameter_param.shape.dim)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return state.blobs[0]
