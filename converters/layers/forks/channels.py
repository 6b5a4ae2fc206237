"""Forks' layers that reorder or weigh channels: ShuffleChannel, Axpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    from torch import Tensor

register = Family("#dadaeb")


@register("ShuffleChannel", "shuffle_channel_param")
class ShuffleChannel(Layer):
    """(N, g, C / g, …) with its groups and their channels exchanged: (N, C / g, g, …).

    Source: farmingyard/ShuffleNet shuffle_channel_layer.cpp.
    """

    origin = "ShuffleNet"
    in_place = False
    moves_values = True

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.group = self.param.shuffle_channel_param.group
        if self.group < 1:
            raise self.error(f"group {self.group} must be positive")
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 2:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have 2 axes or more"
            )
        if bottoms[0][1] % self.group:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]}: {bottoms[0][1]} channels are not "
                f"divisible by group {self.group}"
            )
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        groups = x.reshape(x.shape[0], self.group, -1, *x.shape[2:])
        return groups.transpose(1, 2).flatten(1, 2)


@register("Axpy")
class Axpy(Layer):
    """z = a · x + y: a (N, C) or (N, C, 1, 1) scales the maps x (N, C, H, W), y is added.

    Source: hujie-frank/SENet axpy_layer.cpp.
    """

    origin = "SENet"
    bottoms = Count(3, 3)
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        a, x, y = bottoms
        if len(x) < 2 or a[:2] != x[:2] or (len(a) > 2 and a[2:] != (1, 1)):
            raise self.shape_error(
                f"{self.bottom_name(0)} {a} must have the items and channels of "
                f"{self.bottom_name(1)} {x}, and no others: (N, C) or (N, C, 1, 1)"
            )
        if x != y:
            raise self.shape_error(
                f"{self.bottom_name(1)} {x} and {self.bottom_name(2)} {y} must have one shape"
            )
        return [x]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        a, x, y = bottoms
        return a.reshape(*x.shape[:2], *(1,) * (x.dim() - 2)) * x + y
