"""Values put back to the places of a pooling mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Unpool(Function):
    """Source: alexgkendall/caffe-segnet upsample_layer.cpp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, places: int) -> Tensor:
        """(N, C, places) with x (N, C, k) at `index`, 0 elsewhere; the last of one place wins."""
        ctx.save_for_backward(index)
        if x.device.type == "cpu":  # torch goes through a row in order here
            return x.new_zeros(*x.shape[:2], places).scatter_(2, index, x)
        return last_of_each(x, index, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Each value gets the gradient at its place, those that another one covers too."""
        (index,) = ctx.saved_tensors
        return gradients[0].gather(2, index), None, None


def last_of_each(x: Tensor, index: Tensor, places: int) -> Tensor:
    """`Unpool`'s values, whatever the order in which a device writes."""
    rank = torch.arange(1, x.shape[2] + 1, device=x.device).expand_as(index)
    last = torch.zeros(*x.shape[:2], places, dtype=torch.long, device=x.device)
    last.scatter_reduce_(2, index, rank, "amax")
    return torch.where(last > 0, x.gather(2, (last - 1).clamp(min=0)), 0)
