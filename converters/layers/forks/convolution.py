"""Forks' convolutions: DepthwiseConvolution, ConvolutionDepthwise."""

from __future__ import annotations

from converters.layers.convolution import Convolution
from converters.layers.registry import Count, Family

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
