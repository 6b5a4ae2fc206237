"""CUDA graphs on a CPU: a stand-in that records a call's operations and replays them in place.

As on a device, recording leaves memory and random numbers as they were, a replay runs no Python of
the call, writes where the recorded operations wrote, and draws from torch's generator as it then
stands; and what makes the host wait for a value is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Made = TypeVar("Made")
aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten._unique2,
    aten.repeat_interleave,
}


def tensors(values: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def refuse_waiting(function: Any, values: Any) -> None:
    """Raise for an operation whose result the host needs before it can go on."""
    masked = function.overloadpacket in (aten.index, aten.index_put, aten.index_put_)
    if function.overloadpacket in WAITING or (
        masked and any(x.dtype in (torch.bool, torch.uint8) for x in tensors(values[1]))
    ):
        raise RuntimeError(f"{function} waits for the device")


class _Recording(TorchDispatchMode):
    """Lists the operations below autograd with their tensors, and remembers memory of before."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage | None]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        refuse_waiting(function, args)
        for x in tensors((args, kwargs)):
            storage = x.untyped_storage()
            if storage.data_ptr() not in self.before:
                self.before[storage.data_ptr()] = storage, storage.clone()
        result = function(*args, **kwargs)
        for x in tensors(result):
            self.before.setdefault(x.untyped_storage().data_ptr(), (x.untyped_storage(), None))
        self.calls.append((function, args, kwargs, result))
        return result


class StandInGraphs:
    """`gmnet_pt.solver.capture.Graphs` on a CPU; counts what it was asked for."""

    def __init__(self) -> None:
        self.aside_calls = self.recordings = self.replays = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        self.aside_calls += 1
        yield

    def record(self, call: Callable[[], Made]) -> tuple[Made, Callable[[], None]]:
        self.recordings += 1
        random, recording = torch.get_rng_state(), _Recording()
        with recording:
            made = call()
        for storage, content in recording.before.values():
            if content is not None:
                storage.copy_(content)
        torch.set_rng_state(random)
        return made, lambda: self._replay(recording)

    @torch.no_grad()
    def _replay(self, recording: _Recording) -> None:
        self.replays += 1
        for function, args, kwargs, result in recording.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tensors(result), tensors(again), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)
