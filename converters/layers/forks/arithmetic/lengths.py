"""Division of values by their length, whose gradient is the fork's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Normalized(Function):
    """x / ‖x‖ · scale, with SSD's gradient. Source: weiliu89/caffe normalize_layer.cpp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
        """For x (N, C, …) and a scale () or (C,): ‖x‖ = √(Σ x² + eps), the sum over `axes`."""
        length = (x.square().sum(axes, keepdim=True) + eps).sqrt()
        ctx.axes = axes
        ctx.save_for_backward(x, scale, length)
        return x / length * _by_channel(scale, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """scale / ‖x‖ · (dy - x · Σ x·dy / ‖x‖²): the scales of the channels are not in the sum."""
        (dy,) = gradients
        x, scale, length = ctx.saved_tensors
        shared = (x * dy).sum(ctx.axes, keepdim=True)
        for_x = (dy - x * shared / length.square()) / length * _by_channel(scale, x)
        products = x / length * dy
        kept = [axis for axis in range(x.dim()) if axis != 1 or not scale.dim()]
        return for_x, torch.sum(products, kept).reshape(scale.shape), None, None


def _by_channel(scale: Tensor, x: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (x.dim() - 2)) if scale.dim() else scale
