"""CenterLoss's distance, whose gradients are not its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Distance(Function):
    """Distances of items to the centers of their classes, by "L1" or "L2".

    Source: ydwen/caffe-face center_loss_layer.cpp.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, centers: Tensor, index: Tensor, distance: str) -> Tensor:
        """1/N · Σ |d|, or 1/(2N) · Σ d², for d = x - centers[index]; x is (N, K)."""
        difference = x - centers.index_select(0, index)
        ctx.save_for_backward(difference if distance == "L2" else difference.sign(), index, centers)
        total = difference.square().sum() / 2 if distance == "L2" else difference.abs().sum()
        return total / len(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """dy/N · d, or its sign; for a center -Σ d / (1 + count), whatever dy is."""
        (dy,) = gradients
        difference, index, centers = ctx.saved_tensors
        count = centers.new_ones(len(centers)).index_add_(0, index, centers.new_ones(len(index)))
        moved = torch.zeros_like(centers).index_add_(0, index, difference.to(centers.dtype))
        return dy / len(difference) * difference, -moved / count[:, None], None, None
