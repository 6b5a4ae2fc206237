"""Convolutions and products on weights packed for oneDNN, with the sum and the ReLU behind them.

The operations are those that torch.compile uses on frozen weights (`converters.layers.onednn`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from converters.layers.convolution import Convolution
from converters.layers.linear import InnerProduct
from converters.layers.onednn import operations


def packed_convolution(
    layer: Convolution, shape: Sequence[int], weight: Tensor, bias: Tensor | None, relu: bool
) -> Callable[..., Tensor]:
    """A function of a bottom (N, C, H, W), of about `shape`, and what is added to the top."""
    w, group = layer.w, layer.group
    pad, stride, dilation = list(w.pad), list(w.stride), list(w.dilation)
    packed = operations._reorder_convolution_weight(
        weight.contiguous(), pad, stride, dilation, group, list(shape)
    )
    alone = operations._convolution_pointwise.default
    onto = operations._convolution_pointwise_.binary
    settings = (packed, bias, pad, stride, dilation, group)
    unary = "relu" if relu else "none"
    behind_sum = "relu" if relu else None
    channels_last = torch.channels_last
    least = [d * (k - 1) + 1 - 2 * p for k, p, d in zip(w.kernel, w.pad, w.dilation)]

    def run(x: Tensor, *added: Tensor) -> Tensor:
        size = x.shape
        if size[2] < least[0] or size[3] < least[1]:
            x = layer.reached(x)
        if not x.is_contiguous(memory_format=channels_last):
            x = x.contiguous(memory_format=channels_last)
        if not added:
            y: Tensor = alone(x, *settings, unary, [], "")
            return y
        # It is added in the memory of what is added.
        (other,) = added
        if not other.is_contiguous(memory_format=channels_last):
            other = other.contiguous(memory_format=channels_last)
        y = onto(other, x, *settings, "add", 1.0, behind_sum, [], None)
        return y

    return run


def packed_product(
    layer: InnerProduct, weight: Tensor, bias: Tensor | None, relu: bool
) -> Callable[..., Tensor]:
    """A function of a bottom (N, …)."""
    packed = operations._reorder_linear_weight(weight.contiguous(), None)
    start, unary = layer.start, "relu" if relu else "none"
    product = operations._linear_pointwise.default

    def run(x: Tensor) -> Tensor:
        y: Tensor = product(x.flatten(start), packed, bias, unary, [], "")
        return y

    return run
