"""A net's parameter blobs and statistics, owned in one place and addressed by their place there.

Places are those of `NetPlan.learnables`: Caffe's learnable_params, statistics included. Layers that
share a blob (`param { name }`), a test net that shares its train net's, files and the solver all
ask here; nothing else knows where a tensor lives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from converters.layers.registry import BlobSpec
from converters.net.plan import NetPlan


class Home(NamedTuple):
    """The module that has a blob registered, and the blob's name there."""

    module: nn.Module
    name: str


class BlobStore(Sequence[Tensor]):
    """The blobs of a net, in the plan's order.

    A blob is registered in the module of the layer that owns it, so that `net.to(...)` and
    `net.state_dict()` see it once; the store remembers where and looks there each time.
    """

    def __init__(self, plan: NetPlan) -> None:
        self.specs: tuple[BlobSpec, ...] = tuple(entry.spec for entry in plan.learnables)
        # A blob whose lr_mult is 0 in every layer that has it gets no gradient.
        self._moving = {
            owner for p in plan.layers for owner, cut in zip(p.owners, p.frozen) if not cut
        }
        self._homes: list[Home] = []
        self.shared: set[int] = set()
        """The places whose blobs are another net's."""

    def settle(self, place: int, module: nn.Module) -> None:
        """Make the blob of `place`, of zeros, and register it in the module of its owner."""
        if place < len(self._homes):
            return  # a sharer: the owner came first
        spec = self.specs[place]
        blob = torch.zeros(spec.shape)
        if spec.trained:
            module.register_parameter(spec.name, nn.Parameter(blob, place in self._moving))
        else:
            module.register_buffer(spec.name, blob)
        self._homes.append(Home(module, spec.name))

    def share(self, place: int, other: BlobStore, other_place: int) -> None:
        """Let the blob of `place` be `other`'s from now on; what stood here is dropped."""
        home = self._homes[place]
        if place not in self.shared:
            delattr(home.module, home.name)
        self._homes[place] = other._homes[other_place]
        self.shared.add(place)

    def parameters(self, place: int) -> list[Tensor]:
        """What an optimizer changes of the blob of `place`: itself, if it is no statistic.

        Or what torch's parametrizations or pruning put there to make it of.
        """
        module, name = self._homes[place]
        made_of = (f"{name}_orig", f"parametrizations.{name}.")
        return [
            parameter
            for key, parameter in module.named_parameters()
            if key == name or key.startswith(made_of)
        ]

    def is_made(self, place: int) -> bool:
        """Whether the blob of `place` is computed anew each time, by a parametrization or so."""
        module, name = self._homes[place]
        return name not in module._parameters and name not in module._buffers

    def __len__(self) -> int:
        return len(self._homes)

    def __getitem__(self, place: int) -> Tensor:  # type: ignore[override]
        home = self._homes[place]
        blob: Tensor = getattr(home.module, home.name)
        return blob

    def home(self, place: int) -> Home:
        """Where the blob of `place` is registered."""
        return self._homes[place]

    def unseen(self, place: int) -> Tensor:
        """The blob of `place` for who does not write to it: not counted as handed out."""
        module, name = self._homes[place]
        for registered in (module._parameters, module._buffers):
            blob = registered.get(name)
            if blob is not None:
                return blob
        return self[place]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[place] for place in range(len(self)))
