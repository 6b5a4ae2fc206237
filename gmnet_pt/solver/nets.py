"""The nets of a run: built as the solver file says, fed by their data layers, resumed.

`gmnet_pt.solver.solver` has a train net and test nets of this kind. Source: Caffe solver.cpp,
InitTrainNet and InitTestNets; tools/caffe.cpp CopyLayers.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from converters.layers import Layer
from converters.net.caffe_net import CaffeNet
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.net.weights import LoadReport
from converters.readers import ALL, Share
from gmnet_pt.solver.batches import Batches, next_feed, open_net_batches
from gmnet_pt.solver.processes import Processes
from gmnet_pt.solver.resident import DataMemory
from gmnet_pt.solver.run_state import NetState, on_host


class DataFacts(NamedTuple):
    """The file or database that a layer names, its records, and how many a batch takes."""

    name: str
    records: int
    items: int


class FedNet:
    """A net on its device with the readers of its data layers, opened on first use.

    `sharing` is the train net, whose blobs a test net uses; without `fill` the blobs that no file
    has stay 0. `share` is what this process has of the data; all of it, where a test net keeps
    something from batch to batch. `memory` is for records that stay. `report` says what the files
    gave.
    """

    def __init__(
        self,
        choice: NetChoice,
        device: torch.device,
        seed: int | None,
        sharing: CaffeNet | None = None,
        fill: bool = True,
        share: Share = ALL,
        memory: DataMemory | None = None,
    ) -> None:
        net = CaffeNet(plan_net(choice))
        if sharing is not None:
            net.share(sharing)
        self.report: LoadReport = net.initialize(choice.weights, choice.strict, fill)
        self.net = net.to(device)
        self.device = device
        self._seed = seed
        self._memory = memory
        self.share = ALL if share.whole and _is_of_one_piece(self.net) else share
        self._batches: list[Batches] | None = None

    @property
    def batches(self) -> list[Batches]:
        """The readers, in the order of the data layers."""
        if self._batches is None:
            self._batches = open_net_batches(self.net, self._seed, self.share, self._memory)
        return self._batches

    def next(self) -> dict[str, Tensor]:
        """The next batch of every data layer, by top name."""
        return next_feed(self.batches, self.device)

    def data(self) -> DataFacts:
        """What the first data layer that tells its records reads; the first without one."""
        layers = self.net.plan.data_layers
        told = [batches.items or 0 for batches in self.batches]
        place = next((place for place, records in enumerate(told) if records), 0)
        if not told:
            return DataFacts("", 0, 0)
        shape = self.net.plan.input_shapes()[layers[place].param.top[0]]
        return DataFacts(_source(layers[place]), told[place], shape[0] if shape else 1)

    def turns(self, passes: int, processes: Processes) -> list[bool]:
        """How `passes` of a test are dealt, in turns: at which of them this process has one.

        Test after test goes on where the one before ended, in data that is dealt in the same way.
        """
        place, of, _ = self.share
        if of == 1:
            return [True] * passes
        done = processes.total(self.batches[0].state()["batch"] if self.batches else 0)
        first = (place - done) % of
        return [turn + first < passes for turn in range(0, passes, of)]

    def close(self) -> None:
        """Close the readers; what is read later begins at the first record."""
        batches, self._batches = self._batches or [], None
        with ExitStack() as stack:
            for one in batches:
                stack.callback(one.close)

    def state(self) -> NetState:
        """Positions and hidden tensors; copies."""
        hidden = {name: on_host(tensor) for name, tensor in self._hidden().items()}
        opened = self._batches
        return NetState(None if opened is None else tuple(x.state() for x in opened), hidden)

    def load(self, state: NetState) -> None:
        """Go on where `state` was taken; hidden tensors and readers that it lacks begin afresh.

        Raises:
            KeyError, RuntimeError, ValueError: the state of another net or other data.
        """
        self.net.reset_state()
        if state.hidden:
            for name, tensor in self._hidden().items():
                given = state.hidden[name]
                if given.shape != tensor.shape:
                    raise ValueError(
                        f"hidden state {name} has shape {tuple(given.shape)}, not "
                        f"{tuple(tensor.shape)}"
                    )
                tensor.copy_(given)
        if state.readers is None:
            self.close()
        else:
            for one, position in zip(self.batches, state.readers, strict=True):
                one.restore(position)

    def _hidden(self) -> dict[str, Tensor]:
        return {
            f"{place}/{name}": tensor
            for place, module in enumerate(self.net.layer_modules)
            for name, tensor in module.state.items()
        }


def _source(layer: Layer) -> str:
    """The file or database that a data layer reads, as its net names it."""
    for param in (getattr(layer.param, name) for name in layer.params):
        if source := getattr(param, "source", ""):
            return str(source)
    return layer.name


def _is_of_one_piece(net: CaffeNet) -> bool:
    """Whether a batch may leave something to the next, or to a file: one process has to run all."""
    kinds = {position.layer.type for position in net.plan.layers}
    kept = any(module.state for module in net.layer_modules)
    return kept or bool(kinds & {"Python", "HDF5Output"})
