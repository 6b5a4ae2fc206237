"""Layers that work on each value alone: ReLU and its kin, powers, Dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from converters.errors import NetError
from converters.layers.registry import ENGINE, BlobSpec, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients, masks

register = Family("#fdd0a2")


IN_PLACE = "in place{}, Caffe takes the gradient at the overwritten bottom; here it is the true one"


def _power(base: float, exponent: float) -> float:
    """base ^ exponent as C's pow: infinite or NaN where Python raises or turns complex."""
    with np.errstate(all="ignore"):
        return float(np.float64(base) ** np.float64(exponent))


def _log_base(layer: Layer, base: float) -> float:
    """log(base), where -1 stands for e; an error unless it is finite."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise layer.error(f"base {base:g} must be positive and finite, or -1 for e")
    return math.log(base)


@register("ReLU", "relu_param")
class ReLU(Layer):
    """max(x, 0) + slope · min(x, 0); the gradient at 0 is the slope. Source: relu_layer.cpp."""

    ignored = {"relu_param.engine": ENGINE}
    differences = IN_PLACE.format(" with a negative negative_slope")

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        slope = self.param.relu_param.negative_slope
        return F.leaky_relu(bottoms[0], slope) if slope else F.relu(bottoms[0])


@register("PReLU", "prelu_param")
class PReLU(Layer):
    """max(x, 0) + a_c · min(x, 0), `a` learned per channel or once. Source: prelu_layer.cpp."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 2 to 4 axes"
            )
        param = self.param.prelu_param
        self.channels = bottoms[0][1]
        given = param.HasField("filler")
        filler = param.filler if given else pb.FillerParameter(type="constant", value=0.25)
        return [BlobSpec("slope", () if param.channel_shared else (self.channels,), filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if bottoms[0][1] != self.channels:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} has {bottoms[0][1]} channels, "
                f"the slopes are for {self.channels}"
            )
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return F.prelu(bottoms[0], state.blobs[0])


@register("ELU", "elu_param")
class ELU(Layer):
    """x for x > 0, alpha · (exp(x) - 1) otherwise. Source: elu_layer.cpp."""

    differences = IN_PLACE.format(" with a negative alpha")

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return F.elu(bottoms[0], self.param.elu_param.alpha)


@register("BNLL")
class BNLL(Layer):
    """log(1 + exp(x)); the gradient's exponent is capped at 50. Source: bnll_layer.cpp."""

    differences = IN_PLACE.format("")

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return F.softplus(bottoms[0], threshold=50)


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
    """y = (shift + scale · x) ^ power. Source: Caffe power_layer.cpp.

    Unless power is 1 or 2 the gradient is power · scale · y / (shift + scale · x): NaN at 0 / 0.
    """

    differences = IN_PLACE.format(" with a power other than 1")

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.constant = _power(self.param.power_param.shift, self.param.power_param.power)
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param, x = self.param.power_param, bottoms[0]
        if param.power * param.scale == 0:
            # The bottom stays attached, with a gradient of 0 even where it is NaN.
            never = torch.zeros_like(x, dtype=torch.bool)
            return torch.where(never, x, self.constant)
        y = x * param.scale if param.scale != 1 else x
        y = y + param.shift if param.shift != 0 else y
        if param.power == 1:
            return y if y is not x else x.clone()
        if param.power == 2:
            return y.square()
        powered: Tensor = gradients.Power.apply(y, param.power)  # type: ignore[no-untyped-call]
        return powered


@register("Exp", "exp_param")
class Exp(Layer):
    """base ^ (shift + scale · x); base -1 is e. Source: exp_layer.cpp."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.exp_param
        self.inner = _log_base(self, param.base) * param.scale
        self.outer = _power(math.e if param.base == -1 else param.base, param.shift)
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        y = torch.exp(bottoms[0] * self.inner)
        return y if self.outer == 1 else y * self.outer


@register("Log", "log_param")
class Log(Layer):
    """log_base(shift + scale · x); base -1 is e. Source: log_layer.cpp."""

    differences = IN_PLACE.format("")

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        log_base = _log_base(self, self.param.log_param.base)
        if log_base == 0:
            raise self.error("base 1 must be another positive number, or -1 for e")
        self.factor = 1 / log_base
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param = self.param.log_param
        y = torch.log(bottoms[0] * param.scale + param.shift)
        return y if self.factor == 1 else y * self.factor


@register("Clip", "clip_param")
class Clip(Layer):
    """max(min, min(x, max)); the gradient passes at both bounds. Source: clip_layer.cpp.

    Without a clip_param both bounds are 0, as in Caffe.
    """

    differences = IN_PLACE.format("")

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.clip_param
        if self.param.HasField("clip_param") and not param.IsInitialized():
            missing = " and ".join(n for n in ("min", "max") if not param.HasField(n))
            raise self.error(f"clip_param lacks {missing}; it needs both min and max")
        return ()

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        low, high = self.param.clip_param.min, self.param.clip_param.max
        if low <= high:
            return bottoms[0].clamp(low, high)
        # Bounds in the wrong order give min everywhere; one clamp of torch would give max.
        return bottoms[0].clamp(max=high).clamp(min=low)


@register("Threshold", "threshold_param")
class Threshold(Layer):
    """1 where x > threshold, else 0; no gradient. Source: threshold_layer.cpp."""

    no_gradient = (0,)
    differences = "Caffe stops at a backward pass through it; here no gradient passes"

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return (bottoms[0] > self.param.threshold_param.threshold).to(bottoms[0].dtype)


@register("Dropout", "dropout_param")
class Dropout(Layer):
    """TRAIN: x · mask / (1 - ratio), the mask keeping a value with probability 1 - ratio; TEST: x.

    With SegNet's `sample_weights_test` TEST is as TRAIN. With R-FCN's `scale_train` false TRAIN is
    x · mask and TEST x · (1 - ratio). Sources: Caffe, alexgkendall/caffe-segnet and
    daijifeng001/caffe-rfcn, dropout_layer.cpp.
    """

    of_forks = ("dropout_param.sample_weights_test", "dropout_param.scale_train")
    refused = {"dropout_ratio 1 in TRAIN": "nothing would be kept, and Caffe computes NaN"}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        # Read here: torch.compile traces forward and cannot ask a message for its fields.
        self.ratio = ratio = self.param.dropout_param.dropout_ratio
        self.always = self.param.dropout_param.sample_weights_test
        self.scales_train = self.param.dropout_param.scale_train
        if not 0 <= ratio <= 1:
            raise self.error(f"dropout_ratio {ratio:g} must be from 0 to 1")
        if ratio == 1 and (self.always or self.phase == "TRAIN"):
            raise self._keeps_nothing()
        return ()

    def drops(self, training: bool) -> bool:
        """Whether there is a mask."""
        return training or self.always

    def rests(self, training: bool) -> bool:
        """Whether the top is the bottom."""
        return not self.drops(training) and self.scales_train

    def _keeps_nothing(self) -> NetError:
        return self.error("dropout_ratio 1 keeps no value in TRAIN, and Caffe computes NaN")

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        if not self.drops(state.training):
            return x if self.scales_train else x * (1 - self.ratio)
        if self.ratio == 1:
            raise self._keeps_nothing()
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            dropped = F.dropout(x, self.ratio)
            return dropped if self.scales_train else dropped * (1 - self.ratio)
        mask = masks.keep_mask(x, 1 - self.ratio)
        scale = 1 / (1 - self.ratio) if self.scales_train else 1.0
        y: Tensor = masks.Masked.apply(x, mask, scale)  # type: ignore[no-untyped-call]
        return y
