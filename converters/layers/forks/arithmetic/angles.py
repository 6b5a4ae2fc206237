"""SphereFace's margin on an angle, whose gradients are not its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def margin(cosine: Tensor, times: int) -> tuple[Tensor, Tensor]:
    """ψ(θ) and dψ/d cos θ for cos θ: (-1)^k · cos(mθ) - 2k with θ in [kπ/m, (k+1)π/m].

    Where θ is on a border the sign is 0, as the fork's.
    """
    c, one = cosine, torch.ones_like(cosine)
    if times == 1:
        return c, one
    sign = c.sign()
    if times == 2:
        return sign * 2 * c.square() - 1, sign * 4 * c
    if times == 3:
        inner = (c.abs() - 0.5).sign()
        shift = sign * (1 + inner) - 2
        return inner * (4 * c**3 - 3 * c) + shift, inner * (12 * c.square() - 3)
    inner = sign * (2 * c.square() - 1).sign()
    shift = 2 * sign + inner - 3
    square = c.square()
    return (
        inner * (8 * square.square() - 8 * square + 1) + shift,
        inner * (32 * c * square - 16 * c),
    )


class Margin(Function):
    """W·x with a margin for each item's own row. Source: wy1iu/sphereface
    margin_inner_product_layer.cpp.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, index: Tensor, rate: Tensor, times: int
    ) -> Tensor:
        """(N, classes) for x (N, K), weight (classes, K) with rows of length 1, rate λ (1,)."""
        y = x @ weight.T
        ctx.times = times
        ctx.save_for_backward(x, weight.clone(), index, rate)
        if times == 1:
            return y
        length = x.square().sum(1).sqrt()
        own = y.gather(1, index[:, None])[:, 0]
        psi, _ = margin(own / length, times)
        return y.scatter(1, index[:, None], ((rate * own + length * psi) / (1 + rate))[:, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """For W that of W·x; for x its own row's part as a vector of length 1, and λ's."""
        (dy,) = gradients
        x, weight, index, rate = ctx.saved_tensors
        for_weight, for_x = dy.T @ x, dy @ weight
        if ctx.times == 1:
            return for_x, for_weight, None, None, None
        length = x.square().sum(1, keepdim=True).sqrt()
        rows = weight[index]
        cosine = (x * rows).sum(1, keepdim=True) / length
        psi, slope = margin(cosine, ctx.times)
        # d(|x|·ψ) = slope · w + (ψ - slope · cos θ) / |x| · x; the fork scales both by their
        # coefficients' length.
        by_row, by_x = slope, (psi - slope * cosine) / length
        scale = (by_row.square() + by_x.square()).sqrt()
        own = dy.gather(1, index[:, None])
        changed = (by_row * rows + by_x * x) / scale - rows
        return for_x + own * changed / (1 + rate), for_weight, None, None, None
