"""Layers that sum up an axis, or choose from it: Softmax, Reduction, ArgMax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import ENGINE, BlobSpec, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

register = Family("#dadaeb")


@register("Softmax", "softmax_param")
class Softmax(Layer):
    """exp(x) / Σ exp(x) along `axis` (1 by default). Source: softmax_layer.cpp."""

    ignored = {"softmax_param.engine": ENGINE}

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.axis(self.param.softmax_param.axis, len(bottoms[0]))
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return F.softmax(bottoms[0], self.param.softmax_param.axis)


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
        # Half precision does not hold every index.
        exact = torch.promote_types(x.dtype, torch.float32)
        best, where = ordered.index_select(along, last), index.index_select(along, last).to(exact)
        if self.has_axis:
            return best if param.out_max_val else where
        y = torch.stack([where, best], 1) if param.out_max_val else where.unsqueeze(1)
        return y.reshape(*y.shape, *(1,) * (max(3, x.dim()) - 3))
