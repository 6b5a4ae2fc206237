"""Dropout's masks on a CPU, where torch draws one after another and takes ten times as long.

A call draws a seed from torch's generator, so that the generator's state is all there is to keep;
the mask comes from a fast generator of its own. It goes by the order of values in memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

# Values at a time: the steps over them stay in a core's cache, and Python's share is small.
DRAWN = 2**18
MULTIPLIED = 2**20


def keep_mask(x: Tensor, keep: float) -> Tensor:
    """uint8 of the shape and layout of `x`: 1 with probability `keep`, else 0.

    A byte is drawn for each value, which is kept if the byte is below 256 · keep. Where that is no
    whole number, the bytes between decide by 64 more bits: the probability is `keep` to 2^-53.
    """
    mask = torch.empty_like(x, dtype=torch.uint8)
    kept = _flat(mask).numpy()
    fraction, whole = math.modf(keep * 256)
    least_dropped = int(whole)
    random = np.random.SFC64(torch.randint(2**32, (4,), device="cpu").numpy())
    for start in range(0, kept.size, DRAWN):
        some = kept[start : start + DRAWN]
        drawn = random.random_raw(-(-some.size // 8)).view(np.uint8)[: some.size]
        np.less(drawn, least_dropped, out=some.view(np.bool_))
        if fraction:
            between = np.flatnonzero(drawn == least_dropped)
            some[between] = random.random_raw(between.size) < fraction * 2**64
    return mask


class Masked(Function):
    """x · mask · scale, and its gradient dy · mask · scale; `mask` is one of `keep_mask`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        """Elementwise, in the layout of `mask`, without a mask of x's type as a whole."""
        ctx.save_for_backward(mask)
        ctx.scale = scale
        if x.stride() != mask.stride():
            x = torch.empty_like(mask, dtype=x.dtype).copy_(x)
        y = torch.empty_like(x)
        factors = x.new_empty(min(MULTIPLIED, x.numel()))
        pieces = (torch.split(_flat(one), MULTIPLIED) for one in (x, mask, y))
        for some_x, some_mask, some_y in zip(*pieces, strict=True):
            some_factors = factors[: some_mask.numel()].copy_(some_mask)
            torch.mul(some_x, some_factors, out=some_y).mul_(scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """dy · mask · scale."""
        (mask,) = ctx.saved_tensors
        dx: Tensor = Masked.apply(gradients[0], mask, ctx.scale)  # type: ignore[no-untyped-call]
        return dx, None, None


def _flat(x: Tensor) -> Tensor:
    """All values of a dense tensor in the order of memory."""
    return x.as_strided((x.numel(),), (1,))
