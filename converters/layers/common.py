"""Layers that multiply, join, cut and reshape: InnerProduct, Eltwise, Concat, Softmax, others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import ENGINE, BlobSpec, Count, Layer, LayerState, Shape, register
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
        return F.linear(x.flatten(self.start), weight, blobs[1] if len(blobs) > 1 else None)

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * self.inputs


@register("Embed", "embed_param")
class Embed(Layer):
    """Row number x of a (input_dim, num_output) table, plus a bias. Source: embed_layer.cpp."""

    differences = "an index outside the table is an error; Caffe reads beyond the table"
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
        try:
            y = F.embedding(bottoms[0].long(), blobs[0])
        except IndexError as error:
            raise self.shape_error(
                f"{self.bottom_name(0)} has an index outside the table "
                f"(accepted: 0 to {self.param.embed_param.input_dim - 1})"
            ) from error
        return y + blobs[1] if len(blobs) > 1 else y


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
        if end < start - 1:
            raise self.shape_error(f"end_axis {end} comes before axis {start}")
        return start, end

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        start, end = self._axes(x.dim())
        # No axes at all (end_axis just before axis) become a new axis of 1, as in Caffe.
        return x.unsqueeze(start) if end < start else x.flatten(start, end)


@register("Softmax", "softmax_param")
class Softmax(Layer):
    """exp(x) / Σ exp(x) along `axis` (1 by default). Source: softmax_layer.cpp."""

    ignored = {"softmax_param.engine": ENGINE}

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.axis(self.param.softmax_param.axis, len(bottoms[0]))
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return F.softmax(bottoms[0], self.param.softmax_param.axis)


@register("Slice", "slice_param")
class Slice(Layer):
    """The bottom cut along `axis` at slice_point, or into equal parts. Source: slice_layer.cpp."""

    tops = Count(1, None)
    in_place = False

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


@register("Reshape", "reshape_param")
class Reshape(Layer):
    """Axes from `axis` on, `num_axes` of them, in a new shape: 0 copies, one -1 is inferred.

    Source: Caffe layers/reshape_layer.cpp.
    """

    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.dims = list(self.param.reshape_param.shape.dim)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, shape, dims = self.param.reshape_param, bottoms[0], self.dims
        number = len(shape)
        start = param.axis if param.axis >= 0 else number + param.axis + 1
        if not 0 <= start <= number:
            raise self.shape_error(f"axis {param.axis} is out of range for {shape}")
        if param.num_axes < -1:
            raise self.error(f"num_axes {param.num_axes} must be -1 (all) or more")
        end = number if param.num_axes == -1 else start + param.num_axes
        if end > number:
            raise self.shape_error(f"axis {start} and num_axes {param.num_axes} exceed {shape}")
        if any(dim < -1 for dim in dims) or dims.count(-1) > 1:
            raise self.error(f"shape {dims} may hold sizes, 0 (copy) and one -1 (infer)")
        copied = [self._copied(dim, start + i, shape) for i, dim in enumerate(dims)]
        total = math.prod(shape)
        if -1 in copied:
            known = math.prod(shape[:start]) * math.prod([d for d in copied if d != -1])
            known *= math.prod(shape[end:])
            if not known or total % known:
                raise self.shape_error(f"{shape} cannot be arranged as {dims} from axis {start} on")
            copied[copied.index(-1)] = total // known
        top = (*shape[:start], *copied, *shape[end:])
        if math.prod(top) != total:
            raise self.shape_error(f"{shape} has {total} values, {top} {math.prod(top)}")
        return [top]

    def _copied(self, dim: int, axis: int, shape: Shape) -> int:
        if dim:
            return dim
        if axis >= len(shape):
            raise self.shape_error(f"dim 0 copies axis {axis}, which {shape} does not have")
        return shape[axis]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return bottoms[0].reshape(self.reshape([tuple(bottoms[0].shape)])[0])


@register("Reduction", "reduction_param")
class Reduction(Layer):
    """coeff · SUM, ASUM (absolute), SUMSQ or MEAN over all axes from `axis` on.

    Source: Caffe layers/reduction_layer.cpp.
    """

    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0][: self.axis(self.param.reduction_param.axis, len(bottoms[0]))]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param, x = self.param.reduction_param, bottoms[0]
        flat = x.flatten(param.axis)
        reduce: dict[int, Callable[[Tensor], Tensor]] = {
            pb.ReductionParameter.SUM: lambda v: v.sum(-1),
            pb.ReductionParameter.ASUM: lambda v: v.abs().sum(-1),
            pb.ReductionParameter.SUMSQ: lambda v: v.square().sum(-1),
            pb.ReductionParameter.MEAN: lambda v: v.mean(-1),
        }
        y = reduce[param.operation](flat)
        return y if param.coeff == 1 else y * param.coeff


@register("Tile", "tile_param")
class Tile(Layer):
    """The bottom `tiles` times along `axis`. Source: tile_layer.cpp."""

    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.tile_param
        if not param.HasField("tiles") or param.tiles < 1:
            raise self.error(f"tiles {param.tiles} must be given and positive")
        along = self.axis(param.axis, len(bottoms[0]))
        shape = bottoms[0]
        return [(*shape[:along], shape[along] * param.tiles, *shape[along + 1 :])]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param, x = self.param.tile_param, bottoms[0]
        repeats = [1] * x.dim()
        repeats[param.axis % x.dim()] = param.tiles
        return x.repeat(repeats)


@register("ArgMax", "argmax_param")
class ArgMax(Layer):
    """The top_k largest values' indices, or values: along `axis`, or over all but the first.

    Ties go to the larger index. Without an axis the top is (N, 1, k) or, with out_max_val,
    (N, 2, k), as many axes as the bottom but at least 3. Source: layers/argmax_layer.cpp.
    """

    no_gradient = (0,)
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.has_axis = self.param.argmax_param.HasField("axis")
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, shape = self.param.argmax_param, bottoms[0]
        if self.has_axis:
            along = self.axis(param.axis, len(shape))
            self._check_top_k(shape[along])
            return [(*shape[:along], param.top_k, *shape[along + 1 :])]
        if not shape:
            raise self.shape_error(f"{self.bottom_name(0)} is a scalar; it needs an axis")
        self._check_top_k(math.prod(shape[1:]))
        tail = (1,) * (max(3, len(shape)) - 3)
        return [(shape[0], 2 if param.out_max_val else 1, param.top_k, *tail)]

    def _check_top_k(self, values: int) -> None:
        top_k = self.param.argmax_param.top_k
        if not 1 <= top_k <= values:
            raise self.error(f"top_k {top_k} must be from 1 to the {values} values")

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param, x = self.param.argmax_param, bottoms[0].detach()
        along = param.axis % x.dim() if self.has_axis else 1
        values = x if self.has_axis else x.reshape(x.shape[0], math.prod(x.shape[1:]))
        # A stable ascending sort puts the larger index of equals last: read it backwards.
        ordered, index = torch.sort(values, dim=along, stable=True)
        size = values.shape[along]
        last = torch.arange(size - 1, size - 1 - param.top_k, -1, device=x.device)
        best, where = ordered.index_select(along, last), index.index_select(along, last).to(x.dtype)
        if self.has_axis:
            return best if param.out_max_val else where
        y = torch.stack([where, best], 1) if param.out_max_val else where.unsqueeze(1)
        return y.reshape(*y.shape, *(1,) * (max(3, x.dim()) - 3))


@register("BatchReindex")
class BatchReindex(Layer):
    """The items of bottom 0 that bottom 1 numbers. Source: batch_reindex_layer.cpp."""

    bottoms = Count(2, 2)
    no_gradient = (1,)
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[1]) != 1 or not bottoms[0]:
            raise self.shape_error(
                f"{self.bottom_name(1)} {bottoms[1]} must have one axis, and "
                f"{self.bottom_name(0)} {bottoms[0]} at least one"
            )
        return [(*bottoms[1], *bottoms[0][1:])]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        rows, indices = bottoms
        try:
            return rows.index_select(0, indices.long())
        except IndexError as error:
            raise self.shape_error(
                f"{self.bottom_name(1)} has an index outside the rows of {self.bottom_name(0)} "
                f"(accepted: 0 to {rows.shape[0] - 1})"
            ) from error


@register("Filter")
class Filter(Layer):
    """The items of each bottom but the last whose selector, the last bottom, is not 0.

    The number of items depends on the data; shapes are inferred for all of them.
    Source: Caffe layers/filter_layer.cpp.
    """

    differences = "where no item is chosen the gradient is 0; Caffe's backward pass crashes"
    bottoms = Count(2, None)
    tops = Count(1, None)
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        if len(self.param.top) != len(bottoms) - 1:
            raise self.error(
                f"needs a top for each bottom but the selector: {len(bottoms) - 1}, "
                f"got {len(self.param.top)}"
            )
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        selector = bottoms[-1]
        if not selector or math.prod(selector[1:]) != 1:
            raise self.shape_error(
                f"selector {self.bottom_name(len(bottoms) - 1)} {selector} must have one value "
                "an item"
            )
        for index, shape in enumerate(bottoms[:-1]):
            if shape[:1] != selector[:1]:
                raise self.shape_error(
                    f"{self.bottom_name(index)} {shape} must have as many items as the selector "
                    f"{selector}"
                )
        return list(bottoms[:-1])

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        chosen = bottoms[-1].detach().reshape(-1) != 0
        tops = tuple(x[chosen] for x in bottoms[:-1])
        return tops[0] if len(tops) == 1 else tops


@register("Parameter", "parameter_param")
class Parameter(Layer):
    """A blob that is learned, as a top; it starts at 0. Source: parameter_layer.hpp."""

    bottoms = Count(0, 0)

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        return [BlobSpec(tuple(self.param.parameter_param.shape.dim))]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [tuple(self.param.parameter_param.shape.dim)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return state.blobs[0]
