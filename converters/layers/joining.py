"""Layers that join blobs, or part one: Eltwise, Concat, Slice, Split, Silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from converters.layers import gradients

register = Family("#dadaeb")


@register("Eltwise", "eltwise_param")
class Eltwise(Layer):
    """SUM (with coeff), PROD or MAX of equally shaped bottoms. Source: eltwise_layer.cpp."""

    differences = (
        "in place the true result is computed; Caffe overwrites bottom 0 before it is read"
    )
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
        self.require_one_shape(bottoms)
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
    in_place = False
    moves_values = True

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


@register("Slice", "slice_param")
class Slice(Layer):
    """The bottom cut along `axis` at slice_point, or into equal parts. Source: slice_layer.cpp."""

    tops = Count(1, None)
    in_place = False
    moves_values = True

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.slice_param
        if param.HasField("slice_dim") and param.HasField("axis"):
            raise self.error("give axis or slice_dim, not both")
        axis = param.slice_dim if param.HasField("slice_dim") else param.axis
        self.along = self.axis(axis, len(bottoms[0]))
        self.points = points = list(param.slice_point)
        self.parts = tops = len(self.param.top)
        if points and len(points) != tops - 1:
            raise self.error(
                f"has {len(points)} slice_point for {tops} tops; {tops - 1} are needed"
            )
        if any(right <= left for left, right in zip([0, *points], points)):
            raise self.error(f"slice_point {points} must rise from above 0")
        return ()

    def _sizes(self, total: int) -> list[int]:
        if self.points:
            return [b - a for a, b in zip([0, *self.points], [*self.points, total])]
        return [total // self.parts] * self.parts

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape, along = bottoms[0], self.along
        total, sizes = shape[along], self._sizes(shape[along])
        if self.points and (sizes[-1] < 1 or total < self.parts):
            raise self.shape_error(
                f"slice_point {self.points} does not cut axis {along} of {self.bottom_name(0)} "
                f"{shape} into {self.parts} parts"
            )
        if sum(sizes) != total:
            raise self.shape_error(
                f"axis {along} of {self.bottom_name(0)} {shape} is not divisible among "
                f"{self.parts} tops; give slice_point"
            )
        return [(*shape[:along], size, *shape[along + 1 :]) for size in sizes]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        if self.parts == 1:
            return x
        return torch.split(x, self._sizes(x.shape[self.along]), self.along)


@register("Split")
class Split(Layer):
    """The bottom, once for each top. Source: split_layer.cpp."""

    tops = Count(1, None)
    in_place = False
    moves_values = True

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.copies = len(self.param.top)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]] * self.copies

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return bottoms[0] if self.copies == 1 else (bottoms[0],) * self.copies


@register("Silence")
class Silence(Layer):
    """Uses its bottoms up, so that they are no outputs. Source: silence_layer.cpp."""

    bottoms = Count(1, None)
    tops = Count(0, 0)
    moves_values = True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []

    def forward(self, state: LayerState, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ()
