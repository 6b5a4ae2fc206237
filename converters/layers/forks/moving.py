"""Forks' layers that give values other places: Reorg, Reverse, Flip, Transpose, Permute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    from torch import Tensor

register = Family("#dadaeb")


@register("Reorg", "reorg_param")
class Reorg(Layer):
    """Space to depth in YOLO's order, (N, C, H, W) to (N, C·s², H/s, W/s); `reverse` undoes it.

    It takes the bottom's values as (N, C/s², H·s, W·s), whatever its shape, and writes those at
    (h·s + i, w·s + j) of map c as value (h, w) of map (i·s + j)·C/s² + c of (N, C, H, W).
    Source: eric612/MobileNet-YOLO reorg_layer.cpp, after darknet's.
    """

    origin = "MobileNet-YOLO"
    in_place = False
    moves_values = True
    differences = "the fork's backward pass reads a buffer that nothing fills; here it is true"

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.reorg_param
        self.stride, self.reverse = param.stride, param.reverse
        if not param.HasField("stride") or self.stride < 1:
            raise self.error(f"stride {self.stride} must be given and positive")
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape, s = bottoms[0], self.stride
        if len(shape) != 4:
            raise self.shape_error(f"bottom {self.bottom_name(0)} {shape} must have 4 axes")
        number, channels, height, width = shape
        if channels % s**2:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {shape}: {channels} channels are not divisible by "
                f"stride {s} squared"
            )
        if self.reverse:
            return [(number, channels // s**2, height * s, width * s)]
        if height % s or width % s:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {shape}: height {height} and width {width} must be "
                f"divisible by stride {s}"
            )
        return [(number, channels * s**2, height // s, width // s)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x, s = bottoms[0], self.stride
        number, channels, height, width = x.shape
        if self.reverse:
            maps = x.reshape(number, s, s, channels // s**2, height, width)
            return maps.permute(0, 3, 4, 1, 5, 2).reshape(number, -1, height * s, width * s)
        maps = x.reshape(number, channels // s**2, height, s, width, s)
        return maps.permute(0, 3, 5, 1, 2, 4).reshape(
            number, channels * s**2, height // s, width // s
        )


@register("Reverse", "reverse_param")
class Reverse(Layer):
    """The values of one axis in reverse order. Source: senlinuc/caffe_ocr reverse_layer.cpp."""

    origin = "caffe_ocr"
    in_place = False
    moves_values = True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = self.param.reverse_param.axis
        if not 0 <= axis < len(bottoms[0]):
            raise self.shape_error(
                f"axis {axis} is no axis of bottom {self.bottom_name(0)} {bottoms[0]}; it counts "
                "from 0"
            )
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return bottoms[0].flip(self.param.reverse_param.axis)


@register("Flip", "flip_param")
class Flip(Layer):
    """Maps (N, C, H, W) mirrored left to right (`flip_width`), upside down (`flip_height`).

    Source: happynear/caffe-windows flip_layer.cpp.
    """

    origin = "happynear"
    in_place = False
    moves_values = True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) > 4:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have at most 4 axes"
            )
        return [bottoms[0]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param, x = self.param.flip_param, bottoms[0]
        flipped = [
            axis for axis, is_set in ((3, param.flip_width), (2, param.flip_height)) if is_set
        ]
        return x.flip([axis for axis in flipped if axis < x.dim()])


@register("Transpose", "transpose_param")
class Transpose(Layer):
    """The axes in the order `dim`. Source: senlinuc/caffe_ocr transpose_layer.cpp."""

    origin = "caffe_ocr"
    in_place = False
    moves_values = True

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.order = list(self.param.transpose_param.dim)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if sorted(self.order) != list(range(len(shape))):
            raise self.error(
                f"dim {self.order} must name each of the {len(shape)} axes of bottom "
                f"{self.bottom_name(0)} {shape} once"
            )
        return [tuple(shape[axis] for axis in self.order)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return bottoms[0].permute(self.order).contiguous()


@register("Permute", "permute_param")
class Permute(Layer):
    """The axes in another order: `order`, then those that it leaves out.

    Source: weiliu89/caffe permute_layer.cpp.
    """

    origin = "SSD"
    in_place = False
    moves_values = True

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        given, axes = list(self.param.permute_param.order), len(bottoms[0])
        if len(set(given)) < len(given) or any(axis >= axes for axis in given):
            raise self.error(
                f"order {given} must name axes of bottom {self.bottom_name(0)} {bottoms[0]}, 0 to "
                f"{axes - 1}, each once"
            )
        self.order = (*given, *(axis for axis in range(axes) if axis not in given))
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != len(self.order):
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have {len(self.order)} axes"
            )
        return [tuple(bottoms[0][axis] for axis in self.order)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        return bottoms[0].permute(self.order)
