"""LRN: in torch's operations, and a quicker way for a CPU.

That goes over parts of the batch which stay in the cache, sums channels by shifting them, and has
its own backward pass. torch's pooling over channels and its powers take eight times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

# Values at a time.
PART = 2**18


class Response(NamedTuple):
    """y = x · (k + alpha · mean x²)^-beta, the mean over `size` channels or size × size places.

    What lies outside the blob counts as 0.
    """

    size: int
    across: bool
    k: float
    alpha: float
    beta: float

    def __call__(self, x: Tensor) -> Tensor:
        """In torch's operations: (N, C, H, W) on any device."""
        squares = x * x
        if self.across:
            # Over channels as rows: torch's avg_pool3d knows no half precision on a CPU.
            rows = squares.flatten(2).unsqueeze(1)
            mean = F.avg_pool2d(rows, (self.size, 1), 1, (self.size // 2, 0)).view(x.shape)
        else:
            mean = F.avg_pool2d(squares, self.size, 1, self.size // 2)
        return x * (self.k + self.alpha * mean).pow(-self.beta)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each value's neighbours, in the layout of `values`, for a CPU."""
        if not self.across:
            last = values.contiguous(memory_format=torch.channels_last)
            pooled = F.avg_pool2d(last, self.size, 1, self.size // 2)
            return pooled if last is values else torch.empty_like(values).copy_(pooled)
        total, channels = values.clone(), values.shape[1]
        for away in range(1, min(self.size // 2, channels - 1) + 1):
            total[:, away:] += values[:, : channels - away]
            total[:, : channels - away] += values[:, away:]
        return total.div_(self.size)

    def shrink(self, base: Tensor) -> Tensor:
        """base^-beta; torch's power takes ten times as long as two roots."""
        if self.beta != 0.75:
            return base.pow(-self.beta)
        root = base.rsqrt()
        return root.mul_(root.sqrt())


class OnCpu(Function):
    """A `Response`, with dx = dy · b^-beta - 2 · alpha · beta · x · mean(dy · y / b).

    b = k + alpha · mean x²; neighbours are mutual, so that the gradient's mean is the same one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, response: Response) -> Tensor:
        """Computed in float32 at least; y has x's type and layout."""
        y = torch.empty_like(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        base, shrunk = (torch.empty_like(x, dtype=wide) for _ in range(2))
        for some_x, some_y, b, s in _parts(x, y, base, shrunk):
            some_x = some_x.to(wide)
            b.copy_(response.mean(some_x * some_x).mul_(response.alpha).add_(response.k))
            s.copy_(response.shrink(b))
            some_y.copy_(some_x * s)
        ctx.save_for_backward(x, base, shrunk)
        ctx.response = response
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """dx; where it is to have a gradient of its own, by torch's operations."""
        x, base, shrunk = ctx.saved_tensors
        response, (dy,) = ctx.response, gradients
        if torch.is_grad_enabled():
            (dx,) = torch.autograd.grad(response(x), x, dy, create_graph=True)
            return dx, None
        dx = torch.empty_like(x)
        for some_x, some_dy, some_dx, b, s in _parts(x, dy, dx, base, shrunk):
            direct = some_dy * s
            through = response.mean((direct * some_x).div_(b)).mul_(some_x)
            some_dx.copy_(direct.sub_(through, alpha=2 * response.alpha * response.beta))
        return dx, None


def _parts(*blobs: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """About PART values of each blob at a time, whole items of the batch."""
    items = max(1, PART // max(1, blobs[0][0:1].numel()))
    return zip(*(torch.split(blob, items) for blob in blobs), strict=True)
