"""A net's graph for running without gradients: weights folded and packed, calls made directly.

It holds while the blobs it was made of are what they were (`converters.net.watch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, fx

from converters.layers.convolution import Convolution
from converters.layers.linear import InnerProduct
from converters.layers.normalization import BatchNorm, Bias, Scale
from converters.net.layer_module import LayerModule, Layers
from converters.net.lower import Variant, lower
from converters.net.passes.folding import FOLDING, Folded
from converters.net.passes.matching import called
from converters.net.plan import NetPlan
from converters.net.watch import Watch


class Frozen(NamedTuple):
    """A function from the net's inputs, in order, to the variant's results, while `watch` holds."""

    run: Callable[..., tuple[Tensor, ...]]
    watch: Watch


# The layers whose blobs `FOLDING` takes values of; all others look at theirs in each call.
_FOLDED = (Convolution, InnerProduct, BatchNorm, Scale, Bias)


def freeze(plan: NetPlan, layers: Layers, variant: Variant, keep: bool) -> Frozen:
    """The graph of a variant, made of the blobs as they are now; `keep` as for `Watch`."""
    modules = [module for module in layers.children() if isinstance(module, LayerModule)]
    taken = [m for m in modules if isinstance(m.layer, _FOLDED) and not m.is_made()]
    watch = Watch(modules, [home for module in taken for home in module.homes()], keep)
    graph = lower(plan, layers, variant._replace(fused=False))
    for rewrite in FOLDING:
        rewrite(graph)
    return Frozen(straight(graph), watch)


def straight(module: fx.GraphModule) -> Callable[..., tuple[Tensor, ...]]:
    """The graph as a function that calls forwards themselves and drops each value in time.

    The modules must have no hooks.
    """
    names = {node: f"v{number}" for number, node in enumerate(module.graph.nodes)}
    last = {node: max([*node.users, node]) for node in module.graph.nodes}
    calls: dict[str, Any] = {"inf": math.inf, "nan": math.nan}  # as repr writes them
    inputs, lines = [], []
    for node in module.graph.nodes:
        words = [_word(argument, names) for argument in node.args]
        if node.op == "placeholder":
            inputs.append(names[node])
            continue
        if node.op == "output":
            lines.append(f"return {words[0]}")
            continue
        call = f"f{len(calls)}"
        if node.op == "call_method":
            lines.append(f"{names[node]} = {words[0]}.{node.target}({', '.join(words[1:])})")
        else:
            found = called(module, node)
            calls[call] = node.target if found is None else found.forward
            if isinstance(found, Folded):
                calls[call] = found.run
            elif isinstance(found, LayerModule) and not found.detached:
                calls[call] = partial(found.layer.forward, found)
            lines.append(f"{names[node]} = {call}({', '.join(words)})")
        over = [names[value] for value in {*node.all_input_nodes, node} if last[value] is node]
        if over:
            lines.append(f"del {', '.join(sorted(over))}")
    source = "\n    ".join([f"def run({', '.join(inputs)}):", *lines])
    exec(compile(source, f"<{module.__class__.__name__}>", "exec"), calls)
    run: Callable[..., tuple[Tensor, ...]] = calls["run"]
    return run


def _word(argument: Any, names: dict[fx.Node, str]) -> str:
    if isinstance(argument, fx.Node):
        return names[argument]
    if isinstance(argument, tuple | list):
        return f"({''.join(f'{_word(one, names)}, ' for one in argument)})"
    return repr(argument)
