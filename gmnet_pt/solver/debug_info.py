"""Caffe's `debug_info`: the mean absolute value of everything, line by line.

The solver runs an iteration through here when its lines are wanted, so nothing is run twice. The
lines are those of Caffe without its automatic Split layers. Source: Caffe net.cpp,
Backward, ForwardDebugInfo and BackwardDebugInfo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from converters.net.caffe_net import CaffeNet
from converters.net.layerwise import Ran, RanBack, backward, forward, total_loss
from gmnet_pt.log.events import Event, Message

Show = Callable[[Event], None]


def show_forward(net: CaffeNet, feed: Mapping[str, Tensor], show: Show) -> list[Ran]:
    """Run the net forward, showing each layer's tops and parameters."""
    ran = []
    for one in forward(net, feed):
        for line in _forward_lines(one):
            show(line)
        ran.append(one)
    return ran


def show_forward_backward(
    net: CaffeNet, feed: Mapping[str, Tensor], show: Show
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `net.loss` and its backward, showing all values and gradients on the way."""
    ran = show_forward(net, feed, show)
    for one in backward(ran):
        for line in _backward_lines(one):
            show(line)
    show(Message(_norms_line(net.learnable), "net.cpp:721", "E"))
    return total_loss(ran), outputs(net, ran)


def outputs(net: CaffeNet, ran: Sequence[Ran]) -> dict[str, Tensor]:
    """The net's outputs by name."""
    tops = {value: top for one in ran for value, top in zip(one.position.tops, one.tops)}
    return {name: tops[value].detach() for name, value in net.plan.outputs.items()}


def _forward_lines(one: Ran) -> Iterator[Message]:
    start = f"    [Forward] Layer {one.position.name}"
    for top_name, top in zip(one.position.top_names, one.tops):
        yield Message(f"{start}, top blob {top_name} data: {_mean(top):g}", "net.cpp:593")
    specs = one.position.layer.param.param
    for place, blob in enumerate(_blobs(one)):
        shown = (specs[place].name if place < len(specs) else "") or place
        yield Message(f"{start}, param blob {shown} data: {_mean(blob):g}", "net.cpp:605")


def _backward_lines(back: RanBack) -> Iterator[Message]:
    one = back.ran
    start = f"    [Backward] Layer {one.position.name}"
    for bottom, gradient in zip(one.position.layer.param.bottom, back.bottom_gradients):
        if gradient is not None:
            yield Message(f"{start}, bottom blob {bottom} diff: {_mean(gradient):g}", "net.cpp:621")
    for place, blob in enumerate(_blobs(one)):
        if blob.grad is not None:
            yield Message(f"{start}, param blob {place} diff: {_mean(blob.grad):g}", "net.cpp:632")


def _blobs(one: Ran) -> list[Tensor]:
    return [] if one.module is None else one.module.stored()


def _norms_line(blobs: Sequence[Tensor]) -> str:
    data = [blob.detach() for blob in blobs]
    diffs = [blob.grad for blob in blobs if blob.grad is not None]
    sums = [sum(float(x.abs().sum()) for x in tensors) for tensors in (data, diffs)]
    roots = [math.sqrt(sum(float(x.square().sum()) for x in tensors)) for tensors in (data, diffs)]
    return (
        f"    [Backward] All net params (data, diff): L1 norm = ({sums[0]:g}, {sums[1]:g}); "
        f"L2 norm = ({roots[0]:g}, {roots[1]:g})"
    )


def _mean(tensor: Tensor) -> float:
    return float(tensor.detach().abs().mean()) if tensor.numel() else 0.0
