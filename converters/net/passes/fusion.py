"""Rewrites of a net's fx graph that change its speed and not its values.

Each pass takes a `torch.fx.GraphModule` of layer calls and edits it in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.nn import functional

from converters.layers.activation import ReLU
from converters.layers.convolution import Convolution
from converters.layers.normalization import BatchNorm, Scale

if TYPE_CHECKING:
    from converters.net.caffe_net import LayerModule


class BatchNormScale(nn.Module):
    """A BatchNorm and the Scale that alone reads it, run as one `F.batch_norm`."""

    def __init__(self, batch_norm: LayerModule, scale: LayerModule) -> None:
        super().__init__()
        self.batch_norm = batch_norm
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, scale and shift (N, C, …)."""
        weight, bias = self.scale.blobs
        layer: Any = self.batch_norm.layer
        y: Tensor = layer.normalize(self.batch_norm, x, weight, bias)
        return y


class InPlaceReLU(nn.Module):
    """A ReLU that overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        """max(x, 0), in the memory of x."""
        return functional.relu_(x)


def fuse_batch_norm_and_scale(module: fx.GraphModule) -> None:
    """Run BatchNorm → Scale (axis 1, with bias, its only reader) as one call."""
    for node in list(module.graph.nodes):
        scale = _layer(module, node)
        if not isinstance(scale, Scale) or len(node.args) != 1:
            continue
        before = node.args[0]
        batch_norm = _layer(module, before)
        if not isinstance(batch_norm, BatchNorm) or len(before.users) != 1:
            continue
        param = scale.param.scale_param
        if scale.start != 1 or scale.blob_shape != (batch_norm.channels,) or not param.bias_term:
            continue
        name = f"fused.{str(node.target).removeprefix('layers.')}"
        module.add_submodule(
            name,
            BatchNormScale(
                module.get_submodule(str(before.target)),  # type: ignore[arg-type]
                module.get_submodule(str(node.target)),  # type: ignore[arg-type]
            ),
        )
        with module.graph.inserting_before(node):
            fused = module.graph.call_module(name, before.args)
        node.replace_all_uses_with(fused)
        module.graph.erase_node(node)
        module.graph.erase_node(before)


def work_in_place(module: fx.GraphModule) -> None:
    """Let a plain ReLU overwrite its input where only it reads it and no gradient needs it."""
    for node in list(module.graph.nodes):
        layer = _layer(module, node)
        if not isinstance(layer, ReLU) or layer.param.relu_param.negative_slope != 0:
            continue
        before = node.args[0]
        if len(before.users) != 1 or before.op != "call_module":
            continue
        producer = module.get_submodule(str(before.target))
        if not (
            isinstance(producer, BatchNormScale) or isinstance(_layer(module, before), Convolution)
        ):
            continue
        if _layer(module, node) is not None and any(
            getattr(module.get_submodule(str(node.target)), "detached", ())
        ):
            continue
        name = "in_place.relu"
        module.add_submodule(name, InPlaceReLU())
        with module.graph.inserting_before(node):
            replaced = module.graph.call_module(name, node.args)
        node.replace_all_uses_with(replaced)
        module.graph.erase_node(node)


def _layer(module: fx.GraphModule, node: Any) -> Any:
    """The Caffe layer that a node calls, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return getattr(module.get_submodule(str(node.target)), "layer", None)
