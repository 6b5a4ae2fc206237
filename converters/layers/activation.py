"""Layers that work on each value alone: ReLU and its kin, powers, Dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Layer, LayerState, Shape, register
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor


ENGINE = "Caffe's engines compute the same; torch chooses its own kernels"


@register("ReLU", "relu_param")
class ReLU(Layer):
    """max(x, 0) + slope · min(x, 0); the gradient at 0 is the slope. Source: relu_layer.cpp."""

    ignored = {"relu_param.engine": ENGINE}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        slope = self.param.relu_param.negative_slope
        return F.leaky_relu(bottoms[0], slope) if slope else F.relu(bottoms[0])


@register("PReLU", "prelu_param")
class PReLU(Layer):
    """max(x, 0) + a_c · min(x, 0), `a` learned per channel or once. Source: prelu_layer.cpp."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        if len(bottoms[0]) < 2:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 2 axes or more"
            )
        param = self.param.prelu_param
        self.channels = bottoms[0][1]
        given = param.HasField("filler")
        filler = param.filler if given else pb.FillerParameter(type="constant", value=0.25)
        return [BlobSpec(() if param.channel_shared else (self.channels,), filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if bottoms[0][1] != self.channels:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} has {bottoms[0][1]} channels, "
                f"the slopes are for {self.channels}"
            )
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        slope = state.blobs[0].reshape(-1, *(1,) * (x.dim() - 2))
        return torch.where(x > 0, x, x * slope)


@register("ELU", "elu_param")
class ELU(Layer):
    """x for x > 0, alpha · (exp(x) - 1) otherwise. Source: elu_layer.cpp."""

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        negative = self.param.elu_param.alpha * torch.expm1(x.clamp(max=0))
        return torch.where(x > 0, x, negative)


@register("BNLL")
class BNLL(Layer):
    """log(1 + exp(x)); the gradient's exponent is capped at 50. Source: bnll_layer.cpp."""

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return F.softplus(bottoms[0], threshold=30)


@register("Sigmoid", "sigmoid_param")
class Sigmoid(Layer):
    """1 / (1 + exp(-x)). Source: sigmoid_layer.cpp."""

    ignored = {"sigmoid_param.engine": ENGINE}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return torch.sigmoid(bottoms[0])


@register("TanH", "tanh_param")
class TanH(Layer):
    """tanh(x). Source: tanh_layer.cpp."""

    ignored = {"tanh_param.engine": ENGINE}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return torch.tanh(bottoms[0])


@register("Swish", "swish_param")
class Swish(Layer):
    """x · sigmoid(beta · x). Source: swish_layer.cpp."""

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return bottoms[0] * torch.sigmoid(self.param.swish_param.beta * bottoms[0])


@register("AbsVal")
class AbsVal(Layer):
    """|x|, with gradient 0 at 0. Source: absval_layer.cpp."""

    in_place = False

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return bottoms[0].abs()


@register("Power", "power_param")
class Power(Layer):
    """(shift + scale · x) ^ power. Source: power_layer.cpp."""

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param, x = self.param.power_param, bottoms[0]
        if param.power * param.scale == 0:
            value = 1.0 if param.power == 0 else math.pow(param.shift, param.power)
            return torch.full_like(x, value)
        y = x * param.scale if param.scale != 1 else x
        y = y + param.shift if param.shift != 0 else y
        if param.power == 1:
            return y if y is not x else x.clone()
        return y.pow(param.power)


@register("Exp", "exp_param")
class Exp(Layer):
    """base ^ (shift + scale · x); base -1 is e. Source: exp_layer.cpp."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.exp_param
        if param.base != -1 and param.base <= 0:
            raise self.error(f"base {param.base:g} must be positive, or -1 for e")
        log_base = 1.0 if param.base == -1 else math.log(param.base)
        self.inner = log_base * param.scale
        self.outer = (
            math.exp(param.shift) if param.base == -1 else math.pow(param.base, param.shift)
        )
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        y = torch.exp(bottoms[0] * self.inner)
        return y if self.outer == 1 else y * self.outer


@register("Log", "log_param")
class Log(Layer):
    """log_base(shift + scale · x); base -1 is e. Source: log_layer.cpp."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        base = self.param.log_param.base
        if base != -1 and (base <= 0 or base == 1):
            raise self.error(f"base {base:g} must be positive and not 1, or -1 for e")
        self.factor = 1.0 if base == -1 else 1 / math.log(base)
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param = self.param.log_param
        y = torch.log(bottoms[0] * param.scale + param.shift)
        return y if self.factor == 1 else y * self.factor


@register("Clip", "clip_param")
class Clip(Layer):
    """min(max(x, min), max); the gradient passes at both bounds. Source: clip_layer.cpp."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.clip_param
        if not (param.HasField("min") and param.HasField("max")):
            raise self.error("needs clip_param { min: … max: … }")
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return bottoms[0].clamp(self.param.clip_param.min, self.param.clip_param.max)


@register("Threshold", "threshold_param")
class Threshold(Layer):
    """1 where x > threshold, else 0; no gradient. Source: threshold_layer.cpp."""

    no_gradient = (0,)

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return (bottoms[0] > self.param.threshold_param.threshold).to(bottoms[0].dtype)


@register("Dropout", "dropout_param")
class Dropout(Layer):
    """TRAIN: x · mask / (1 - ratio), the mask keeping a value with probability 1 - ratio; TEST: x.

    Source: Caffe dropout_layer.cpp.
    """

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        ratio = self.param.dropout_param.dropout_ratio
        if not 0 <= ratio < 1:
            raise self.error(f"dropout_ratio {ratio:g} must be at least 0 and below 1")
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        ratio = self.param.dropout_param.dropout_ratio
        return F.dropout(bottoms[0], ratio) if self.phase == "TRAIN" else bottoms[0]
