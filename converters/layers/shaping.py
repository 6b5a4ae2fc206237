"""Layers that give the same values another shape or extent: Flatten, Reshape, Tile, Crop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    from torch import Tensor

register = Family("#dadaeb")


@register("Flatten", "flatten_param")
class Flatten(Layer):
    """Axes `axis` to `end_axis` as one. Source: flatten_layer.cpp."""

    in_place = False
    moves_values = True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        start, end = self._axes(len(bottoms[0]))
        shape = bottoms[0]
        return [(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])]

    def _axes(self, number: int) -> tuple[int, int]:
        param = self.param.flatten_param
        start = self.axis(param.axis, number)
        end = self.axis(param.end_axis, number, "end_axis")
        if end < start - 1:
            raise self.shape_error(f"end_axis {end} comes before axis {start}")
        return start, end

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        start, end = self._axes(x.dim())
        # No axes at all (end_axis just before axis) become a new axis of 1, as in Caffe.
        return x.unsqueeze(start) if end < start else x.flatten(start, end)


@register("Reshape", "reshape_param")
class Reshape(Layer):
    """Axes from `axis` on, `num_axes` of them, in a new shape: 0 copies, one -1 is inferred.

    Source: Caffe layers/reshape_layer.cpp.
    """

    in_place = False
    moves_values = True

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.dims = list(self.param.reshape_param.shape.dim)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, shape, dims = self.param.reshape_param, bottoms[0], self.dims
        number = len(shape)
        start = param.axis if param.axis >= 0 else number + param.axis + 1
        if not 0 <= start <= number:
            raise self.shape_error(f"axis {param.axis} is out of range for {shape}")
        if param.num_axes < -1:
            raise self.error(f"num_axes {param.num_axes} must be -1 (all) or more")
        end = number if param.num_axes == -1 else start + param.num_axes
        if end > number:
            raise self.shape_error(f"axis {start} and num_axes {param.num_axes} exceed {shape}")
        if any(dim < -1 for dim in dims) or dims.count(-1) > 1:
            raise self.error(f"shape {dims} may hold sizes, 0 (copy) and one -1 (infer)")
        copied = [self._copied(dim, start + i, shape) for i, dim in enumerate(dims)]
        total = math.prod(shape)
        if -1 in copied:
            known = math.prod(shape[:start]) * math.prod([d for d in copied if d != -1])
            known *= math.prod(shape[end:])
            if not known or total % known:
                raise self.shape_error(f"{shape} cannot be arranged as {dims} from axis {start} on")
            copied[copied.index(-1)] = total // known
        top = (*shape[:start], *copied, *shape[end:])
        if math.prod(top) != total:
            raise self.shape_error(f"{shape} has {total} values, {top} {math.prod(top)}")
        return [top]

    def _copied(self, dim: int, axis: int, shape: Shape) -> int:
        if dim:
            return dim
        if axis >= len(shape):
            raise self.shape_error(f"dim 0 copies axis {axis}, which {shape} does not have")
        return shape[axis]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return bottoms[0].reshape(self.reshape([tuple(bottoms[0].shape)])[0])


@register("Tile", "tile_param")
class Tile(Layer):
    """The bottom `tiles` times along `axis`. Source: tile_layer.cpp."""

    in_place = False
    moves_values = True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.tile_param
        if not param.HasField("tiles") or param.tiles < 1:
            raise self.error(f"tiles {param.tiles} must be given and positive")
        along = self.axis(param.axis, len(bottoms[0]))
        shape = bottoms[0]
        return [(*shape[:along], shape[along] * param.tiles, *shape[along + 1 :])]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param, x = self.param.tile_param, bottoms[0]
        repeats = [1] * x.dim()
        repeats[param.axis % x.dim()] = param.tiles
        return x.repeat(repeats)


@register("Crop", "crop_param")
class Crop(Layer):
    """Bottom 0 cut to bottom 1's size from `axis` on, at `offset`. Source: crop_layer.cpp."""

    bottoms = Count(2, 2)
    no_gradient = (1,)
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.start = self.axis(self.param.crop_param.axis, len(bottoms[0]))
        axes = range(self.start, len(bottoms[0]))
        given = list(self.param.crop_param.offset) or [0]
        if len(given) not in (1, len(axes)):
            raise self.error(
                f"offset is given {len(given)} times; give none, one, or one for each of the "
                f"{len(axes)} cropped axes"
            )
        self.offsets = list(zip(axes, given * len(axes) if len(given) == 1 else given))
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        source, reference = bottoms
        if len(source) != len(reference):
            raise self.shape_error(
                f"{self.bottom_name(0)} {source} and {self.bottom_name(1)} {reference} must have "
                "the same number of axes"
            )
        for axis, offset in self.offsets:
            if reference[axis] + offset > source[axis]:
                raise self.shape_error(
                    f"offset {offset} and size {reference[axis]} of {self.bottom_name(1)} exceed "
                    f"size {source[axis]} of {self.bottom_name(0)} on axis {axis}"
                )
        return [(*source[: self.start], *reference[self.start :])]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        y = bottoms[0]
        for axis, offset in self.offsets:
            y = y.narrow(axis, offset, bottoms[1].shape[axis])
        return y.contiguous()
