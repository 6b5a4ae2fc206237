"""Layers of nets that label every pixel: BN, Upsample, Interp, SegAccuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.loss import class_indices
from converters.layers.registry import ENGINE, BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers.forks.arithmetic import unpooling

register = Family("#c7e9c0")


class _ByChannel(Layer):
    """A layer with a blob value for each channel, blobs (1, C, 1, 1)."""

    channels: int

    def count_channels(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms[0]) < 2:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 2 axes or more (N, C, …)"
            )
        self.channels = bottoms[0][1]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if bottoms[0][1:2] != (self.channels,):
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have the {self.channels} channels "
                "of the blobs"
            )
        return [bottoms[0]]

    def blob(self, name: str, filler: pb.FillerParameter, trained: bool = True) -> BlobSpec:
        """A blob with a value a channel; TSN's files have it as (1, C)."""
        shape = (1, self.channels, 1, 1)
        return BlobSpec(name, shape, filler, trained, also=((1, self.channels),))

    def by_batch(
        self, x: Tensor, slope: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """slope · (x - mean) / sqrt(var + eps) + bias, with the batch's mean and biased variance.

        Returns:
            The result, the mean (C,) and the variance (C,).
        """
        values = x.numel() // x.shape[1]
        mean, variance = torch.zeros_like(slope), torch.zeros_like(slope)
        if values == 1:  # torch refuses: x - mean is 0, and so is the variance
            along = (1, -1) + (1,) * (x.dim() - 2)
            y = (x - x) / math.sqrt(eps) * slope.view(along) + bias.view(along)
            return y, x.detach().reshape(-1), variance
        # Momentum 1: torch leaves this batch's statistics there, the variance unbiased.
        y = F.batch_norm(x, mean, variance, slope, bias, True, 1.0, eps)
        return y, mean, variance * ((values - 1) / values)


@register("BN", "bn_param")
class BN(_ByChannel):
    """slope · (x - mean) / sqrt(var + eps) + bias by channel, with running mean and variance.

    Each TRAIN forward uses the batch's mean and biased variance, and does running ←
    momentum · running + (1 - momentum) · batch; TEST uses the running ones, and so does TRAIN with
    `frozen`, where slope and bias are not trained. Source: hszhao/PSPNet and yjxiong/caffe
    bn_layer.cpp.
    """

    origin = "PSPNet and TSN"
    ignored = {"bn_param.engine": ENGINE}
    differences = "in place, the gradient is the true one; happynear's running variance starts at 1"

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        fields = ("slope_filler", "bias_filler", "momentum", "eps", "frozen", "engine")
        given = [name for name in fields if param.bn_param.HasField(name)]
        return f"{given[0]} is set" if given else ""

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return len(shapes) == 4

    @classmethod
    def complete(cls, param: pb.LayerParameter, source: str) -> None:
        """Four `param`, with multipliers 0 where the blob is not trained."""
        while len(param.param) < 4:
            param.param.add()
        for one in param.param[0 if param.bn_param.frozen else 2 : 4]:
            one.lr_mult = one.decay_mult = 0

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.bn_param
        self.frozen, self.momentum, self.eps = param.frozen, param.momentum, param.eps
        if not 0 < self.eps < math.inf:
            raise self.error(f"eps {self.eps:g} must be a positive number")
        self.count_channels(bottoms)
        # The multipliers that the layer itself sets hold for the solver too.
        completed = pb.LayerParameter()
        completed.CopyFrom(self.param)
        self.complete(completed, self.environment.source)
        self.param = completed
        variance = pb.FillerParameter(value=1 if self.frozen else 0)
        return [
            self.blob("slope", param.slope_filler),
            self.blob("bias", param.bias_filler),
            self.blob("mean", pb.FillerParameter(), trained=False),
            self.blob("variance", variance, trained=False),
        ]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        slope, bias, mean, variance = (blob.view(-1) for blob in state.blobs)
        if self.frozen:  # under force_backward too
            slope, bias = slope.detach(), bias.detach()
        if self.frozen or not state.training:
            return F.batch_norm(x, mean, variance, slope, bias, False, 0.0, self.eps)
        y, *batch = self.by_batch(x, slope, bias, self.eps)
        with torch.no_grad():
            for running, newest in zip((mean, variance), batch):
                running.mul_(self.momentum).add_(newest, alpha=1 - self.momentum)
        return y


@register.meaning("BN", "bn_param")
class SegNetBN(_ByChannel):
    """scale · (x - mean) / sqrt(var + 1e-9) + shift, by the batch's mean and variance in TEST too.

    With `bn_mode: INFERENCE`, scale · x + shift: statistics were merged into the blobs. A second
    and a third top are the batch's mean and variance, (1, C, 1, 1), through which no gradient comes
    back. Source: alexgkendall/caffe-segnet bn_layer.cpp.
    """

    origin = "SegNet"
    tops = Count(1, 3)
    ignored = dict.fromkeys(
        [
            *(f"bn_param.{name}_filler" for name in ("slope", "bias")),
            *(f"bn_param.{name}" for name in ("momentum", "eps", "frozen", "engine")),
        ],
        "a field of PSPNet's BN",
    )
    of_forks = ("bn_param.bn_mode", "bn_param.scale_filler", "bn_param.shift_filler")
    differences = (
        "the variance is that of x - mean, not E(x²) - E(x)², which may fall below 0; in place, "
        "the gradient is the true one; INFERENCE leaves the second and third top 0"
    )
    EPS = 1e-9

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        fields = ("bn_mode", "scale_filler", "shift_filler")
        given = [name for name in fields if param.bn_param.HasField(name)]
        if given:
            return f"{given[0]} is set"
        return f"it has {len(param.top)} tops" if len(param.top) > 1 else ""

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return len(shapes) == 2

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.bn_param
        self.merged = param.bn_mode == param.INFERENCE
        self.count_channels(bottoms)
        return [self.blob("scale", param.scale_filler), self.blob("shift", param.shift_filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        statistics = (1, self.channels, 1, 1)
        return [*super().reshape(bottoms), statistics, statistics][: len(self.param.top)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        scale, shift = (blob.view(-1) for blob in state.blobs)
        if self.merged:
            along = (1, -1) + (1,) * (x.dim() - 2)
            y = x * scale.view(along) + shift.view(along)
            mean = variance = torch.zeros_like(scale)
        else:
            y, mean, variance = self.by_batch(x, scale, shift, self.EPS)
        if len(self.param.top) == 1:
            return y
        statistics = [one.detach().view(1, -1, 1, 1) for one in (mean, variance)]
        return (y, *statistics)[: len(self.param.top)]


@register("Upsample", "upsample_param")
class Upsample(Layer):
    """Values put back where a pooling mask says that they came from; 0 elsewhere.

    The top is upsample_h × upsample_w, or the bottom's size times scale (or scale_h and scale_w),
    one less with pad_out_h or pad_out_w. Of several values of one place the last is taken, and all
    get its gradient. Source: alexgkendall/caffe-segnet upsample_layer.cpp.
    """

    origin = "SegNet"
    bottoms = Count(2, 2)
    no_gradient = (1,)
    whole_numbers = (1,)
    in_place = False
    differences = "a size by scale follows the bottom's; the fork keeps the first one"

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        return "it has 2 bottoms" if len(param.bottom) == 2 else ""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.upsample_param
        self.size = None
        if param.HasField("upsample_h") and param.HasField("upsample_w"):
            self.size = (param.upsample_h, param.upsample_w)
            if min(self.size) < 2:
                raise self.error(f"upsample_h and upsample_w {self.size} must be 2 or more")
            return ()
        both = (param.HasField("scale_h"), param.HasField("scale_w"))
        if any(both) and (not all(both) or param.HasField("scale")):
            raise self.error("give upsample_h and upsample_w, or scale, or scale_h and scale_w")
        scale = (param.scale_h, param.scale_w) if all(both) else (param.scale, param.scale)
        if min(scale) < 2:
            raise self.error(f"scale {scale} must be 2 or more")
        self.scale, self.less = scale, (int(param.pad_out_h), int(param.pad_out_w))
        for axis, factor, less in zip("hw", self.scale, self.less):
            if less and factor != 2:
                raise self.error(f"pad_out_{axis} needs a scale of 2, not {factor}")
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.shape_error(f"bottom {self.bottom_name(0)} {bottoms[0]} must have 4 axes")
        self.require_one_shape(bottoms)
        number, channels, *size = bottoms[0]
        if self.size is not None:
            return [(number, channels, *self.size)]
        larger = [n * factor - less for n, factor, less in zip(size, self.scale, self.less)]
        return [(number, channels, *larger)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x, mask = bottoms
        (shape,) = self.reshape([tuple(x.shape), tuple(mask.shape)])
        places = shape[2] * shape[3]
        index = mask.detach().long()
        if index.device.type == "cpu" and index.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in index.aminmax())
            if low < 0 or high >= places:
                raise self.error(
                    f"index {low if low < 0 else high} in {self.bottom_name(1)} lies outside "
                    f"{shape[2]} × {shape[3]}: is the size that of the pooled blob?"
                )
        y: Tensor = unpooling.Unpool.apply(x.flatten(2), index.flatten(2), places)  # type: ignore[no-untyped-call]
        return y.view(shape)


@register.meaning("Upsample", "upsample_param")
class Repeat(Layer):
    """Each value repeated `scale` times down and across. Source: eric612/MobileNet-YOLO
    upsample_layer.cpp.
    """

    origin = "MobileNet-YOLO"
    in_place = False
    moves_values = True
    ignored = dict.fromkeys(
        [
            *(f"upsample_param.{name}_{axis}" for name in ("scale", "upsample") for axis in "hw"),
            *(f"upsample_param.pad_out_{axis}" for axis in "hw"),
        ],
        "the fork has `scale` alone",
    )

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        return "it has 1 bottom" if len(param.bottom) == 1 else ""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.factor = self.param.upsample_param.scale
        if self.factor < 1:
            raise self.error(f"scale {self.factor} must be positive")
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.shape_error(f"bottom {self.bottom_name(0)} {bottoms[0]} must have 4 axes")
        number, channels, height, width = bottoms[0]
        return [(number, channels, height * self.factor, width * self.factor)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return F.interpolate(bottoms[0], scale_factor=float(self.factor), mode="nearest")


@register("Interp", "interp_param")
class Interp(Layer):
    """Bilinear interpolation between aligned corners, of maps cropped by -pad_beg and -pad_end.

    The size is (n - 1) / shrink_factor + 1, or n + (n - 1)·(zoom_factor - 1), or height × width, or
    shrunk and then zoomed where both factors are set and no size is. Source: hszhao/PSPNet
    interp_layer.cpp.
    """

    origin = "PSPNet"
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.interp_param
        for name in ("pad_beg", "pad_end"):
            if getattr(param, name) > 0:
                raise self.error(f"{name} {getattr(param, name)} must be 0 or below: it crops")
        shrink, zoom = param.HasField("shrink_factor"), param.HasField("zoom_factor")
        for name in ("shrink_factor", "zoom_factor"):
            if getattr(param, name) < 1:
                raise self.error(f"{name} {getattr(param, name)} must be positive")
        self.size = None
        if shrink == zoom and param.HasField("height") and param.HasField("width"):
            self.size = (param.height, param.width)
            if min(self.size) < 1:
                raise self.error(f"height and width {self.size} must be positive")
        elif not shrink and not zoom:
            raise self.error("needs height and width, zoom_factor or shrink_factor")
        self.cut = (-param.pad_beg, -param.pad_end)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.shape_error(f"bottom {self.bottom_name(0)} {bottoms[0]} must have 4 axes")
        number, channels, *size = bottoms[0]
        left = [n - sum(self.cut) for n in size]
        if min(left) < 1:
            raise self.shape_error(
                f"pad_beg and pad_end cut {sum(self.cut)} of bottom {self.bottom_name(0)} "
                f"{bottoms[0]}: nothing is left"
            )
        return [(number, channels, *(self.size or map(self._resized, left)))]

    def _resized(self, n: int) -> int:
        param = self.param.interp_param
        n = (n - 1) // param.shrink_factor + 1
        return n + (n - 1) * (param.zoom_factor - 1)

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        (shape,) = self.reshape([tuple(x.shape)])
        first, last = self.cut
        if first or last:
            x = x[:, :, first : x.shape[2] - last, first : x.shape[3] - last]
        return F.interpolate(x, shape[2:], mode="bilinear", align_corners=True)


@register("SegAccuracy", "seg_accuracy_param")
class SegAccuracy(Layer):
    """(pixel accuracy, mean class accuracy, mean intersection over union) as a top (1, 1, 1, 3).

    Of equal scores the larger class is the prediction. Class accuracies are averaged over the
    classes that the labels have; an intersection over union over all, 1 for a class that neither
    labels nor predictions have. Pixels of a label in `ignore_label` are left out. With `reset:
    false` counts go on from forward to forward. Source: hszhao/PSPNet seg_accuracy_layer.cpp.
    """

    origin = "PSPNet"
    bottoms = Count(2, 2)
    no_gradient = (0, 1)
    whole_numbers = (1,)
    in_place = False
    ignored = {"seg_accuracy_param.metric": "the fork gives all three whatever it says"}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.seg_accuracy_param
        self.left_out, self.reset = sorted(set(param.ignore_label)), param.reset
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, labels = (one + (1,) * (4 - len(one)) for one in bottoms)
        if len(scores) != 4 or labels != (scores[0], 1, *scores[2:]):
            raise self.shape_error(
                f"{self.bottom_name(1)} {bottoms[1]} must have a label for each pixel of "
                f"{self.bottom_name(0)} {bottoms[0]}: {(scores[0], 1, *scores[2:])}"
            )
        self.classes = scores[1]
        return [(1, 1, 1, 3)]

    def state_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        # Counts of (label, prediction) in base 2^20: a float holds each part exactly.
        return {"high": (bottoms[0][1],) * 2, "low": (bottoms[0][1],) * 2}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        scores, labels = bottoms[0].detach(), bottoms[1].detach().flatten()
        kept = torch.ones_like(labels, dtype=torch.bool)
        for label in self.left_out:
            kept &= labels.trunc() != label
        index, _ = class_indices(self, torch.where(kept, labels, 0), self.classes)
        predicted = self.classes - 1 - scores.flip(1).argmax(1).flatten()
        pairs = torch.where(kept, index * self.classes + predicted, self.classes**2)
        counts = torch.zeros(self.classes**2 + 1, dtype=torch.long, device=labels.device)
        counts.index_add_(0, pairs, torch.ones_like(pairs))
        counts = counts[:-1].view(self.classes, self.classes)
        high, low = state.state["high"], state.state["low"]
        if not self.reset:
            counts = counts + high.long() * _BASE + low.long()
        high.copy_(counts // _BASE)
        low.copy_(counts % _BASE)
        return self._measures(counts.double()).to(scores.dtype).view(1, 1, 1, 3)

    @staticmethod
    def _measures(counts: Tensor) -> Tensor:
        """The three of counts (labels, predictions)."""
        right, labelled = counts.diagonal(), counts.sum(1)
        union = labelled + counts.sum(0) - right
        recall = (right / labelled.clamp(min=1)).sum() / (labelled > 0).sum().clamp(min=1)
        overlap = torch.where(right == union, 1, right / union.clamp(min=1)).mean()
        return torch.stack([right.sum() / labelled.sum().clamp(min=1), recall, overlap])


_BASE = 2**20
