"""A plan as a torch.fx graph: each layer a call of its module, in Caffe's order."""

from __future__ import annotations

import builtins
import keyword
import operator
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from converters.net.layer_module import Layers, attribute
from converters.net.passes import run_passes
from converters.net.plan import LayerPlan, NetPlan

# Names that the generated code uses itself.
_RESERVED = frozenset(("self", "torch", "operator", "device", "inf", "nan", "fx_pytree", "pytree"))


class Variant(NamedTuple):
    """Which graph of a net: the blobs it returns, whether the loss stands before them, and whether
    layers may be run together."""

    blobs: tuple[str, ...]
    loss: bool = False
    fused: bool = True


def lower(plan: NetPlan, layers: Layers, variant: Variant) -> fx.GraphModule:
    """The graph of a variant; it takes the net's inputs in order and calls the modules of `layers`.

    The modules are found there at each call, so that one that was replaced is seen.
    """
    graph = fx.Graph()
    nodes: dict[int, fx.Node] = {}
    terms: list[fx.Node] = []
    for name, value in zip(arguments(plan.inputs), plan.inputs.values()):
        nodes[value] = graph.placeholder(name)
    for position in plan.layers:
        if not position.layer.is_data:
            _call(graph, nodes, position)
        for value, weight in zip(position.tops, position.loss_weights):
            if weight:
                term = graph.call_function(total, (nodes[value],))
                terms.append(
                    term if weight == 1 else graph.call_function(operator.mul, (term, weight))
                )
    results = [nodes[plan.values[name]] for name in variant.blobs]
    if variant.loss:
        results.insert(0, _sum(graph, terms))
    graph.output(tuple(results))
    root = nn.Module()
    root.layers = layers
    module = fx.GraphModule(root, graph, class_name="CaffeGraph")
    # fx copies the called modules into a namespace of its own making.
    module.layers = layers
    if variant.fused:
        run_passes(module)
    module.graph.lint()
    module.recompile()
    return module


def total(top: Tensor) -> Tensor:
    """Σ top."""
    return top if top.dim() == 0 else top.sum()


def arguments(blobs: Iterable[str], reserved: Collection[str] = ()) -> list[str]:
    """A Python name for each blob: its own where that is one, all different, none `reserved`."""
    names: dict[str, int] = {}  # each with the number that its next namesake tries
    for blob in blobs:
        # ASCII: Python takes some letters for others, and some that \w matches for none.
        name = re.sub(r"\W", "_", blob, flags=re.ASCII)
        if keyword.iskeyword(name) or hasattr(builtins, name) or name in {*_RESERVED, *reserved}:
            name = f"{name}_"
        name = name if name.isidentifier() else f"blob_{name}"
        unique = name
        while unique in names:
            names[name] += 1
            unique = f"{name}_{names[name]}"
        names[unique] = 1
    return list(names)


def _call(graph: fx.Graph, nodes: dict[int, fx.Node], position: LayerPlan) -> None:
    """Append a layer's call and, for several tops, the items of its result."""
    node = graph.create_node(
        "call_module",
        f"layers.{attribute(position.key)}",
        tuple(nodes[value] for value in position.bottoms),
        name=arguments([position.name])[0],
    )
    if len(position.tops) == 1:
        nodes[position.tops[0]] = node
        return
    for index, value in enumerate(position.tops):
        nodes[value] = graph.call_function(operator.getitem, (node, index))


def _sum(graph: fx.Graph, terms: Sequence[fx.Node]) -> fx.Node:
    if not terms:
        return graph.call_function(torch.zeros, ((),))
    total = terms[0]
    for term in terms[1:]:
        total = graph.call_function(operator.add, (total, term))
    return total
