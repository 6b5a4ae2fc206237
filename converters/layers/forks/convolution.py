"""Forks' convolutions and poolings: by channel, and over any number of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.convolution import Convolution, Windows
from converters.layers.registry import ENGINE, BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

register = Family("#9ecae1")

FIXED = "there is one output, and one group, for each channel of the bottom"


@register("DepthwiseConvolution", "convolution_param")
class DepthwiseConvolution(Convolution):
    """A Convolution with a group for each channel of the bottom, unless `group` says another.

    Source: yonghenglh6/DepthwiseConvolution depthwise_conv_layer.cpp.
    """

    origin = "DepthwiseConvolution"
    differences = (
        "without `group` there are as many groups as channels; the fork's CPU code takes 1, and "
        "its GPU code computes one group a channel whatever is said"
    )

    def outputs_and_groups(self, channels: int) -> tuple[int, int]:
        param = self.param.convolution_param
        return param.num_output, param.group if param.HasField("group") else channels


@register("ConvolutionDepthwise", "convolution_param")
class ConvolutionDepthwise(Convolution):
    """Each channel convolved with a kernel of its own: weights (C, 1, kh, kw).

    Source: Caffe pull request 5665, conv_dw_layer.cpp.
    """

    origin = "Caffe pull request 5665"
    bottoms = Count(1, 1)
    tops = Count(1, 1)
    ignored = {
        "convolution_param.num_output": FIXED,
        "convolution_param.group": FIXED,
        "convolution_param.axis": "the channels are axis 1",
    } | Convolution.ignored

    def outputs_and_groups(self, channels: int) -> tuple[int, int]:
        return channels, channels

    def stated_axis(self) -> int:
        return 1


@register("NdConvolution", "convolution_param")
class NdConvolution(Convolution):
    """A Convolution whose `kernel_shape`, `stride_shape` and `pad_shape` have a dim for each axis.

    Source: chuckcho/video-caffe cudnn_ndconv_layer.cpp.
    """

    origin = "video-caffe"
    of_forks = tuple(f"convolution_param.{name}_shape" for name in ("kernel", "stride", "pad"))
    ignored = {
        f"convolution_param.{name}": "kernel_shape, stride_shape and pad_shape say it"
        for name in (
            *("kernel_size", "stride", "pad"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
        )
    } | {
        "convolution_param.axis": "the channels are axis 1",
        "convolution_param.dilation": "the fork has none here",
        **Convolution.ignored,
    }

    def stated_axis(self) -> int:
        return 1

    def windows(self, bottom: Shape) -> Windows:
        self.channel_axis = self.axis(1, len(bottom))
        param, axes = self.param.convolution_param, len(bottom) - 2
        kernel = shape_of(self, param, "kernel_shape", axes, None)
        stride = shape_of(self, param, "stride_shape", axes, 1)
        return Windows(kernel, stride, shape_of(self, param, "pad_shape", axes, 0), (1,) * axes)


def shape_of(
    layer: Layer,
    param: pb.ConvolutionParameter | pb.PoolingParameter,
    name: str,
    axes: int,
    default: int | None,
) -> tuple[int, ...]:
    """The dims of a `kernel_shape` and its like, one for each of the spatial axes."""
    dims = list(getattr(param, name).dim)
    if not param.HasField(name) and default is not None:
        return (default,) * axes
    if len(dims) != axes:
        raise layer.error(
            f"{name} {dims} must have a dim for each of the {axes} spatial axes of "
            f"{layer.bottom_name(0)}"
        )
    least = 0 if name == "pad_shape" else 1
    if any(dim < least for dim in dims):
        raise layer.error(f"{name} {dims} must be {least} or more on every axis")
    return tuple(dims)


@register("NdPooling", "pooling_param")
class NdPooling(Layer):
    """MAX or AVE over windows on one to three axes: the top has ceil((n + 2p - k) / s) + 1 values.

    On a padded axis a last window that would start beyond the image and its padding is left out; a
    window's mean is over what of it lies within image and padding, as Pooling's.
    Source: chuckcho/video-caffe cudnn_ndpooling_layer.cpp.
    """

    origin = "video-caffe"
    of_forks = tuple(f"pooling_param.{name}_shape" for name in ("kernel", "stride", "pad"))
    in_place = False
    ignored = {
        f"pooling_param.{name}": "kernel_shape, stride_shape and pad_shape say it"
        for name in (
            *("kernel_size", "stride", "pad"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
        )
    } | {"pooling_param.engine": ENGINE, "pooling_param.round_mode": "the fork rounds up here"}
    refused = {"STOCHASTIC": "cuDNN, which is the fork's only code of this layer, has none"}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param, axes = self.param.pooling_param, len(bottoms[0]) - 2
        if not 1 <= axes <= 3:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 3 to 5 axes (N, C, …)"
            )
        if param.pool not in (param.MAX, param.AVE):
            raise self.error(f"pool {param.PoolMethod.Name(param.pool)} must be MAX or AVE")
        self.mean = param.pool == param.AVE
        self.kernel = shape_of(self, param, "kernel_shape", axes, None)
        self.stride = shape_of(self, param, "stride_shape", axes, 1)
        self.pad = shape_of(self, param, "pad_shape", axes, 0)
        return ()

    def kernel_on(self, size: Sequence[int]) -> tuple[int, ...]:
        """The kernel on maps of this size: all of them with global_pooling."""
        return tuple(size) if self.param.pooling_param.global_pooling else self.kernel

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        size = bottoms[0][2:]
        if len(size) != len(self.kernel):
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} has no longer {len(self.kernel)} "
                "spatial axes"
            )
        sizes = tuple(map(self._windows_on, size, self.kernel_on(size), self.stride, self.pad))
        if any(number < 1 for number in sizes):
            raise self.shape_error(
                f"kernel {self.kernel_on(size)} does not fit bottom size {size} with pad {self.pad}"
            )
        for n, k, s, p, windows in zip(size, self.kernel_on(size), self.stride, self.pad, sizes):
            if (windows - 1) * s >= n + p or p >= k:
                raise self.shape_error(
                    f"kernel {k}, stride {s} and pad {p} make a window outside bottom size {n}"
                )
        return [(*bottoms[0][:2], *sizes)]

    @staticmethod
    def _windows_on(n: int, kernel: int, stride: int, pad: int) -> int:
        windows = math.ceil((n + 2 * pad - kernel) / stride) + 1
        return windows - 1 if pad and (windows - 1) * stride >= n + pad else windows

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        kernel, axes = self.kernel_on(x.shape[2:]), x.dim() - 2
        (shape,) = self.reshape([tuple(x.shape)])
        # What the windows cover beyond the image: its padding, and what the last one overhangs.
        beyond = [
            (p, (windows - 1) * s + k - n - p)
            for n, k, s, p, windows in zip(x.shape[2:], kernel, self.stride, self.pad, shape[2:])
        ]
        pads = [pad for pair in reversed(beyond) for pad in pair]
        if not self.mean:
            lowest = torch.finfo(x.dtype).min
            pooled = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
            return pooled(F.pad(x, pads, value=lowest), kernel, self.stride)
        averaged = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
        y = averaged(F.pad(x, pads), kernel, self.stride) * math.prod(kernel)
        for axis, (n, k, s, p) in enumerate(zip(x.shape[2:], kernel, self.stride, self.pad)):
            start = torch.arange(shape[2 + axis], device=x.device) * s - p
            within = (start + k).clamp(max=n + p) - start
            y = y / within.to(x.dtype).view(-1, *(1,) * (axes - 1 - axis))
        return y
