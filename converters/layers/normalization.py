"""Layers that normalize, scale or shift: BatchNorm, Scale, Bias, LRN, MVN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.errors import NetError
from converters.layers.registry import ENGINE, BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients, local_response

register = Family("#c7e9c0")


@register("BatchNorm", "batch_norm_param")
class BatchNorm(Layer):
    """(x - mean) / sqrt(var + eps) per channel, with Caffe's three statistics as blobs.

    Blobs M (sum of means), V (sum of unbiased variances), S (weight): every forward on batch
    statistics does S ← f·S + 1, M ← f·M + mean, V ← f·V + var·m/(m-1); global statistics are M/S
    and V/S, and 0 for S = 0. Source: Caffe layers/batch_norm_layer.cpp.
    """

    refused = {"param.lr_mult other than 0": "the statistics are no weights (Caffe stops too)"}
    STATISTICS = 3

    @classmethod
    def upgrade(cls, param: pb.LayerParameter) -> None:
        """Old files give the statistics rates, which Caffe takes away (UpgradeNetBatchNorm)."""
        if len(param.param) == cls.STATISTICS:
            for one in param.param:
                one.lr_mult = one.decay_mult = 0

    @classmethod
    def complete(cls, param: pb.LayerParameter, source: str) -> None:
        """A `param { lr_mult: 0 }` for each statistic."""
        for index, one in enumerate(param.param):
            if one.HasField("lr_mult") and one.lr_mult != 0:
                raise NetError(
                    f'{source}: layer "{param.name}": param {index} of a BatchNorm must have '
                    f"lr_mult 0, not {one.lr_mult:g}"
                )
            one.lr_mult = 0
        while len(param.param) < cls.STATISTICS:
            param.param.add(lr_mult=0)

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.batch_norm_param
        # Read here: torch.compile traces forward and cannot ask a message for its fields.
        self.use_global_stats = (
            param.use_global_stats if param.HasField("use_global_stats") else None
        )
        self.fraction, self.eps = param.moving_average_fraction, param.eps
        # Caffe takes the root of what may be negative; torch refuses, in training 0 too.
        if not (0 < self.eps < math.inf or (self.eps == 0 and self.phase == "TEST")):
            raise self.error(f"eps {self.eps:g} must be a positive number")
        for index, spec in enumerate(self.param.param):
            if spec.lr_mult != 0 and spec.HasField("lr_mult"):
                raise self.error(
                    f"param {index} has lr_mult {spec.lr_mult:g}; the statistics are no weights "
                    "and need lr_mult: 0 (or no param at all)"
                )
        if len(bottoms[0]) < 2:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 2 axes or more (N, C, …)"
            )
        self.channels = bottoms[0][1]
        return [
            BlobSpec("mean", (self.channels,), trained=False, neutral=0),
            BlobSpec("variance", (self.channels,), trained=False, neutral=1),
            BlobSpec("scale_factor", (1,), trained=False, neutral=1),
        ]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if bottoms[0][1:2] != (self.channels,):
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have the {self.channels} channels "
                "of the statistics"
            )
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return self.normalize(state, bottoms[0], None, None)

    def normalize(
        self, state: LayerState, x: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """Normalize; then scale and shift if `weight` and `bias` (C,) are given."""
        by_global = self.use_global_stats
        if not state.training if by_global is None else by_global:
            return self._by_global_statistics(state.blobs, x, weight, bias)
        if x.numel() == x.shape[1]:
            return self._one_value_per_channel(state.blobs, x, weight, bias)
        blobs = state.blobs
        # Momentum 1: torch leaves this batch's statistics there. New tensors, because backward
        # keeps them, and another forward may come first.
        mean, variance = torch.zeros_like(blobs[0]), torch.zeros_like(blobs[1])
        y = F.batch_norm(x, mean, variance, weight, bias, True, 1.0, self.eps)
        self._remember(blobs, mean, variance)
        return y

    def _remember(self, blobs: list[Tensor], mean: Tensor, variance: Tensor) -> None:
        with torch.no_grad():
            blobs[0].mul_(self.fraction).add_(mean)
            blobs[1].mul_(self.fraction).add_(variance)
            blobs[2].mul_(self.fraction).add_(1)

    def _by_global_statistics(
        self, blobs: list[Tensor], x: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        scale = blobs[2]
        factor = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
        return F.batch_norm(
            x, blobs[0] * factor, blobs[1] * factor, weight, bias, False, 0.0, self.eps
        )

    def _one_value_per_channel(
        self, blobs: list[Tensor], x: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """m = 1, which torch refuses: x - mean is 0, and so is the variance."""
        centred = x - x
        self._remember(blobs, x.detach().reshape(-1), torch.zeros_like(blobs[1]))
        along = (1, -1) + (1,) * (x.dim() - 2)
        y = centred / math.sqrt(self.eps)
        y = y if weight is None else y * weight.view(along)
        return y if bias is None else y + bias.view(along)


class _Broadcast(Layer):
    """What Scale and Bias share: a blob or second bottom aligned with bottom 0 from `axis` on."""

    bottoms = Count(1, 2)

    def aligned_shape(self, bottoms: Sequence[Shape], axis: int, num_axes: int) -> Shape:
        """The blob's shape; checks a second bottom against bottom 0."""
        first = bottoms[0]
        # A scalar second bottom aligns anywhere, whatever `axis` says.
        scalar = len(bottoms) == 2 and not bottoms[1]
        start = 0 if scalar else self.axis(axis, len(first))
        if len(bottoms) == 2:
            self.check_aligned(bottoms, start)
            self.start = start
            return bottoms[1]
        if num_axes < -1:
            raise self.error(f"num_axes {num_axes} must be -1 (to the end), 0 (a scalar) or more")
        end = len(first) if num_axes == -1 else start + num_axes
        if end > len(first):
            raise self.shape_error(
                f"axis {axis} and num_axes {num_axes} reach beyond bottom {self.bottom_name(0)} "
                f"{first}"
            )
        self.start = start
        return tuple(first[start:end])

    start: int
    blob_shape: Shape

    def check_aligned(self, bottoms: Sequence[Shape], start: int) -> None:
        """The second bottom must equal a run of bottom 0's axes."""
        first, second = bottoms
        if tuple(first[start : start + len(second)]) != tuple(second):
            raise self.shape_error(
                f"{self.bottom_name(1)} {second} does not match {self.bottom_name(0)} {first} "
                f"from axis {start} on"
            )

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms) == 2:
            self.check_aligned(bottoms, self.start)
        elif tuple(bottoms[0][self.start : self.start + len(self.blob_shape)]) != self.blob_shape:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} does not match the blob "
                f"{self.blob_shape} from axis {self.start} on"
            )
        return [bottoms[0]]

    def spread(self, blob: Tensor, x: Tensor) -> Tensor:
        """A view of `blob` that broadcasts over `x`."""
        before = (1,) * self.start
        after = (1,) * (x.dim() - self.start - blob.dim())
        return blob.reshape((*before, *blob.shape, *after))


@register("Scale", "scale_param")
class Scale(_Broadcast):
    """y = x · scale (+ bias), both broadcast from `axis` on. Source: layers/scale_layer.cpp."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.scale_param
        self.blob_shape = self.aligned_shape(bottoms, param.axis, param.num_axes)
        specs = []
        if len(bottoms) == 1:
            given = param.HasField("filler")
            filler = param.filler if given else pb.FillerParameter(type="constant", value=1)
            specs.append(BlobSpec("weight", self.blob_shape, filler))
        if param.bias_term:
            # Caffe's inner Bias reads the axis even where the scale is a scalar.
            self.axis(param.axis, len(bottoms[0]))
            specs.append(BlobSpec("bias", self.blob_shape, param.bias_filler))
        return specs

    def scales_channels(self, channels: int) -> bool:
        """Whether it is a learned scale and bias for each of so many channels on axis 1."""
        return (
            self.start == 1
            and self.blob_shape == (channels,)
            and len(self.param.bottom) == 1
            and self.param.scale_param.bias_term
        )

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x, blobs = bottoms[0], state.blobs
        scale = bottoms[1] if len(bottoms) == 2 else blobs[0]
        y = x * self.spread(scale, x)
        return y + self.spread(blobs[-1], x) if self.param.scale_param.bias_term else y


@register("Bias", "bias_param")
class Bias(_Broadcast):
    """y = x + bias, broadcast from `axis`. Source: layers/bias_layer.cpp."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.bias_param
        self.blob_shape = self.aligned_shape(bottoms, param.axis, param.num_axes)
        return [BlobSpec("bias", self.blob_shape, param.filler)] if len(bottoms) == 1 else ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        bias = bottoms[1] if len(bottoms) == 2 else state.blobs[0]
        return bottoms[0] + self.spread(bias, bottoms[0])


@register("LRN", "lrn_param")
class LRN(Layer):
    """Local response normalization of (N, C, H, W), across channels or within each.

    ACROSS_CHANNELS: x · (k + alpha/n · Σ_{n channels} x²)^-beta. WITHIN_CHANNEL:
    x · (1 + alpha · mean_{n×n} x²)^-beta, where `k` has no part and the divisor is always n².
    Source: Caffe layers/lrn_layer.cpp.
    """

    in_place = False
    ignored = {"lrn_param.engine": ENGINE}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.lrn_param
        if param.local_size % 2 == 0:
            raise self.error(f"local_size {param.local_size} must be odd")
        # Read here: torch.compile traces forward and cannot ask a message for its fields.
        across = param.norm_region == pb.LRNParameter.ACROSS_CHANNELS
        k = param.k if across else 1.0
        self.settings = (param.local_size, across, k, param.alpha, param.beta)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 4 axes (N, C, H, W)"
            )
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x, response = bottoms[0], local_response.Response(*self.settings)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return response(x)
        y: Tensor = local_response.OnCpu.apply(x, response)  # type: ignore[no-untyped-call]
        return y


@register("MVN", "mvn_param")
class MVN(Layer):
    """(x - mean) / (sqrt(var) + eps) per (n, c), or per n with across_channels; var is biased.

    The top has four axes, the last ones 1 where the bottom has fewer. Caffe's gradient takes eps
    for small: (dy - mean(dy) - y·mean(dy·y)) / (sqrt(var) + eps). Source: layers/mvn_layer.cpp.
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not 1 <= len(bottoms[0]) <= 4:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 1 to 4 axes"
            )
        return [bottoms[0] + (1,) * (4 - len(bottoms[0]))]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x, param = bottoms[0], self.param.mvn_param
        (shape,) = self.reshape([tuple(x.shape)])
        rows = shape[0] if param.across_channels else math.prod(shape[:2])
        flat = x.reshape(rows, -1)
        if not param.normalize_variance:
            return (flat - flat.mean(1, keepdim=True)).reshape(shape)
        y: Tensor = gradients.MeanVarianceNormalization.apply(flat, param.eps)  # type: ignore[no-untyped-call]
        return y.reshape(shape)
