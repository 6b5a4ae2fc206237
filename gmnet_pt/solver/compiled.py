"""The loss of a net through torch.compile: fewer passes over memory, at the price of compiling.

It is off unless asked for: compiling takes minutes, needs a compiler, and sums in an order of its
own. `capture` may record what comes of it, and `step` calls it in the place of `net.loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converters.errors import SolverError
from converters.net.caffe_net import CaffeNet
from gmnet_pt.solver.capture import obstacle
from gmnet_pt.solver.step import Feed

Compiled = Callable[..., tuple[Tensor, ...]]


class CompiledLoss:
    """`net.loss`, compiled at its first call and again for each shape or mode that is new.

    Args:
        tell: is given a line where the net cannot be compiled; it runs as it is then.
        backend: of torch.compile.
    """

    def __init__(
        self, net: CaffeNet, tell: Callable[[str], None], backend: str = "inductor"
    ) -> None:
        self._net = net
        self._tell = tell
        self._backend = backend
        # The graph of a net changes with hooks and modules in layers' places.
        self._known: dict[torch.nn.Module, Compiled | None] = {}

    def __call__(self, feed: Feed) -> tuple[Tensor, dict[str, Tensor]]:
        """See `CaffeNet.loss`.

        Raises:
            SolverError: there is no compiler, or it fails.
        """
        graph = self._net.loss_module
        if graph not in self._known:
            self._known[graph] = self._prepared(graph)
        compiled = self._known[graph]
        if compiled is None:
            return self._net.loss(feed)
        try:
            total, *outputs = compiled(*self._net.ordered(feed))
        except self._failures() as error:
            told = [line for line in str(error).splitlines() if line.strip()]
            reason = told[0] if told else type(error).__name__
            raise SolverError(
                f"{self._net.plan.source}: torch.compile fails ({reason}); train without --compile"
            ) from error
        return total, dict(zip(self._net.outputs, outputs))

    def _prepared(self, graph: torch.nn.Module) -> Compiled | None:
        if why := obstacle(self._net) or _remembers(self._net):
            self._tell(f"Iterations run uncompiled: {why}.")
            return None
        compiled: Any = torch.compile(graph, backend=self._backend, dynamic=False)
        return compiled  # type: ignore[no-any-return]

    @staticmethod
    def _failures() -> type[Exception]:
        # Imported late: torch takes a second over it.
        from torch._dynamo.exc import TorchDynamoException

        return TorchDynamoException


def _remembers(net: CaffeNet) -> str | None:
    """The layer whose state a pass reads and overwrites, if there is one.

    The compiler leaves out the copy that is made of it for the backward pass, whose gradients are
    wrong then (seen with torch 2.13). A state without axes only tells device and type.
    """
    for key, module in net.keyed_modules():
        if any(kept.dim() for kept in module.state.values()):
            return f'layer "{key}" ({module.layer.type}) keeps a state from pass to pass'
    return None
