"""Backward passes that autograd would not take: Caffe's own, and quicker ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function


class MeanVarianceNormalization(Function):
    """MVN over rows; the gradient takes eps for small. Source: Caffe layers/mvn_layer.cpp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        """(x - mean) / (sqrt(var) + eps) along axis 1 of (rows, values)."""
        centred = x - x.mean(1, keepdim=True)
        scale = centred.square().mean(1, keepdim=True).sqrt() + eps
        y = centred / scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """(dy - mean(dy) - y · mean(dy · y)) / (sqrt(var) + eps)."""
        (dy,) = gradients
        y, scale = ctx.saved_tensors
        projected = y * (dy * y).mean(1, keepdim=True)
        return (dy - dy.mean(1, keepdim=True) - projected) / scale, None


class UnstableProduct(Function):
    """A product whose gradient is y / x · dy, NaN at 0. Source: layers/eltwise_layer.cpp."""

    @staticmethod
    def forward(ctx: Any, *factors: Tensor) -> Tensor:
        """The product of equally shaped factors."""
        y = factors[0]
        for factor in factors[1:]:
            y = y * factor
        ctx.save_for_backward(y, *factors)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """y / x · dy for each factor x."""
        (dy,) = gradients
        y, *factors = ctx.saved_tensors
        return tuple(y / factor * dy for factor in factors)


class ContrastiveDistance(Function):
    """Σ (margin - d)₊² with Caffe's gradient, which divides by d + 1e-4."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, dissimilar: Tensor, margin: float) -> Tensor:
        """Per row of (N, C): max(margin - |difference|, 0)² where `dissimilar`, else 0."""
        distance = difference.square().sum(1).sqrt()
        gap = (margin - distance).clamp(min=0) * dissimilar
        ctx.save_for_backward(difference, distance, gap)
        return gap.square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """-2 · gap · difference / (d + 1e-4)."""
        (dy,) = gradients
        difference, distance, gap = ctx.saved_tensors
        factor = -2 * dy * gap / (distance + 1e-4)
        return factor.unsqueeze(1) * difference, None, None


class Floor(Function):
    """max(x, floor), with a gradient that the floor does not stop.

    Source: Caffe layers/softmax_loss_layer.cpp, infogain_loss_layer.cpp and
    multinomial_logistic_loss_layer.cpp, whose backward passes ignore the clamp of the forward one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: float) -> Tensor:
        """Elementwise."""
        return x.clamp(min=floor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """dy."""
        return gradients[0], None


class Power(Function):
    """x ^ power, with gradient power · y / x: NaN at 0. Source: Caffe layers/power_layer.cpp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: float) -> Tensor:
        """Elementwise."""
        y = x.pow(power)
        ctx.save_for_backward(x, y)
        ctx.power = power
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """dy · power · y / x."""
        (dy,) = gradients
        x, y = ctx.saved_tensors
        return dy * (y / x * ctx.power), None


class Layout(Function):
    """(N, C, H, W) from NCHW to channels_last or back, its gradient the other way.

    A copy of torch's own leaves the gradient in the layout of what is behind it.
    """

    @staticmethod
    def forward(x: Tensor, layout: torch.memory_format) -> Tensor:
        """x, laid out as `layout` says."""
        return x.contiguous(memory_format=layout)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Kept is the layout to go back to."""
        last = inputs[1] == torch.channels_last
        ctx.back = torch.contiguous_format if last else torch.channels_last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """dy, laid out as x was."""
        return laid_out(gradients[0], ctx.back), None


def laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """`Layout` of x."""
    y: Tensor = Layout.apply(x, layout)  # type: ignore[no-untyped-call]
    return y


def plain(x: Tensor) -> Tensor:
    """x with its values in the order of its axes, which flattening it then need not copy.

    A gradient comes back in channels_last if x is: pooling takes a multiple of the time otherwise.
    """
    if x.dim() != 4 or x.is_contiguous() or not torch.is_grad_enabled():
        return x
    last = x.is_contiguous(memory_format=torch.channels_last)
    if not last or torch.compiler.is_compiling():
        return x
    return laid_out(x, torch.contiguous_format)


class TileMeans(Function):
    """Means over tiles that cover (N, C, H, W), with the derivative that autograd would take.

    A GPU writes it as one copy; torch's own kernel asks of each value which windows it lies in.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, tile: tuple[int, int]) -> Tensor:
        """(N, C, H / h, W / w) for tiles (h, w), in the layout of x."""
        ctx.tile, ctx.last = tile, x.is_contiguous(memory_format=torch.channels_last)
        return torch.nn.functional.avg_pool2d(x, tile)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """dy / (h · w) all over its tile."""
        (dy,), (down, across) = gradients, ctx.tile
        dx = dy / (down * across)
        if ctx.last:
            rows = dx.permute(0, 2, 3, 1).unsqueeze(2).unsqueeze(4)
            n, height, _, width, _, channels = rows.shape
            whole = rows.expand(n, height, down, width, across, channels)
            return whole.reshape(n, height * down, -1, channels).permute(0, 3, 1, 2), None
        n, channels, height, width = dx.shape
        whole = dx[..., None, :, None].expand(n, channels, height, down, width, across)
        return whole.reshape(n, channels, height * down, -1), None


class PythonCall(Function):
    """A user's Python layer, forward and backward, on NumPy copies of the tensors.

    `layer` is a `converters.layers.python_layer.Python`. Source: Caffe layers/python_layer.hpp.
    """

    @staticmethod
    def forward(
        ctx: Any, layer: Any, bottoms: int, like: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """The tops, with the type and device of `like`; `tensors` are bottoms, then blobs."""
        arrays = [_array(tensor) for tensor in tensors]
        dtype = _array(torch.empty((), dtype=like.dtype)).dtype
        tops = layer.run_forward(arrays[:bottoms], arrays[bottoms:], dtype)
        for tensor, before, blob in zip(tensors[bottoms:], arrays[bottoms:], layer.user.blobs):
            if not np.array_equal(before, blob.data, equal_nan=True):
                tensor.copy_(torch.from_numpy(blob.data))
        found = tuple(torch.from_numpy(top).to(like) for top in tops)
        ctx.layer, ctx.bottoms = layer, bottoms
        ctx.save_for_backward(*tensors[:bottoms], *found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """What the layer's backward leaves in the diffs of its bottoms and blobs."""
        saved = [_array(tensor) for tensor in ctx.saved_tensors]
        needed = ctx.needs_input_grad[3:]
        found = ctx.layer.run_backward(
            saved[: ctx.bottoms],
            saved[ctx.bottoms :],
            [_array(gradient) for gradient in gradients],
            needed[: ctx.bottoms],
        )
        like = gradients[0]
        diffs = (torch.from_numpy(diff.copy()).to(like) for diff in found)
        return (None, None, None, *(diff if n else None for diff, n in zip(diffs, needed)))


def _array(tensor: Tensor) -> np.ndarray:
    """A copy for NumPy, which has no bfloat16: float32 in its place."""
    host = tensor.detach().cpu()
    array: np.ndarray = (host.float() if host.dtype is torch.bfloat16 else host).numpy()
    return array
