"""The part of a net that is exported: up to its outputs, or up to blobs within it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from converters.errors import NetError, ShapeError
from converters.layers.registry import Shape
from converters.nearest import known_names
from converters.net.plan import LayerPlan, NetPlan


class Part(NamedTuple):
    """Layers in the net's order, and the names of the blobs that go in and come out."""

    plan: NetPlan
    layers: tuple[LayerPlan, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def input_shapes(self) -> dict[str, Shape]:
        """The shapes of the inputs as planned."""
        shapes = self.plan.input_shapes()
        return {name: shapes[name] for name in self.inputs}

    def output_shapes(self) -> dict[str, Shape]:
        """The shapes of the outputs as planned."""
        shapes = {
            value: shape
            for position in self.plan.layers
            for value, shape in zip(position.tops, position.top_shapes)
        }
        return {name: shapes[self.plan.values[name]] for name in self.outputs}


def part_of(plan: NetPlan, until: Sequence[str] = ()) -> Part:
    """The whole net, or what the blobs `until` are made of.

    Inputs of the whole net are all of its own; of a part, those that it reads.

    Raises:
        ShapeError: no blob has such a name.
        NetError: there is nothing to export: no output, or no layer before it.
    """
    for name in until:
        if name not in plan.values:
            raise ShapeError(f'{plan.source}: no blob "{name}"{known_names(name, plan.values)}')
    outputs = tuple(dict.fromkeys(until)) or tuple(plan.outputs)
    wanted = {plan.values[name] for name in outputs}
    layers: list[LayerPlan] = []
    for position in reversed(plan.layers):
        if not position.layer.is_data and wanted.intersection(position.tops):
            wanted.update(position.bottoms)
            layers.append(position)
    if not layers:
        what = f"blob {', '.join(until)} is an input" if until else "the net has no output"
        raise NetError(f"{plan.source}: nothing to export: {what}")
    inputs = [name for name, value in plan.inputs.items() if not until or value in wanted]
    return Part(plan, tuple(reversed(layers)), tuple(inputs), outputs)
