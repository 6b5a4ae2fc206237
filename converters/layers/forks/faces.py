"""Losses and products of face recognition: CenterLoss, MarginInnerProduct."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.loss import class_indices
from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from converters.layers.forks.arithmetic import angles, centers

register = Family("#dadaeb")


@register("CenterLoss", "center_loss_param")
class CenterLoss(Layer):
    """1/(2N) · Σ |x_n - c_label|² over the N items; the centers are a blob (classes, values).

    The gradient of a center is Σ (c - x) / (1 + count) over its `count` items of the batch: neither
    loss_weight nor N is in it. Without a loss_weight the loss counts 0. Source: ydwen/caffe-face
    center_loss_layer.cpp.
    """

    origin = "caffe-face"
    bottoms = Count(2, 2)
    no_gradient = (1,)
    whole_numbers = (1,)
    in_place = False
    differences = "a label outside the classes is an error; the fork reads foreign memory"
    distance = "L2"

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.center_loss_param
        self.classes = param.num_output
        if self.classes <= 0:
            raise self.error(f"num_output {self.classes} must be positive")
        self.start = self.axis(param.axis, len(bottoms[0]))
        self.values = math.prod(bottoms[0][self.start :])
        return [BlobSpec("centers", (self.classes, self.values), param.center_filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, labels = bottoms
        if math.prod(x[self.start :]) != self.values or math.prod(x) != x[0] * self.values:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {x} must have {self.values} values an item, from "
                f"axis {self.start} on"
            )
        if math.prod(labels) != x[0]:
            raise self.shape_error(
                f"{self.bottom_name(1)} {labels} must have one label for each item of "
                f"{self.bottom_name(0)} {x}"
            )
        return [()]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0].flatten(1)
        index, _ = class_indices(self, bottoms[1].flatten(), self.classes)
        loss: Tensor = centers.Distance.apply(x, state.blobs[0], index, self.distance)  # type: ignore[no-untyped-call]
        return loss


@register.meaning("CenterLoss", "center_loss_param")
class NamedCenterLoss(CenterLoss):
    """CenterLoss by a `distance_type`: "L2" as above, or "L1", 1/N · Σ |x - c|.

    With L1 the gradients have the sign of x - c in its place. Source: happynear/caffe-windows
    center_loss_layer.cpp.
    """

    origin = "happynear"
    of_forks = ("center_loss_param.distance_type",)
    differences = (
        "the fork adds a class's gradient to its center once for each of its items; here it is "
        f"added once, as by the first author; {CenterLoss.differences}"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.distance = self.param.center_loss_param.distance_type
        if self.distance not in ("L1", "L2"):
            raise self.error(f'distance_type "{self.distance}" must be L1 or L2')
        return super().setup(bottoms)

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        given = param.center_loss_param.HasField("distance_type")
        return "distance_type is set" if given else ""


@register("MarginInnerProduct", "margin_inner_product_param")
class MarginInnerProduct(Layer):
    """SphereFace's A-softmax: W·x with each row of W of length 1, and a margin for the label's row.

    With θ the angle of x and the label's row, and m = 1, 2, 3, 4 for SINGLE to QUADRUPLE, that row
    gives (λ·|x|·cos θ + |x|·ψ(θ)) / (1 + λ); ψ(θ) = (-1)^k · cos(mθ) - 2k, θ from kπ/m to (k+1)π/m.
    Forward n from `iteration` on has λ = max(base · (1 + gamma·n)^-power, lambda_min), the second
    top. Every forward scales the rows of the blob to length 1; its gradient is that of W·x, and
    x's margin part has the direction of its derivative and the length of the output's gradient.
    Source: wy1iu/sphereface margin_inner_product_layer.cpp.
    """

    origin = "SphereFace"
    bottoms = Count(2, 2)
    tops = Count(1, 2)
    no_gradient = (1,)
    whole_numbers = (1,)
    in_place = False
    counts_as_depth = True
    differences = (
        "a label outside the classes is an error, and one top is enough; the fork reads and writes "
        "foreign memory"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.margin_inner_product_param
        if param.num_output <= 0:
            raise self.error(f"num_output {param.num_output} must be positive")
        self.margin = param.type + 1
        self.first, self.base, self.gamma = param.iteration, param.base, param.gamma
        self.power, self.least = param.power, param.lambda_min
        self.out = param.num_output
        self.start = self.axis(param.axis, len(bottoms[0]))
        self.values = math.prod(bottoms[0][self.start :])
        return [BlobSpec("weight", (self.out, self.values), param.weight_filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, labels = bottoms
        if math.prod(x[self.start :]) != self.values:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {x} has {math.prod(x[self.start :])} values from "
                f"axis {self.start} on, the weights take {self.values}"
            )
        if math.prod(labels) != math.prod(x[: self.start]):
            raise self.shape_error(
                f"{self.bottom_name(1)} {labels} must have one label for each product: "
                f"{math.prod(x[: self.start])}"
            )
        return [(*x[: self.start], self.out), (1,)][: len(self.param.top)]

    def state_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        return {"forwards": (1,)}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0].reshape(-1, self.values)
        weight = state.blobs[0]
        index, _ = class_indices(self, bottoms[1].flatten(), self.out)
        with torch.no_grad():
            state.state["forwards"].add_(1)
            weight.div_(weight.square().sum(1, keepdim=True).sqrt())
        n = self.first + state.state["forwards"]
        rate = (self.base * (1 + self.gamma * n) ** -self.power).clamp(min=self.least).to(x.dtype)
        y: Tensor = angles.Margin.apply(x, weight, index, rate, self.margin)  # type: ignore[no-untyped-call]
        y = y.reshape(*bottoms[0].shape[: self.start], self.out)
        return y if len(self.param.top) == 1 else (y, rate)
