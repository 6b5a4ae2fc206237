"""One layer of a net as a torch module, and the namespace that holds a net's layers."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator
from typing import Any, Self
from urllib.parse import quote

import torch
from torch import Tensor, nn

from converters.net.blobs import BlobStore, Home
from converters.net.plan import LayerPlan


class LayerModule(nn.Module):
    """One layer of the graph: its parameter blobs, its state, and its arithmetic.

    A blob that the layer owns is an attribute under its name (`weight`, `bias`, `mean`, …);
    `blobs` has all of them, those of other owners too. `training` decides what differs between
    TRAIN and TEST; a `phase` of the layer's own keeps it where it is.
    """

    given: int
    """How often its blobs were handed out: who has one may write to it (`converters.net.watch`)."""

    def __init__(self, plan: LayerPlan, store: BlobStore) -> None:
        super().__init__()
        self.given = 0
        self.layer = plan.layer
        self.detached = plan.detached if any(plan.detached) else ()
        self.places = plan.owners
        self.shapes = tuple(spec.shape for spec in plan.blobs)
        self.frozen = plan.frozen
        self.bottom_shapes = plan.bottom_shapes
        self._store = store
        for place in plan.owners:
            store.settle(place, self)
        self._state_names = plan.layer.state_shapes(plan.bottom_shapes)
        for name, shape in self._state_names.items():
            self.register_buffer(_scratch(name), torch.zeros(shape), persistent=False)

    @property
    def blobs(self) -> list[Tensor]:
        """The parameter blobs in Caffe's order; one shared from another layer has its own shape.

        Where lr_mult is 0 no gradient comes back through them.
        """
        return [
            blob.detach() if frozen and blob.requires_grad else blob
            for blob, frozen in zip(self._shaped(map(self._store.unseen, self.places)), self.frozen)
        ]

    def stored(self) -> list[Tensor]:
        """The blobs as they are kept, without the cut that lr_mult 0 makes in a gradient's way."""
        return self._shaped(self.leaves())

    def _shaped(self, blobs: Iterable[Tensor]) -> list[Tensor]:
        return [
            blob if blob.shape == shape else blob.view(shape)
            for blob, shape in zip(blobs, self.shapes)
        ]

    def leaves(self) -> list[Tensor]:
        """The blobs as their owners have them: the tensors whose `grad` is theirs."""
        return [self._store[place] for place in self.places]

    def homes(self) -> list[Home]:
        """Where its blobs are registered."""
        return [self._store.home(place) for place in self.places]

    def is_made(self) -> bool:
        """Whether one of its blobs is computed anew each time."""
        return any(map(self._store.is_made, self.places))

    @property
    def state(self) -> dict[str, Tensor]:
        """State kept between forwards, by name."""
        # No blobs: they are not counted, which compiled code would be made anew for each time.
        kept: dict[str, Any] = self._buffers
        return {name: kept[_scratch(name)] for name in self._state_names}

    def __getattr__(self, name: str) -> Any:
        self.__dict__["given"] += 1
        return super().__getattr__(name)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """As any module's: this is how `parameters()` of whatever holds it finds its blobs."""
        self.given += 1
        yield from super().named_modules(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self.given += 1
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.given += 1
        super()._save_to_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """As any module's; a layer with a `phase` of its own stays in it."""
        own = self.layer.param.HasField("phase")
        return super().train(self.layer.phase == "TRAIN" if own else mode)

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the layer on its bottoms."""
        if self.detached:
            bottoms = tuple(
                x.detach() if cut else x for x, cut in zip(bottoms, self.detached, strict=True)
            )
        return self.layer.forward(self, *bottoms)

    def extra_repr(self) -> str:
        """The layer's type and name, for `print(net)`."""
        return f"{self.layer.type} {self.layer.name!r}"


def _scratch(name: str) -> str:
    """A state's attribute, which must not meet a blob's name."""
    return f"state_{name}"


class Layers(nn.Module):
    """The namespace of a net's layers, so that no layer's name meets another attribute.

    `layers["conv1/3x3"]` is the module of the layer of that name.
    """

    def __getitem__(self, key: str) -> Any:
        return self._modules[attribute(key)]


# What a module has already: a layer of such a name takes another.
_TAKEN = frozenset(dir(Layers()))


def attribute(key: str) -> str:
    """A layer's key as an attribute of `Layers`: as it stands, but for what torch forbids.

    A dot, and whatever might end the string in which fx's code names the attribute, become %XX as
    in web addresses; empty names, Python's own words and a module's attributes get a % in front.
    Different keys stay different.
    """
    escaped = quote(key, safe="/# +:@,()=").replace(".", "%2E")
    reserved = not escaped or escaped in _TAKEN or keyword.iskeyword(escaped)
    return f"%{escaped}" if reserved else escaped
