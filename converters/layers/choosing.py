"""Layers that choose whole items of a batch: BatchReindex, Filter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    from torch import Tensor

register = Family("#dadaeb")


@register("BatchReindex")
class BatchReindex(Layer):
    """The items of bottom 0 that bottom 1 numbers. Source: batch_reindex_layer.cpp."""

    bottoms = Count(2, 2)
    no_gradient = (1,)
    whole_numbers = (1,)
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[1]) != 1 or not bottoms[0]:
            raise self.shape_error(
                f"{self.bottom_name(1)} {bottoms[1]} must have one axis, and "
                f"{self.bottom_name(0)} {bottoms[0]} at least one"
            )
        return [(*bottoms[1], *bottoms[0][1:])]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        rows, indices = bottoms
        try:
            return rows.index_select(0, indices.long())
        except IndexError as error:
            raise self.shape_error(
                f"{self.bottom_name(1)} has an index outside the rows of {self.bottom_name(0)} "
                f"(accepted: 0 to {rows.shape[0] - 1})"
            ) from error


@register("Filter")
class Filter(Layer):
    """The items of each bottom but the last whose selector, the last bottom, is not 0.

    The number of items depends on the data; shapes are inferred for all of them.
    Source: Caffe layers/filter_layer.cpp.
    """

    needs_host = "has tops whose size depends on the data"
    differences = "where no item is chosen the gradient is 0; Caffe's backward pass crashes"
    bottoms = Count(2, None)
    tops = Count(1, None)
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        if len(self.param.top) != len(bottoms) - 1:
            raise self.error(
                f"needs a top for each bottom but the selector: {len(bottoms) - 1}, "
                f"got {len(self.param.top)}"
            )
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        selector = bottoms[-1]
        if not selector or math.prod(selector[1:]) != 1:
            raise self.shape_error(
                f"selector {self.bottom_name(len(bottoms) - 1)} {selector} must have one value "
                "an item"
            )
        for index, shape in enumerate(bottoms[:-1]):
            if shape[:1] != selector[:1]:
                raise self.shape_error(
                    f"{self.bottom_name(index)} {shape} must have as many items as the selector "
                    f"{selector}"
                )
        return list(bottoms[:-1])

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        chosen = bottoms[-1].detach().reshape(-1) != 0
        tops = tuple(x[chosen] for x in bottoms[:-1])
        return tops[0] if len(tops) == 1 else tops
