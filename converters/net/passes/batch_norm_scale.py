"""BatchNorm and the Scale that alone reads it, run as one `F.batch_norm`."""

from __future__ import annotations

from torch import Tensor, fx, nn

from converters.layers.normalization import BatchNorm, Scale
from converters.net.layer_module import LayerModule
from converters.net.passes.matching import layer_module, replace


class BatchNormScale(nn.Module):
    """Both layers at once. Their modules keep their blobs: here they are not registered again."""

    def __init__(self, batch_norm: LayerModule, scale: LayerModule) -> None:
        super().__init__()
        self.parts = (batch_norm, scale)
        # A gradient that either of them cuts off does not reach what is before both.
        self.detached = bool(batch_norm.detached or scale.detached)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, scale and shift (N, C, …)."""
        batch_norm, scale = self.parts
        assert isinstance(batch_norm.layer, BatchNorm)
        weight, bias = scale.blobs
        return batch_norm.layer.normalize(
            batch_norm, x.detach() if self.detached else x, weight, bias
        )


def fuse_batch_norm_and_scale(module: fx.GraphModule) -> None:
    """Run BatchNorm → Scale (axis 1, with bias, its only reader) as one call."""
    for node in list(module.graph.nodes):
        scale = layer_module(module, node, Scale)
        if scale is None or len(node.args) != 1:
            continue
        before = node.args[0]
        batch_norm = layer_module(module, before, BatchNorm)
        if batch_norm is None or len(before.users) != 1:
            continue
        assert isinstance(scale.layer, Scale) and isinstance(batch_norm.layer, BatchNorm)
        if scale.layer.scales_channels(batch_norm.layer.channels):
            name = f"fused.{str(node.target).removeprefix('layers.')}"
            replace(module, node, name, BatchNormScale(batch_norm, scale), before.args)
            module.graph.erase_node(before)
