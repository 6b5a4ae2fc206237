"""Convolution, Deconvolution and Im2col over any number of spatial axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

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

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

register = Family("#9ecae1")

Place: TypeAlias = tuple[EllipsisType | int | slice, ...]


class Windows(NamedTuple):
    """Kernel, stride, pad and dilation per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]


class _Convolving(Layer):
    """What Convolution, Deconvolution and Im2col share (base_conv_layer.cpp LayerSetUp)."""

    equal_bottoms_and_tops = True
    bottoms = Count(1, None)
    tops = Count(1, None)

    def windows(self, bottom: Shape) -> Windows:
        """Read kernel, stride, pad and dilation for a bottom of this shape."""
        self.channel_axis = self.axis(self.stated_axis(), len(bottom))
        axes = len(bottom) - self.channel_axis - 1
        windows = Windows(
            self._per_axis("kernel", "kernel_size", axes, None),
            self._per_axis("stride", "stride", axes, 1),
            self._per_axis("pad", "pad", axes, 0),
            self._per_axis("dilation", "dilation", axes, 1),
        )
        for name in ("kernel", "stride", "dilation"):
            if any(size <= 0 for size in getattr(windows, name)):
                raise self.error(f"{name} {getattr(windows, name)} must be positive on every axis")
        return windows

    def stated_axis(self) -> int:
        """The axis of the channels as the settings have it: a negative one counts from the end."""
        return self.param.convolution_param.axis

    def _per_axis(
        self, name: str, repeated: str, axes: int, default: int | None
    ) -> tuple[int, ...]:
        param = self.param.convolution_param
        height_width = (f"{name}_h", f"{name}_w")
        values = list(getattr(param, repeated))
        if name != "dilation" and any(param.HasField(field) for field in height_width):
            if axes != 2:
                raise self.error(
                    f"{name}_h and {name}_w need 2 spatial axes, the bottom has {axes}"
                )
            if values:
                raise self.error(f"give {repeated} or {name}_h and {name}_w, not both")
            return tuple(getattr(param, field) for field in height_width)
        if not values and default is not None:
            values = [default]
        if len(values) not in (1, axes):
            raise self.error(
                f"{repeated} is given {len(values)} times; give it once, or once for each of the "
                f"{axes} spatial axes"
            )
        return tuple(values * axes if len(values) == 1 else values)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The top's spatial size: (size + 2·pad - extent) / stride + 1, rounded towards 0.

        The kernel's extent is dilation·(kernel-1) + 1. One that is less than a stride too long for
        the image still has its window, with zeros beyond the end (`reached`).
        """
        w = self.w
        sizes = tuple(
            int((n + 2 * p - (d * (k - 1) + 1)) / s) + 1
            for n, k, s, p, d in zip(size, w.kernel, w.stride, w.pad, w.dilation)
        )
        if any(n < 1 for n in sizes):
            raise self.shape_error(
                f"kernel {w.kernel} (dilation {w.dilation}) does not fit bottom size "
                f"{tuple(size)} with pad {w.pad}"
            )
        return sizes

    w: Windows
    channel_axis: int

    def detail(self) -> str:
        return extent(self.w.kernel)

    def as_batch(self, x: Tensor) -> Tensor:
        """Flatten the axes before the channels into one; give at least one spatial axis."""
        if self.channel_axis != 1:
            x = x.reshape(-1, *x.shape[self.channel_axis :])
        return x if self.w.kernel else x.unsqueeze(-1)

    def reached(self, x: Tensor) -> Tensor:
        """`x` (N, C, …), with zeros at the end of an axis that is too short for one window."""
        w = self.w
        missing = [
            max(0, d * (k - 1) + 1 - n - 2 * p)
            for n, k, p, d in zip(x.shape[2:], w.kernel, w.pad, w.dilation)
        ]
        return F.pad(x, [m for axis in reversed(missing) for m in (0, axis)]) if any(missing) else x

    def from_batch(self, y: Tensor, x: Tensor) -> Tensor:
        """Undo `as_batch` on a result for bottom `x`."""
        if not self.w.kernel:
            y = y.squeeze(-1)
        return (
            y if self.channel_axis == 1 else y.reshape(*x.shape[: self.channel_axis], *y.shape[1:])
        )


class _Weighted(_Convolving):
    """What Convolution and Deconvolution share: grouped weights, an optional bias, several bottoms.

    torch convolves up to three spatial axes; more are a sum over the kernel's places.
    """

    ignored = {
        "convolution_param.engine": ENGINE,
        "convolution_param.force_nd_im2col": "chooses Caffe's N-d im2col code for the same result",
    }
    transposed: ClassVar[bool]

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.convolution_param
        self.w = self.windows(bottoms[0])
        self.channels = channels = bottoms[0][self.channel_axis]
        self.out, self.group = self.outputs_and_groups(channels)
        if self.out <= 0:
            raise self.error(f"num_output {self.out} must be positive")
        if self.group <= 0:
            raise self.error(f"group {self.group} must be positive")
        for label, number in (("bottom channels", channels), ("num_output", self.out)):
            if number % self.group:
                raise self.error(f"{label} {number} is not divisible by group {self.group}")
        rows, columns = (channels, self.out) if self.transposed else (self.out, channels)
        shape = (rows, columns // self.group, *self.w.kernel)
        specs = [BlobSpec("weight", shape, param.weight_filler)]
        if param.bias_term:
            specs.append(BlobSpec("bias", (self.out,), param.bias_filler))
        return specs

    def outputs_and_groups(self, channels: int) -> tuple[int, int]:
        """The top's channels, and how many groups they are in, for the bottom's `channels`."""
        return self.param.convolution_param.num_output, self.param.convolution_param.group

    def detail(self) -> str:
        parts = [extent(self.w.kernel), str(self.out), f"g={self.group}" if self.group > 1 else ""]
        return ", ".join(filter(None, parts))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.require_one_shape(bottoms)
        if len(bottoms[0]) != self.channel_axis + 1 + len(self.w.kernel):
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} has no longer "
                f"{len(self.w.kernel)} spatial axes"
            )
        if bottoms[0][self.channel_axis] != self.channels:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} has {bottoms[0][self.channel_axis]} "
                f"channels on axis {self.channel_axis}, the weights take {self.channels}"
            )
        size = self.output_size(bottoms[0][self.channel_axis + 1 :])
        return [(*bottoms[0][: self.channel_axis], self.out, *size)] * len(bottoms)

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = tuple(self._one(state.blobs, x) for x in bottoms)
        return tops[0] if len(tops) == 1 else tops

    def _one(self, blobs: list[Tensor], x: Tensor) -> Tensor:
        weight, bias = blobs[0], blobs[1] if len(blobs) > 1 else None
        w = self.w
        if not w.kernel:
            weight, w = weight.unsqueeze(-1), Windows((1,), (1,), (0,), (1,))
        batch = self.as_batch(x)
        if len(w.kernel) <= 3:
            return self.from_batch(self.convolve(batch, weight, bias, w), x)
        y = self.convolve_many_axes(batch, weight, w)
        y = y if bias is None else y + bias.view(-1, *(1,) * len(w.kernel))
        return self.from_batch(y, x)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, w: Windows) -> Tensor:
        """The top of (N, C, …) with up to three spatial axes, by torch."""
        raise NotImplementedError

    def convolve_many_axes(self, x: Tensor, weight: Tensor, w: Windows) -> Tensor:
        """The same for any number of axes, without bias: one place of the kernel after another."""
        raise NotImplementedError

    def places(self, w: Windows, steps: Sequence[int]) -> Iterator[tuple[Place, Place]]:
        """Each place of the kernel, and where its `steps` per axis lie in the larger, padded blob.

        Both are indices behind two leading axes.
        """
        for place in itertools.product(*map(range, w.kernel)):
            starts = [k * d for k, d in zip(place, w.dilation)]
            slices = [
                slice(start, start + s * (n - 1) + 1, s)
                for start, s, n in zip(starts, w.stride, steps)
            ]
            yield (..., *place), (..., *slices)

    def by_group(self, weight: Tensor, x: Tensor) -> Tensor:
        """Σ_c weight (out, in / group) · x (N, in, …), each group of channels on its own."""
        weight = weight.reshape(self.group, -1, weight.shape[1])
        grouped = x.reshape(x.shape[0], self.group, -1, math.prod(x.shape[2:]))
        return (weight @ grouped).reshape(x.shape[0], -1, *x.shape[2:])


@register("Convolution", "convolution_param")
class Convolution(_Weighted):
    """Cross-correlation with grouped weights (out, in / group, k…); several bottoms share them.

    Source: Caffe layers/base_conv_layer.cpp, conv_layer.cpp.
    """

    counts_as_depth = True
    transposed = False

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, w: Windows) -> Tensor:
        function = (F.conv1d, F.conv2d, F.conv3d)[len(w.kernel) - 1]
        return function(self.reached(x), weight, bias, w.stride, w.pad, w.dilation, self.group)

    def convolve_many_axes(self, x: Tensor, weight: Tensor, w: Windows) -> Tensor:
        size = self.output_size(x.shape[2:])
        x = F.pad(self.reached(x), [p for pad in reversed(w.pad) for p in (pad, pad)])
        y = x.new_zeros(x.shape[0], self.out, *size)
        for place, steps in self.places(w, size):
            y = y + self.by_group(weight[place], x[steps])
        return y

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        per_output = self.channels // self.group * math.prod(self.w.kernel)
        return sum(math.prod(top) for top in tops) * per_output


@register("Deconvolution", "convolution_param")
class Deconvolution(_Weighted):
    """Transposed convolution with weights (in, out / group, k…); the bias fans are Caffe's.

    top size = stride·(size-1) + dilation·(kernel-1) + 1 - 2·pad. Source: layers/deconv_layer.cpp.
    """

    transposed = True

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        w = self.w
        sizes = tuple(
            s * (n - 1) + d * (k - 1) + 1 - 2 * p
            for n, k, s, p, d in zip(size, w.kernel, w.stride, w.pad, w.dilation)
        )
        if any(n < 1 for n in sizes):
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} of size {tuple(size)} gives top size {sizes} with "
                f"kernel {w.kernel}, stride {w.stride}, pad {w.pad}"
            )
        return sizes

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, w: Windows) -> Tensor:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(w.kernel) - 1]
        return function(x, weight, bias, w.stride, w.pad, 0, self.group, w.dilation)

    def convolve_many_axes(self, x: Tensor, weight: Tensor, w: Windows) -> Tensor:
        size = self.output_size(x.shape[2:])
        padded = [n + 2 * p for n, p in zip(size, w.pad)]
        y = x.new_zeros(x.shape[0], self.out, *padded)
        # (in, out / group) as the (out, in / group) that `by_group` takes.
        weight = weight.reshape(self.group, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        for place, steps in self.places(w, x.shape[2:]):
            y[steps] += self.by_group(weight[place], x)
        inside: Place = (..., *(slice(p, p + n) for p, n in zip(w.pad, size)))
        return y[inside]

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        per_input = self.out // self.group * math.prod(self.w.kernel)
        return sum(math.prod(bottom) for bottom in bottoms) * per_input


@register("Im2col", "convolution_param")
class Im2col(_Convolving):
    """The columns that a convolution multiplies: (N, C·kh·kw, oh, ow). Source: im2col_layer.cpp."""

    equal_bottoms_and_tops = False
    bottoms = Count(1, 1)
    tops = Count(1, 1)
    in_place = False
    ignored = {
        f"convolution_param.{name}": "Im2col reads only kernel, stride, pad, dilation and axis"
        for name in ["num_output", "bias_term", "group", "weight_filler", "bias_filler"]
    } | _Weighted.ignored

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.w = self.windows(bottoms[0])
        if not self.w.kernel:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} has no axis after "
                f"channel axis {self.channel_axis}"
            )
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = self.channel_axis
        size = self.output_size(bottoms[0][axis + 1 :])
        channels = bottoms[0][axis] * math.prod(self.w.kernel)
        return [(*bottoms[0][:axis], channels, *size)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = self.reached(self.as_batch(bottoms[0]))
        axes = len(self.w.kernel)
        x = F.pad(x, [p for pad in reversed(self.w.pad) for p in (pad, pad)])
        for axis, (k, s, d) in enumerate(zip(self.w.kernel, self.w.stride, self.w.dilation)):
            x = x.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::1]
            x = x[..., torch.arange(0, d * (k - 1) + 1, d, device=x.device)]
        # (N, C, o…, k…) → (N, C, k…, o…)
        x = x.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))
        y = x.reshape(x.shape[0], -1, *x.shape[2 + axes :])
        return self.from_batch(y, bottoms[0])
