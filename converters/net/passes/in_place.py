"""ReLUs that overwrite their input."""

from __future__ import annotations

from torch import Tensor, fx, nn
from torch.nn import functional

from converters.layers.activation import ReLU
from converters.layers.convolution import Convolution
from converters.layers.linear import InnerProduct
from converters.net.passes.batch_norm_scale import BatchNormScale
from converters.net.passes.matching import called, layer_module, replace


class InPlaceReLU(nn.Module):
    """A ReLU that overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        """max(x, 0), in the memory of x."""
        return functional.relu_(x)


def work_in_place(module: fx.GraphModule) -> None:
    """Let a plain ReLU overwrite its input where only it reads it and no gradient needs it."""
    for node in list(module.graph.nodes):
        relu = layer_module(module, node, ReLU)
        if relu is None or relu.detached or relu.layer.param.relu_param.negative_slope != 0:
            continue
        before = node.args[0]
        makes_its_own = isinstance(called(module, before), BatchNormScale) or any(
            layer_module(module, before, kind) for kind in (Convolution, InnerProduct)
        )
        if makes_its_own and len(before.users) == 1:
            replace(module, node, "in_place.relu", InPlaceReLU(), node.args)
