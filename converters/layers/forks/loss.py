"""Forks' losses: L1Loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    from torch import Tensor

register = Family("#fcbba1")


@register("L1Loss")
class L1Loss(Layer):
    """1/N · Σ |a - b|, with a gradient for both that is 0 where they are equal.

    Source: NVIDIA/caffe l1_loss_layer.cpp.
    """

    origin = "NVCaffe"
    bottoms = Count(2, 2)
    is_loss = True
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first, second = bottoms
        if not first or first[:1] != second[:1]:
            raise self.shape_error(
                f"{self.bottom_name(0)} {first} and {self.bottom_name(1)} {second} must have the "
                "same first dimension"
            )
        self.require_same_count(bottoms)
        return [()]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        first, second = bottoms
        return (first - second.reshape(first.shape)).abs().sum() / len(first)


@register.meaning("L1Loss", "l1_loss_param")
class MaskedL1Loss(Layer):
    """Σ |d| / N over the differences d of two bottoms, or one bottom's values; a NaN counts as 0.

    With `l2_per_location` it is the sum over all places of sqrt(Σ_c d² + epsilon), the sum over C
    channels divided by C with `l2_prescale_by_channels`. `plateau`: smaller |d|, or sums smaller
    than its square, count as 0 and have no gradient. `normalize_by_num_entries` divides by the
    number of values that are no NaN, over C, instead of by N. The gradient at d = 0 is that of -d.
    Source: lmb-freiburg/flownet2 l1loss_layer.cu.
    """

    origin = "FlowNet2"
    bottoms = Count(1, 2)
    is_loss = True
    in_place = False

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        if param.HasField("l1_loss_param"):
            return "l1_loss_param is set"
        return "it has one bottom" if len(param.bottom) == 1 else ""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 2 to 4 axes"
            )
        self.require_one_shape(bottoms)
        return [()]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param = self.param.l1_loss_param
        d = bottoms[0] - bottoms[1] if len(bottoms) == 2 else bottoms[0]
        known = ~d.detach().isnan()
        d = torch.where(known, d, 0)
        channels = d.shape[1]
        if param.l2_per_location:
            sums = d.square().sum(1)
            sums = sums / channels if param.l2_prescale_by_channels else sums
            if param.plateau > 0:
                sums = torch.where(sums < param.plateau**2, 0, sums)
            total = (sums + param.epsilon).sqrt().sum()
        else:
            if param.plateau > 0:
                d = torch.where(d.abs() < param.plateau, 0, d)
            total = torch.where(d > 0, d, -d).sum()
        return total / (known.sum() / channels if param.normalize_by_num_entries else len(d))
