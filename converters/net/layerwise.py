"""A net run one layer at a time, forward and backward, as Caffe's Net does.

Training runs whole graphs (`converters.net.caffe_net`), which are fused and leave nothing to look
at between two layers. Here each layer is a step of its own: `gmnet_pt.time` measures them,
`gmnet_pt.solver.debug_info` looks at what is in between. Source: Caffe net.cpp, ForwardFromTo and
BackwardFromTo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from converters.net.caffe_net import CaffeNet
from converters.net.layer_module import LayerModule
from converters.net.plan import LayerPlan


class Ran(NamedTuple):
    """A layer that ran: its bottoms, cut off from the layers before, and its tops.

    A data layer has no module: its tops are what the net was given.
    """

    position: LayerPlan
    module: nn.Module | None
    bottoms: tuple[Tensor, ...]
    tops: tuple[Tensor, ...]

    def leaves(self) -> list[Tensor]:
        """The layer's blobs, or the parameters of what stands in its place."""
        if isinstance(self.module, LayerModule):
            return self.module.leaves()
        return [] if self.module is None else list(self.module.parameters())


class RanBack(NamedTuple):
    """A layer whose gradients are there: those of its bottoms (None where none is needed)."""

    ran: Ran
    bottom_gradients: tuple[Tensor | None, ...]


def forward(net: CaffeNet, feed: Mapping[str, Tensor]) -> Iterator[Ran]:
    """Run the layers in Caffe's order on the net's inputs `feed`, yielding behind each."""
    values = {net.plan.inputs[name]: tensor for name, tensor in feed.items()}
    for position in net.plan.layers:
        if position.layer.is_data:
            yield Ran(position, None, (), tuple(values[value] for value in position.tops))
            continue
        module = net.module_of(position.key)
        bottoms = tuple(_leaf(values[value]) for value in position.bottoms)
        result = module(*bottoms)
        tops = (result,) if isinstance(result, Tensor) else tuple(result)
        values.update(zip(position.tops, tops))
        yield Ran(position, module, bottoms, tops)


def backward(ran: Sequence[Ran]) -> Iterator[RanBack]:
    """Run the layers backward from their loss weights, yielding behind each.

    The gradients of parameters are added to their `grad`.
    """
    gradients: dict[int, Tensor] = {}
    for one in reversed(ran):
        found = _gradients(one, gradients)
        for value, gradient in zip(one.position.bottoms, found):
            if gradient is not None:
                known = gradients.get(value)
                gradients[value] = gradient if known is None else known + gradient
        yield RanBack(one, found)


def total_loss(ran: Sequence[Ran]) -> Tensor:
    """Σ loss_weight · Σ top, without a gradient."""
    terms = [
        weight * top.detach().sum()
        for one in ran
        for weight, top in zip(one.position.loss_weights, one.tops)
        if weight
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _once(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor one time, in order: a layer may share a blob with itself."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.requires_grad)


def _gradients(one: Ran, gradients: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of the bottoms; those of parameters are added up on the way."""
    tops, seeds = [], []
    for value, top, weight in zip(one.position.tops, one.tops, one.position.loss_weights):
        seed = gradients.pop(value, None)
        if top.requires_grad:
            given = torch.zeros_like(top) if seed is None else seed
            tops.append(top)
            seeds.append(given + weight if weight else given)
    nothing: tuple[Tensor | None, ...] = (None,) * len(one.bottoms)
    parameters = _once(one.leaves())
    wanted = [tensor for tensor in (*one.bottoms, *parameters) if tensor.requires_grad]
    if not tops or not wanted:
        return nothing
    found = iter(torch.autograd.grad(tops, wanted, seeds, allow_unused=True))
    result = tuple(next(found) if bottom.requires_grad else None for bottom in one.bottoms)
    for parameter in (tensor for tensor in parameters if tensor.requires_grad):
        gradient = next(found)
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return result
