"""What the passes look for: the module that a node calls, and a call in another's place."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from converters.net.layer_module import LayerModule


def called(module: fx.GraphModule, node: Any) -> nn.Module | None:
    """The module that a node calls, None if it calls none."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return module.get_submodule(str(node.target))


def layer_module(module: fx.GraphModule, node: Any, kind: type) -> LayerModule | None:
    """The module that a node calls if it runs a layer of class `kind`."""
    found = called(module, node)
    fits = isinstance(found, LayerModule) and isinstance(found.layer, kind)
    return found if fits and isinstance(found, LayerModule) else None


def replace(module: fx.GraphModule, node: fx.Node, name: str, new: nn.Module, args: Any) -> None:
    """Call `new`, registered as `name`, on `args` in the place of `node`."""
    module.add_submodule(name, new)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(name, args)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)
