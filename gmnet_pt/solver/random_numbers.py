"""The random numbers of one run: fillers, dropout and whatever else draws from torch's generators.

Torch has one generator a device for the whole process. A run keeps the states of its own and lends
them to the process while it draws, so that runs side by side do not disturb each other. Readers
draw from numbers of their own (`converters.readers.reader`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class RandomNumbers:
    """The states of a run's generators, by "cpu" and "cuda", seeded with `seed` or at random."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        chosen = secrets.randbits(63) if seed is None else seed
        outer = self._process()
        torch.default_generator.manual_seed(chosen)
        if self._cuda is not None:
            with torch.cuda.device(self._cuda):
                torch.cuda.manual_seed(chosen)
        self._own = self._process()
        self._enter(outer)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Draw from the run's numbers inside; not to be nested."""
        outer = self._process()
        self._enter(self._own)
        try:
            yield
        finally:
            self._own = self._process()
            self._enter(outer)

    def state(self) -> dict[str, Tensor]:
        """The generators' states: uint8 tensors on the host."""
        return {name: tensor.clone() for name, tensor in self._own.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken; a generator that it lacks goes on as it is.

        Raises:
            RuntimeError, TypeError: no state of such a generator.
        """
        outer, wanted = self._process(), {**self._own, **state}
        try:
            self._enter(wanted)
            self._own = self._process()
        finally:
            self._enter(outer)

    def _process(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._cuda is not None:
            states["cuda"] = torch.cuda.get_rng_state(self._cuda)
        return states

    def _enter(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self._cuda is not None:
            torch.cuda.set_rng_state(states["cuda"], self._cuda)
