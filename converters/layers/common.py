"""Layers that multiply, join, cut and reshape: InnerProduct, Eltwise, Concat, Softmax, others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Count, Layer, LayerState, Shape, register
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients


@register("InnerProduct", "inner_product_param")
class InnerProduct(Layer):
    """y = W·x + b over all values from `axis` on; W is (N, K), or (K, N) with transpose.

    Source: Caffe layers/inner_product_layer.cpp.
    """

    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.inner_product_param
        if param.num_output <= 0:
            raise self.error(f"num_output {param.num_output} must be positive")
        self.start = self.axis(param.axis, len(bottoms[0]))
        self.inputs = math.prod(bottoms[0][self.start :])
        shape = (param.num_output, self.inputs)
        specs = [BlobSpec(shape[::-1] if param.transpose else shape, param.weight_filler)]
        if param.bias_term:
            specs.append(BlobSpec((param.num_output,), param.bias_filler))
        return specs

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
        flat = x.reshape(*x.shape[: self.start], self.inputs)
        return F.linear(flat, weight, blobs[1] if len(blobs) > 1 else None)

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * self.inputs


@register("Embed", "embed_param")
class Embed(Layer):
    """Row number x of a (input_dim, num_output) table, plus a bias. Source: embed_layer.cpp."""

    no_gradient = (0,)
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.embed_param
        if param.num_output <= 0 or param.input_dim <= 0:
            raise self.error(
                f"num_output {param.num_output} and input_dim {param.input_dim} must be positive"
            )
        specs = [BlobSpec((param.input_dim, param.num_output), param.weight_filler)]
        if param.bias_term:
            specs.append(BlobSpec((param.num_output,), param.bias_filler))
        return specs

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(*bottoms[0], self.param.embed_param.num_output)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        blobs = state.blobs
        y = F.embedding(bottoms[0].long(), blobs[0])
        return y + blobs[1] if len(blobs) > 1 else y


@register("Eltwise", "eltwise_param")
class Eltwise(Layer):
    """SUM (with coeff), PROD or MAX of equally shaped bottoms. Source: eltwise_layer.cpp."""

    bottoms = Count(2, None)

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.eltwise_param
        coefficients = list(param.coeff)
        if coefficients and len(coefficients) != len(bottoms):
            raise self.error(
                f"has {len(coefficients)} coeff for {len(bottoms)} bottoms; give none, or one each"
            )
        if coefficients and param.operation == pb.EltwiseParameter.PROD:
            raise self.error("coeff goes with SUM, not with PROD")
        self.coefficients = coefficients or [1.0] * len(bottoms)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for index, shape in enumerate(bottoms):
            if shape != bottoms[0]:
                raise self.shape_error(
                    f"bottoms must have one shape: {self.bottom_name(0)} is {bottoms[0]}, "
                    f"{self.bottom_name(index)} is {shape}"
                )
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        operation = self.param.eltwise_param.operation
        if operation == pb.EltwiseParameter.SUM:
            return self._sum(bottoms)
        if operation == pb.EltwiseParameter.PROD:
            return self._product(bottoms)
        # Ties go to the later of the first two; a third must be strictly greater.
        y = torch.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
        for x in bottoms[2:]:
            y = torch.where(x > y, x, y)
        return y

    def _sum(self, bottoms: Sequence[Tensor]) -> Tensor:
        terms = [x if c == 1 else x * c for x, c in zip(bottoms, self.coefficients)]
        y = terms[0] + terms[1]
        for term in terms[2:]:
            y = y + term
        return y

    def _product(self, bottoms: Sequence[Tensor]) -> Tensor:
        if not self.param.eltwise_param.stable_prod_grad:
            y: Tensor = gradients.UnstableProduct.apply(*bottoms)  # type: ignore[no-untyped-call]
            return y
        y = bottoms[0] * bottoms[1]
        for x in bottoms[2:]:
            y = y * x
        return y


@register("Concat", "concat_param")
class Concat(Layer):
    """Bottoms joined along `axis`. Source: concat_layer.cpp."""

    bottoms = Count(1, None)

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.concat_param
        if param.HasField("concat_dim") and param.HasField("axis"):
            raise self.error("give axis or concat_dim, not both")
        axis = param.concat_dim if param.HasField("concat_dim") else param.axis
        self.along = self.axis(axis, len(bottoms[0]))
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first, along = bottoms[0], self.along
        for index, shape in enumerate(bottoms):
            same = shape[:along] == first[:along] and shape[along + 1 :] == first[along + 1 :]
            if len(shape) != len(first) or not same:
                raise self.shape_error(
                    f"bottoms must agree on every axis but {along}: {self.bottom_name(0)} is "
                    f"{first}, {self.bottom_name(index)} is {shape}"
                )
        return [(*first[:along], sum(s[along] for s in bottoms), *first[along + 1 :])]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.along) if len(bottoms) > 1 else bottoms[0]


@register("Split")
class Split(Layer):
    """The bottom, once for each top. Source: split_layer.cpp."""

    tops = Count(1, None)
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]] * len(self.param.top)

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = len(self.param.top)
        return bottoms[0] if tops == 1 else (bottoms[0],) * tops


@register("Silence")
class Silence(Layer):
    """Uses its bottoms up, so that they are no outputs. Source: silence_layer.cpp."""

    bottoms = Count(1, None)
    tops = Count(0, 0)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []

    def forward(self, state: LayerState, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ()


@register("Flatten", "flatten_param")
class Flatten(Layer):
    """Axes `axis` to `end_axis` as one. Source: flatten_layer.cpp."""

    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        start, end = self._axes(len(bottoms[0]))
        shape = bottoms[0]
        return [(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])]

    def _axes(self, number: int) -> tuple[int, int]:
        param = self.param.flatten_param
        start = self.axis(param.axis, number)
        end = self.axis(param.end_axis, number, "end_axis")
        if end < start:
            raise self.shape_error(f"end_axis {end} comes before axis {start}")
        return start, end

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        start, end = self._axes(bottoms[0].dim())
        return bottoms[0].flatten(start, end)


@register("Softmax", "softmax_param")
class Softmax(Layer):
    """exp(x) / Σ exp(x) along `axis` (1 by default). Source: softmax_layer.cpp."""

    ignored = {"softmax_param.engine": "torch chooses its own kernels for the same result"}

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.axis(self.param.softmax_param.axis, len(bottoms[0]))
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return F.softmax(bottoms[0], self.param.softmax_param.axis)
