"""Where a run stands, as a value: what `Solver.state` gives, `Solver.load` takes, a snapshot holds.

Weights are not in it: `learned_net` names their file, as in Caffe's solverstate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gmnet_pt.solver.lr_policy import Plateau


@dataclass(frozen=True, eq=False)
class NetState:
    """What a net keeps between two passes, besides parameters.

    `readers` has the position of each data layer's reader in the net's order; it is None for a net
    that was not fed yet. `hidden` has the layers' hidden tensors by `PLACE/NAME`, the place counted
    among the layers that are not data.
    """

    readers: tuple[Mapping[str, int], ...] | None = None
    hidden: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class OwnState:
    """What each of several processes has of its own: random numbers and nets, as in `RunState`."""

    random: Mapping[str, Tensor] = field(default_factory=dict)
    nets: tuple[NetState, ...] = ()


@dataclass(frozen=True, eq=False)
class RunState:
    """A run after `iteration` updates; tensors are copies on the host.

    Caffe's own snapshots hold the first four alone: then data starts at its first record and random
    numbers go on as they are. `nets` are the train net and the test nets, in the solver's order.
    `smoothed_loss` is the displayed mean over average_loss at that moment; `Solver.solve` begins a
    new window, at a resumption too, as Caffe's Step does. `layout` is the memory format of a run
    that has one. Of several processes `random` and `nets` are those of number 0, and `others` has
    those of the rest. `plateau`
    is what lr_policy "plateau" remembers, and `window` what the smoothed loss is the mean of, which
    it goes on with.
    """

    iteration: int
    current_step: int
    history: tuple[Tensor, ...]
    learned_net: str = ""
    type: str | None = None
    random: Mapping[str, Tensor] = field(default_factory=dict)
    nets: tuple[NetState, ...] = ()
    smoothed_loss: float | None = None
    layout: str | None = None
    others: tuple[OwnState, ...] = ()
    plateau: Plateau | None = None
    window: tuple[float, ...] = ()

    def own(self, rank: int) -> OwnState:
        """What process `rank` has of its own."""
        return (OwnState(self.random, self.nets), *self.others)[rank]


def on_host(tensor: Tensor) -> Tensor:
    """A copy that training does not change, in the order of its axes."""
    return tensor.detach().to("cpu", copy=True).contiguous()
