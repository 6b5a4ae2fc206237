"""Weights that a backward pass leaves out."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function


class ForwardAlone(Function):
    """x · weight, whose gradient is the top's. Source: daijifeng001/caffe-rfcn
    smooth_L1_loss_layer.cu.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """The product."""
        return x * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The top's gradient as it is."""
        return gradients[0], None
