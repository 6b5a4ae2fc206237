"""Matrix products by oneDNN, which torch leaves to another library outside convolutions.

The operations are those that torch.compile uses; where torch lacks them, or they do not take a
type, there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

operations: Any = torch.ops.mkldnn
_NEEDED = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_convolution_pointwise_",
    "_reorder_linear_weight",
    "_linear_pointwise",
)
_THERE: bool = torch._C._has_mkldnn and all(hasattr(operations, name) for name in _NEEDED)
ROWS = 4
"""With fewer a product is bound by memory, and torch's own has less to do before it begins."""
LARGE = 1 << 20
"""Weights from which on a product gains more than its longer way to begin costs."""
# Rows up to which the gradients' products gain too.
_FOR_INPUTS, _FOR_WEIGHTS = 64, 16


def takes(x: Tensor) -> bool:
    """Whether oneDNN's operations are there and take tensors of this kind."""
    ours = x.device.type == "cpu" and x.dtype == torch.float32
    return ours and _THERE and bool(torch.backends.mkldnn.enabled)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x·Wᵀ + b of (…, K) and (M, K): `F.linear`, by oneDNN where that is faster.

    On an AMD processor AlexNet's products take 0.5 to 0.6 times as long so.
    """
    if weight.numel() < LARGE or not _gains(x, weight):
        return F.linear(x, weight, bias)
    y: Tensor = Product.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
    return y if x.dim() == 2 else y.view(*x.shape[:-1], -1)


def _gains(x: Tensor, weight: Tensor) -> bool:
    return (
        x.shape[:-1].numel() >= ROWS
        and takes(x)
        and weight.dtype == x.dtype
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


class Product(Function):
    """x·Wᵀ + b of (N, K), (M, K) and, unless None, (M,)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, M)."""
        y: Tensor = operations._linear_pointwise(x, weight, bias, "none", [], "")
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Kept are the two factors."""
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """dy·W, dyᵀ·x and Σ dy, differentiable again."""
        (dy,), (x, weight) = gradients, ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _linear_of(len(x) <= _FOR_INPUTS)(dy, weight.t(), None) if for_x else None,
            _linear_of(len(x) <= _FOR_WEIGHTS)(dy.t(), x.t(), None) if for_weight else None,
            dy.sum(0) if for_bias else None,
        )


def _linear_of(few: bool) -> Callable[[Tensor, Tensor, None], Tensor]:
    return Product.apply if few else F.linear
