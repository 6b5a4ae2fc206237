"""Whether the blobs that something was made of are still what they were.

A net without gradients runs on weights that were folded and packed (`converters.net.frozen`). Asked
before each call, a watch says whether those still hold. Most changes show in a tensor itself: torch
counts what is written to it, and one that was replaced, or moved to another type, is another or
lies elsewhere. What is written through `blob.data` or a NumPy array is counted nowhere: so each
layer's module counts how often its blobs were handed out, and while somebody holds one of them, or
an alias, the values themselves are compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from converters.net.blobs import Home
from converters.net.layer_module import LayerModule


class _Seen(NamedTuple):
    """A blob where its module has it, as it was; by a weak reference, which nobody counts."""

    registered: dict[str, Any]
    name: str
    blob: ref[Tensor]
    version: int
    place: int

    def now(self) -> Tensor:
        """The blob that is there."""
        blob: Tensor = self.registered[self.name]
        return blob


class Watch:
    """What some layers are as of now: in training or not, which blobs, their values.

    With `keep` a copy of the values is kept in any case, otherwise only if somebody else holds one.
    """

    def __init__(
        self, modules: Sequence[LayerModule], homes: Sequence[Home], keep: bool = False
    ) -> None:
        self._states = [module.__dict__ for module in modules]
        self._training = [state["training"] for state in self._states]
        self._owners = [owner.__dict__ for owner in {home.module for home in homes}]
        self._blobs = [_seen(home) for home in homes]
        # What is written to a tensor of inference mode is never counted.
        self._uncounted = any(seen.now().is_inference() for seen in self._blobs)
        held = self._held()
        self.given = -1 if held else self._given()
        self._copies: list[Tensor] | None = None
        if keep or held:
            self._copies = [seen.now().detach().clone() for seen in self._blobs]

    def _given(self) -> int:
        return sum([state["given"] for state in self._owners])

    def holds(self) -> bool:
        """Whether everything is as it was."""
        return (
            [state["training"] for state in self._states] == self._training
            and self._same_tensors()
            and (self._given() == self.given or self._same_values())
        )

    def _same_tensors(self) -> bool:
        for registered, name, known, version, place in self._blobs:
            there = known()
            if there is None or id(registered.get(name)) != id(there):
                return False
            if _version(there) != version or there.data_ptr() != place:
                return False
        return True

    def _same_values(self) -> bool:
        """Compare the values; then those that nobody holds any more need not be compared again."""
        if self._copies is None:
            return False
        if not all(torch.equal(seen.now(), copy) for seen, copy in zip(self._blobs, self._copies)):
            return False
        self.given = -1 if self._held() else self._given()
        return True

    def _held(self) -> bool:
        """Whether anybody but its module has one of the blobs, or what shares its memory."""
        registered: dict[str, Any] = {"alone": torch.zeros(1)}
        alone = _references(registered, "alone")
        return self._uncounted or any(_references(*seen[:2]) != alone for seen in self._blobs)


def _seen(home: Home) -> _Seen:
    parameters, buffers = home.module._parameters, home.module._buffers
    registered: dict[str, Any] = parameters if home.name in parameters else buffers
    blob = registered[home.name]
    return _Seen(registered, home.name, ref(blob), _version(blob), blob.data_ptr())


def _version(blob: Tensor) -> int:
    return -1 if blob.is_inference() else blob._version


def _references(registered: dict[str, Any], name: str) -> tuple[int, int]:
    """How many have the tensor, and how many tensors its memory."""
    memory = registered[name].untyped_storage()._cdata
    return sys.getrefcount(registered[name]), torch._C._storage_Use_Count(memory)
