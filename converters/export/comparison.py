"""What was exported, run beside the net that it was made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from converters.errors import CaffeError, OutputError
from converters.export.part import Part
from converters.layers.registry import Shape
from converters.net.caffe_net import CaffeNet

LIMIT = 1e-4
"""The largest difference that an export may have, of an output's largest value."""
_SIZES = (1, 3)
"""Of a batch of any size, those that are tried."""

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""The export: its outputs for its inputs, both in the net's order."""


class Free(NamedTuple):
    """Inputs whose axis `axis` may have any size, each with the name of that size."""

    axis: int
    names: dict[str, str]


FIXED = Free(0, {})


def resized(shape: Shape, free: Free, name: str, size: int) -> Shape:
    """An input's shape where sizes that are free are `size`."""
    if name not in free.names:
        return shape
    return (*shape[: free.axis], size, *shape[free.axis + 1 :])


def free_sizes(part: Part) -> Free:
    """The batch, if the net takes one of any size: axis 0, or 1 of sequences.

    Inputs of as many items as the first one share it; another's number may be free by itself.
    """
    shapes = part.plan.input_shapes()
    for axis in (0, 1):
        if not part.inputs or len(shapes[part.inputs[0]]) <= axis:
            break
        first = shapes[part.inputs[0]][axis]
        together = [n for n, shape in shapes.items() if shape[axis : axis + 1] == (first,)]
        free = Free(axis, dict.fromkeys(together, "batch"))
        if _takes(part, free):
            for place, name in enumerate(shapes):
                alone = Free(axis, {name: f"items_{place}"})
                if name not in together and len(shapes[name]) > axis and _takes(part, alone):
                    free.names.update(alone.names)
            return free
    return FIXED


def _takes(part: Part, free: Free) -> bool:
    shapes = part.plan.input_shapes()
    try:
        for size in _SIZES:
            part.plan.check_shapes(
                {name: resized(shape, free, name, size) for name, shape in shapes.items()}
            )
    except CaffeError:
        return False
    return True


class Difference(NamedTuple):
    """The largest difference of an export: of which output's largest value, and at which sizes."""

    largest: float
    output: str
    sizes: tuple[int, ...]


def largest_difference(net: CaffeNet, part: Part, free: Free, run: Run) -> Difference:
    """Run an export beside the net on the same noise, at several sizes of the batch.

    Raises:
        OutputError: an output has another shape, is NaN or infinite where the net's is not, or
            differs by more than LIMIT.
    """
    worst = Difference(0.0, part.outputs[0], _SIZES if free.names else ())
    for size in worst.sizes or (0,):
        inputs, wanted = _reference(net, part, free, size)
        found = run(inputs)
        for name, ours, theirs in zip(part.outputs, wanted, found, strict=True):
            difference = _relative(name, ours, theirs)
            if not difference <= LIMIT:
                raise OutputError(
                    f'output "{name}" differs by {difference:.1e} of its largest value; '
                    f"the limit is {LIMIT:.0e}"
                )
            if difference > worst.largest:
                worst = worst._replace(largest=difference, output=name)
    return worst


def _reference(
    net: CaffeNet, part: Part, free: Free, size: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of the part, and what the net makes of them.

    Labels and indices are 0 or 1, or all 0 where the net does not take 1.
    """
    try:
        feed = _noise(part, free, size, classes=2)
        return [feed[name] for name in part.inputs], _outputs(net, part, feed)
    except CaffeError:
        feed = _noise(part, free, size, classes=1)
        return [feed[name] for name in part.inputs], _outputs(net, part, feed)


def _noise(part: Part, free: Free, size: int, classes: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = part.plan.exact_inputs()
    feed = {}
    for name, shape in part.plan.input_shapes().items():
        shape = resized(shape, free, name, size)
        if name in whole:
            feed[name] = torch.randint(0, classes, shape, generator=generator).float()
        else:
            feed[name] = torch.randn(shape, generator=generator)
    return feed


def _outputs(net: CaffeNet, part: Part, feed: dict[str, Tensor]) -> list[Tensor]:
    net.reset_state()
    with torch.no_grad():
        found = net(feed, blobs=list(part.outputs))
    return [found[name] for name in part.outputs]


def _relative(name: str, ours: Tensor, theirs: Tensor) -> float:
    """max|a - b| / max|a|; infinite where one is not finite and the other is not the same."""
    if ours.shape != theirs.shape:
        raise OutputError(
            f'output "{name}" has shape {tuple(theirs.shape)}, in the net {tuple(ours.shape)}'
        )
    ours, theirs = ours.double(), theirs.double()
    finite = ours.isfinite()
    if not torch.equal(ours[~finite].nan_to_num(), theirs[~finite].nan_to_num()):
        return math.inf
    if not finite.any():
        return 0.0
    scale = ours[finite].abs().max().item()
    return float((ours - theirs)[finite].abs().max().item() / (scale or 1.0))
