"""Forks' losses: L1Loss, SmoothL1Loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.loss import Loss
from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
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


class _SmoothL1(Loss):
    """Σ f(d) of the differences of two bottoms, each times a weight where there are weights."""

    no_gradient = (2, 3)
    whole_numbers = ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        shapes = [self.four_axes(bottoms, index) for index in range(len(bottoms))]
        for index, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise self.shape_error(
                    f"{self.bottom_name(0)} {bottoms[0]} and {self.bottom_name(index)} "
                    f"{bottoms[index]} must have the same shape"
                )
        return tops


def _smooth(d: Tensor, bound: float = 1.0) -> Tensor:
    """d² / (2·bound) where |d| < bound, else |d| - bound / 2."""
    return F.smooth_l1_loss(d, torch.zeros_like(d), reduction="none", beta=bound)


def _weighted(bottoms: Sequence[Tensor]) -> Tensor:
    """w · (a - b) for bottoms a, b, w, whose gradient is that of a - b: without w, as in forks."""
    d = bottoms[0] - bottoms[1].reshape(bottoms[0].shape)
    if len(bottoms) == 2:
        return d
    return d + (bottoms[2].reshape(d.shape) * d - d).detach()


@register("SmoothL1Loss")
class SmoothL1Loss(_SmoothL1):
    """1/N · Σ f(w · (a - b)), with f(d) = d²/2 where |d| < 1, else |d| - 1/2; w is optional.

    The gradient is f'(w · (a - b)) / N: the weights are not in it twice.
    Source: weiliu89/caffe smooth_L1_loss_layer.cpp.
    """

    origin = "SSD"
    bottoms = Count(2, 3)

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return _smooth(_weighted(bottoms)).sum() / len(bottoms[0])


@register.meaning("SmoothL1Loss", "smooth_l1_loss_param")
class SigmaSmoothL1Loss(_SmoothL1):
    """1/N · Σ v · f(w · (a - b)), with f(d) = (σd)²/2 where |d| < 1/σ², else |d| - 1/(2σ²).

    The inside weights w and the outside weights v are both there or neither. Without a loss_weight
    it counts 0. Source: rbgirshick/caffe-fast-rcnn smooth_L1_loss_layer.cu.
    """

    origin = "Fast R-CNN"
    bottoms = Count(2, 4)
    is_loss = False

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        if param.smooth_l1_loss_param.HasField("sigma"):
            return "sigma is set"
        return "it has 4 bottoms" if len(param.bottom) == 4 else ""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        sigma = self.param.smooth_l1_loss_param.sigma
        if not sigma > 0:
            raise self.error(f"sigma {sigma} must be positive")
        if len(bottoms) == 3:
            raise self.error("it has 3 bottoms; with inside weights outside weights must follow")
        self.bound = 1 / (sigma * sigma)
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        first, second, *weights = bottoms
        d = first - second.reshape(first.shape)
        if not weights:
            return _smooth(d, self.bound).sum() / len(first)
        inside, outside = (weight.detach().reshape(first.shape) for weight in weights)
        return (outside * _smooth(inside * d, self.bound)).sum() / len(first)


@register.meaning("SmoothL1Loss", "loss_param")
class NormalizedSmoothL1Loss(_SmoothL1):
    """SSD's loss divided by loss_param's normalizer; a second top has each position's own loss.

    The normalizer is N·H·W for (N, C, H, W) with VALID, the default, and FULL; N with BATCH_SIZE;
    1 with NONE; `pre_fixed_normalizer` with PRE_FIXED. Without a loss_weight it counts 0.
    Source: daijifeng001/caffe-rfcn smooth_L1_loss_layer.cu.
    """

    origin = "R-FCN"
    bottoms = Count(2, 3)
    tops = Count(1, 2)
    is_loss = False
    of_forks = ("loss_param.pre_fixed_normalizer", "loss_param.normalization.PRE_FIXED")
    ignored = {"loss_param.ignore_label": "the layer has no labels"}

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        if param.HasField("loss_param"):
            return "loss_param is set"
        return "it has two tops" if len(param.top) == 2 else ""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.loss_param
        self.mode = param.normalization
        if param.HasField("normalize") and not param.HasField("normalization"):
            self.mode = pb.LossParameter.VALID if param.normalize else pb.LossParameter.BATCH_SIZE
        self.fixed = param.pre_fixed_normalizer
        self.with_losses = len(self.param.top) == 2
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        number, _, height, width = self.four_axes(bottoms, 0)
        tops = super().reshape(bottoms)
        return [*tops, (number, 1, height, width)] if self.with_losses else tops

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        shape = bottoms[0].shape
        losses = _smooth(_weighted(bottoms)).reshape(*shape, *[1] * (4 - len(shape)))
        number, _, height, width = losses.shape
        normalizers: dict[int, float] = {
            pb.LossParameter.FULL: number * height * width,
            pb.LossParameter.VALID: number * height * width,
            pb.LossParameter.BATCH_SIZE: number,
            pb.LossParameter.PRE_FIXED: self.fixed,
            pb.LossParameter.NONE: 1,
        }
        loss = losses.sum() / max(1.0, normalizers[self.mode])
        return (loss, losses.detach().sum(1, keepdim=True)) if self.with_losses else loss
