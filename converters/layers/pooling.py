"""Pooling over spatial axes: Pooling, SPP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from converters.layers.registry import (
    ENGINE,
    BlobSpec,
    Count,
    Family,
    Layer,
    LayerState,
    Shape,
    extent,
)
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients

register = Family("#9ecae1")

FLT_MAX = 3.4028234663852886e38


class PoolingWindows(NamedTuple):
    """Pooling's geometry on the two spatial axes."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    floor: bool = False
    empty_windows: bool = False


def pooled_size(layer: Layer, size: tuple[int, int], w: PoolingWindows) -> tuple[int, int]:
    """Caffe's rounding: ceil (or floor), less a last window that starts beyond image and pad.

    With pad 0 Caffe keeps such a window. It is empty: MAX gives -FLT_MAX there, and for other
    methods, whose result is undefined, it is refused (`w.empty_windows`).
    """
    out = []
    for n, k, s, p in zip(size, w.kernel, w.stride, w.pad):
        steps = (n + 2 * p - k) / s
        length = (math.floor(steps) if w.floor else math.ceil(steps)) + 1
        if any(w.pad) and (length - 1) * s >= n + p:
            length -= 1
        if length < 1 or n + 2 * p < 1:
            raise layer.shape_error(
                f"kernel {w.kernel} with stride {w.stride} and pad {w.pad} does not fit "
                f"bottom size {size}"
            )
        if (length - 1) * s - p >= n and not w.empty_windows:
            raise layer.shape_error(
                f"kernel {w.kernel}, stride {w.stride}, pad {w.pad} put the last window outside "
                f"bottom size {size} (Caffe divides by its size, 0 or less); use a stride of at "
                "most the kernel size, or round_mode: FLOOR"
            )
        out.append(length)
    return out[0], out[1]


def _padded(x: Tensor, w: PoolingWindows, out: tuple[int, int], value: float) -> Tensor:
    """Pad so that every window of Caffe's lies inside: left by pad, right as far as they reach."""
    sides: list[int] = []
    for axis in (1, 0):
        reach = (out[axis] - 1) * w.stride[axis] + w.kernel[axis] - w.pad[axis]
        sides += [w.pad[axis], max(0, reach - x.shape[2 + axis])]
    return F.pad(x, sides, value=value) if any(sides) else x


def _trimmed(y: Tensor, out: tuple[int, int]) -> Tensor:
    """Without windows that torch makes and Caffe does not; slicing costs a copy in backward."""
    return y if tuple(y.shape[2:]) == out else y[:, :, : out[0], : out[1]]


# Fewer channels do not fill the vectors of torch's kernels for channels_last.
FEW_CHANNELS = 8


def _on_channels(pool: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`pool` of (N, C, H, W) in x's own layout.

    On a CPU torch vectorizes pooling over channels alone, and for an NCHW blob the way there and
    back costs less than that brings.
    """
    few = x.shape[1] < FEW_CHANNELS or torch.compiler.is_compiling()
    if few or x.device.type != "cpu" or not x.is_contiguous():
        return pool(x)
    last = gradients.laid_out(x, torch.channels_last)
    return gradients.laid_out(pool(last), torch.contiguous_format)


def _smallest(x: Tensor) -> float:
    """NaN if there is one; (N, C, H, W) in its memory's order, where it takes a tenth."""
    x = x.detach()
    return float((x.permute(0, 2, 3, 1) if x.stride(1) == 1 else x).min())


def torch_has_windows(size: Sequence[int], w: PoolingWindows, out: tuple[int, int]) -> bool:
    """Whether torch pools in Caffe's windows: pads up to half a kernel, and none outside."""
    axes = zip(size, w.kernel, w.stride, w.pad, out)
    return all(2 * p <= k and (o - 1) * s < n + p for n, k, s, p, o in axes)


def _maxima(
    x: Tensor, w: PoolingWindows, out: tuple[int, int], least: float
) -> tuple[Tensor, Tensor]:
    """torch's maxima in Caffe's windows, and their indices h·W + w; padding is `least`."""
    height, width = x.shape[2:]
    if torch_has_windows((height, width), w, out):
        return F.max_pool2d(
            x, w.kernel, w.stride, w.pad, ceil_mode=not w.floor, return_indices=True
        )
    x = _padded(x, w, out, least)
    y, index = F.max_pool2d(x, w.kernel, w.stride, return_indices=True)
    index = _trimmed(index, out)
    row = torch.div(index, x.shape[3], rounding_mode="floor") - w.pad[0]
    return _trimmed(y, out), row * width + index % x.shape[3] - w.pad[1]


# With fewer values their passes take less than the calls that axis after axis needs.
MANY = 1 << 16


def _maxima_alone(x: Tensor, w: PoolingWindows, out: tuple[int, int], least: float) -> Tensor:
    """`_maxima` without indices, which a gradient alone needs and torch makes in any case.

    In channels_last an axis at a time is up to four times as fast.
    """
    gradient = torch.is_grad_enabled() and x.requires_grad
    if gradient or x.numel() < MANY or x.stride(1) != 1 or x.shape[1] < FEW_CHANNELS:
        return _maxima(x, w, out, least)[0]
    y: Tensor | None = x.permute(0, 2, 3, 1)
    for axis in (0, 1):
        if y is not None:
            y = _maxima_along(y, 1 + axis, w.kernel[axis], w.stride[axis], w.pad[axis], out[axis])
    return _maxima(x, w, out, least)[0] if y is None else y.permute(0, 3, 1, 2)


def _maxima_along(
    x: Tensor, axis: int, kernel: int, stride: int, pad: int, out: int
) -> Tensor | None:
    """New maxima over windows of one axis; None where one begins, its pad aside, beyond the end."""
    length, y, own = x.shape[axis], x, False
    for place in (pad, *range(pad), *range(pad + 1, kernel)):
        # The windows whose value at this place is inside, and these values.
        first = -((place - pad) // stride) if place < pad else 0
        count = min(out - 1, (length - 1 + pad - place) // stride) + 1 - first
        if count < 1:
            continue
        start = first * stride - pad + place
        some = x[(slice(None),) * axis + (slice(start, start + (count - 1) * stride + 1, stride),)]
        if place == pad:
            if count < out:
                return None
            y = some
        elif count == out and not own:
            y, own = torch.maximum(y, some), True
        else:
            y, own = y if own else y.clone(), True
            view = y.narrow(axis, first, count)
            torch.maximum(view, some, out=view)
    return y if own else y.clone()


def max_pool(layer: Layer, x: Tensor, w: PoolingWindows) -> Tensor:
    """Maximum over each window; NaN never wins.

    Where nothing wins, which -inf does not either, the result is -FLT_MAX, and no gradient passes:
    Caffe's GPU code. Its CPU code writes a gradient before the blob's memory.
    """
    out = pooled_size(layer, (x.shape[2], x.shape[3]), w)
    least = _least(x)
    # torch hands a NaN on: where all its maxima are above `least`, Caffe's are the same. To look at
    # them would stall a GPU, and compiled code cannot.
    if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling():
        y = _on_channels(lambda x: _maxima_alone(x, w, out, least), x)
        if _smallest(y) > least:
            return y
    return _strict_maxima(x, w, out, least)[0]


def max_pool_with_mask(layer: Layer, x: Tensor, w: PoolingWindows) -> tuple[Tensor, Tensor]:
    """`max_pool`, and each maximum's index h·W + w: the first of equals, -1 where nothing wins."""
    out = pooled_size(layer, (x.shape[2], x.shape[3]), w)
    least = _least(x)
    y, index = _strict_maxima(x, w, out, least)
    # Half precision does not hold every index.
    exact = torch.promote_types(y.dtype, torch.float32)
    return y, torch.where(y > least, index, -1).to(exact)


def _least(x: Tensor) -> float:
    """What Caffe presets a maximum with, as far as x's type holds it."""
    return -FLT_MAX if x.dtype == torch.float32 else max(-FLT_MAX, torch.finfo(x.dtype).min)


def _strict_maxima(
    x: Tensor, w: PoolingWindows, out: tuple[int, int], least: float
) -> tuple[Tensor, Tensor]:
    """As `_maxima`; neither a NaN nor a value of `least` or below wins, or takes a gradient."""
    return _maxima(torch.where(x > least, x, least), w, out, least)


def average_pool(layer: Layer, x: Tensor, w: PoolingWindows) -> Tensor:
    """Mean over each window; padding counts in the divisor, what reaches beyond it does not."""
    size = (x.shape[2], x.shape[3])
    out = pooled_size(layer, size, w)
    if w.kernel == size and out == (1, 1) and not any(w.pad):
        return x.mean((2, 3), keepdim=True)
    pad, counted = w.pad, any(w.pad)
    # torch.compile's backward pass divides by the wrong number where padding counts and a window
    # reaches beyond it (torch 2.13).
    beyond = any(2 * p > k for p, k in zip(w.pad, w.kernel))
    if beyond or (counted and torch.compiler.is_compiling()):
        x, pad, counted = F.pad(x, (w.pad[1], w.pad[1], w.pad[0], w.pad[0])), (0, 0), False
    even = w.kernel == w.stride and not any(n % k for n, k in zip(size, w.kernel))
    if even and not any(w.pad) and x.device.type == "cuda" and not torch.compiler.is_compiling():
        tiles: Tensor = gradients.TileMeans.apply(x, w.kernel)  # type: ignore[no-untyped-call]
        return tiles
    ceil = not w.floor
    y = _on_channels(lambda x: F.avg_pool2d(x, w.kernel, w.stride, pad, ceil, counted), x)
    return _trimmed(y, out)


def stochastic_pool(layer: Layer, x: Tensor, w: PoolingWindows, training: bool) -> Tensor:
    """TRAIN: one value of the window, drawn in proportion to it; TEST: Σx² / Σx (0 for Σx = 0).

    Source: Caffe layers/pooling_layer.cu (its CPU code has none).
    """
    out = pooled_size(layer, (x.shape[2], x.shape[3]), w)
    windows = _padded(x, w, out, 0.0).unfold(2, w.kernel[0], w.stride[0])
    windows = windows.unfold(3, w.kernel[1], w.stride[1])[:, :, : out[0], : out[1]].flatten(4)
    total = windows.sum(-1)
    if not training:
        return (windows * windows).sum(-1) / torch.where(total == 0, torch.ones_like(total), total)
    threshold = torch.rand_like(total) * total.detach()
    reached = windows.detach().cumsum(-1) >= threshold.unsqueeze(-1)
    chosen = reached.to(torch.uint8).argmax(-1, keepdim=True)
    return windows.gather(-1, chosen).squeeze(-1)


@register("Pooling", "pooling_param")
class Pooling(Layer):
    """MAX (with an optional mask top), AVE or STOCHASTIC pooling of (N, C, H, W).

    Source: Caffe layers/pooling_layer.cpp.
    """

    tops = Count(1, 2)
    in_place = False
    of_forks = ("pooling_param.ceil_mode",)
    ignored = {"pooling_param.engine": ENGINE}
    refused = {
        "padding with STOCHASTIC": "Caffe pads MAX and AVE alone",
        "AVE or STOCHASTIC with a last window outside the image": "with pad 0 and a stride larger "
        "than the kernel Caffe divides by its size, 0 or less",
    }
    differences = (
        "a MAX window outside the image, or of NaN and -inf alone, gives -FLT_MAX, mask -1 and no "
        "gradient, as in Caffe's GPU code; its CPU code writes that gradient before the blob"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.pooling_param
        sized = param.HasField("kernel_size")
        both = param.HasField("kernel_h") and param.HasField("kernel_w")
        either = param.HasField("kernel_h") or param.HasField("kernel_w")
        if param.global_pooling:
            if sized or either:
                raise self.error("global_pooling takes the bottom's size: leave kernel_size out")
        elif sized == either or (either and not both):
            raise self.error("give kernel_size, or kernel_h and kernel_w")
        for name in ("pad", "stride"):
            pair = [param.HasField(f"{name}_h"), param.HasField(f"{name}_w")]
            if (param.HasField(name) and any(pair)) or any(pair) != all(pair):
                raise self.error(f"give {name}, or {name}_h and {name}_w")
        if len(self.param.top) == 2 and param.pool != pb.PoolingParameter.MAX:
            raise self.error("only MAX pooling has a second top, the mask")
        # Read here: torch.compile traces forward and cannot ask a message for its fields.
        p, given = param, param.HasField
        self.kernel = (p.kernel_size,) * 2 if sized else (p.kernel_h, p.kernel_w)
        self.pad = (p.pad_h, p.pad_w) if given("pad_h") else (p.pad, p.pad)
        self.stride = (p.stride_h, p.stride_w) if given("stride_h") else (p.stride, p.stride)
        self.method, self.whole = p.pool, p.global_pooling
        # Where forks have both, Caffe's own field wins.
        by_fork = given("ceil_mode") and not given("round_mode")
        self.floor = not p.ceil_mode if by_fork else p.round_mode == pb.PoolingParameter.FLOOR
        self.has_mask = len(self.param.top) == 2
        w = self.windows((2**20, 2**20))
        if param.global_pooling and (w.pad != (0, 0) or w.stride != (1, 1)):
            raise self.error(
                f"global_pooling needs pad 0 and stride 1, got pad {w.pad} and stride {w.stride}"
            )
        if min(w.kernel) < 1 or min(w.stride) < 1:
            raise self.error(f"kernel {w.kernel} and stride {w.stride} must be positive")
        if any(w.pad) and param.pool == pb.PoolingParameter.STOCHASTIC:
            raise self.error("padding is implemented for MAX and AVE pooling alone")
        if any(p >= k for p, k in zip(w.pad, w.kernel)):
            raise self.error(f"pad {w.pad} must be smaller than kernel {w.kernel}")
        return ()

    def detail(self) -> str:
        param = self.param.pooling_param
        kind = pb.PoolingParameter.PoolMethod.Name(param.pool)
        if param.global_pooling:
            return f"{kind} global"
        stride = f", s={extent(self.stride)}" if set(self.stride) != {1} else ""
        return f"{kind} {extent(self.kernel)}{stride}"

    def windows(self, size: tuple[int, int]) -> PoolingWindows:
        """The geometry for an image of this size."""
        kernel = size if self.whole else self.kernel
        empty = self.method == pb.PoolingParameter.MAX
        return PoolingWindows(kernel, self.stride, self.pad, self.floor, empty)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 4 axes (N, C, H, W)"
            )
        size = (bottoms[0][2], bottoms[0][3])
        out = pooled_size(self, size, self.windows(size))
        return [(*bottoms[0][:2], *out)] * len(self.param.top)

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        w = self.windows((x.shape[2], x.shape[3]))
        if self.method == pb.PoolingParameter.AVE:
            return average_pool(self, x, w)
        if self.method == pb.PoolingParameter.STOCHASTIC:
            return stochastic_pool(self, x, w, state.training)
        return max_pool_with_mask(self, x, w) if self.has_mask else max_pool(self, x, w)


@register("SPP", "spp_param")
class SPP(Layer):
    """Spatial pyramid pooling: level l pools into 2^l × 2^l bins; all are flattened and joined.

    kernel = ceil(size / bins), pad = (kernel·bins - size + 1) / 2, stride = kernel; a pyramid of
    height 1 stays (N, C, 1, 1). Source: Caffe layers/spp_layer.cpp.
    """

    in_place = False
    ignored = {"spp_param.engine": ENGINE}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        height = self.param.spp_param.pyramid_height
        if not 1 <= height <= 16:
            raise self.error(f"pyramid_height {height} must be from 1 to 16")
        return ()

    def detail(self) -> str:
        param = self.param.spp_param
        return f"{pb.SPPParameter.PoolMethod.Name(param.pool)}, {param.pyramid_height} levels"

    def levels(self, size: tuple[int, int]) -> list[PoolingWindows]:
        levels = []
        empty = self.param.spp_param.pool == pb.SPPParameter.MAX
        for level in range(self.param.spp_param.pyramid_height):
            bins = 2**level
            kernel = tuple(-(-n // bins) for n in size)
            pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, size))
            if any(p >= k for p, k in zip(pad, kernel)):
                raise self.shape_error(
                    f"level {level} of the pyramid needs {bins} × {bins} bins, too many for "
                    f"bottom size {size}"
                )
            levels.append(
                PoolingWindows(
                    (kernel[0], kernel[1]), (kernel[0], kernel[1]), (pad[0], pad[1]), False, empty
                )
            )
        return levels

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 4 axes (N, C, H, W)"
            )
        n, channels, height, width = bottoms[0]
        sizes = [pooled_size(self, (height, width), w) for w in self.levels((height, width))]
        if len(sizes) == 1:
            return [(n, channels, *sizes[0])]
        return [(n, sum(channels * h * w for h, w in sizes))]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        pool: dict[int, Callable[[PoolingWindows], Tensor]] = {
            pb.SPPParameter.MAX: lambda w: max_pool(self, x, w),
            pb.SPPParameter.AVE: lambda w: average_pool(self, x, w),
            pb.SPPParameter.STOCHASTIC: lambda w: stochastic_pool(self, x, w, state.training),
        }
        levels = [pool[self.param.spp_param.pool](w) for w in self.levels((x.shape[2], x.shape[3]))]
        return levels[0] if len(levels) == 1 else torch.cat([y.flatten(1) for y in levels], 1)
