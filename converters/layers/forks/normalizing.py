"""Forks' Normalize: values divided by their length, SSD's and happynear's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from torch import Tensor

    from converters.layers.forks.arithmetic import lengths

register = Family("#d9f0a3")

SSDS = ("across_spatial", "scale_filler", "channel_shared", "eps")


@register("Normalize", "norm_param")
class Normalize(Layer):
    """x / √(Σ x² + eps) · scale, the sum over an item, or over its channels at each position.

    The sum is over all of an item unless `across_spatial` is false; the scale is one value, or one
    a channel unless `channel_shared`. With one a channel the gradient of x is not the derivative:
    the scales come last, outside the sum. Source: weiliu89/caffe normalize_layer.cpp.
    """

    origin = "SSD"

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param, shape = self.param.norm_param, bottoms[0]
        self._check(shape)
        self.eps = param.eps
        self.across = param.across_spatial
        filler = pb.FillerParameter(type="constant", value=1)
        if param.HasField("scale_filler"):
            filler = param.scale_filler
        self.scales: Shape = () if param.channel_shared else (shape[1],)
        return [BlobSpec("scale", self.scales, filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self._check(bottoms[0])
        if self.scales and bottoms[0][1] != self.scales[0]:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} has {bottoms[0][1]} channels, the "
                f"scale {self.scales[0]}"
            )
        return [bottoms[0]]

    def _check(self, shape: Shape) -> None:
        if not 2 <= len(shape) <= 4:
            raise self.shape_error(f"bottom {self.bottom_name(0)} {shape} must have 2 to 4 axes")

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        axes = tuple(range(1, x.dim())) if self.across else (1,)
        y: Tensor = lengths.Normalized.apply(x, state.blobs[0], axes, self.eps)  # type: ignore[no-untyped-call]
        return y

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        return "norm_param is set" if param.HasField("norm_param") else ""

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return len(shapes) == 1


@register.meaning("Normalize", "normalize_param")
class NormalizeByType(Layer):
    """x / √(Σ x² + 1e-6), or x / (Σ |x| + 1e-6) with `normalize_type: "L1"`, over the channels.

    An optional second top (N, 1, H, W) has what was divided by; its gradient counts with `bp_norm`.
    With `fix_gradient` the first top's gradient is not divided by it.
    Source: happynear/caffe-windows normalize_layer.cu.
    """

    origin = "happynear"
    tops = Count(1, 2)
    of_forks = (
        "normalize_param.normalize_type",
        "normalize_param.fix_gradient",
        "normalize_param.bp_norm",
    )
    refused = dict.fromkeys(
        (f"normalize_param.{name}" for name in SSDS), "a field of SSD's Normalize, by norm_param"
    )
    differences = "fix_gradient counts on a CPU too; the fork's CPU code passes over it"

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.normalize_param
        if param.normalize_type not in ("L1", "L2"):
            raise self.error(f'normalize_type "{param.normalize_type}" must be L1 or L2')
        if others := [name for name in SSDS if param.HasField(name)]:
            raise self.error(f"{', '.join(others)}: fields of SSD's Normalize, in norm_param")
        self.kind, self.through_length = param.normalize_type, param.bp_norm
        self.undivided = param.fix_gradient
        self.with_length = len(self.param.top) == 2
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if not 1 <= len(shape) <= 4:
            raise self.shape_error(f"bottom {self.bottom_name(0)} {shape} must have 1 to 4 axes")
        number, channels, height, width = shape + (1,) * (4 - len(shape))
        tops: list[Shape] = [(number, channels, height, width), (number, 1, height, width)]
        return tops if self.with_length else tops[:1]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        shape = bottoms[0].shape
        x = bottoms[0].reshape(*shape, *[1] * (4 - len(shape)))
        length = self._length(x)
        if self.undivided:
            # Its value is x, its gradient that of x times the length.
            x = x.detach() + (x - x.detach()) * length.detach()
        y = x / self._length(x) if self.undivided else x / length
        if not self.with_length:
            return y
        return y, length if self.through_length else length.detach()

    def _length(self, x: Tensor) -> Tensor:
        if self.kind == "L1":
            return x.abs().sum(1, keepdim=True) + 1e-6
        return (x.square().sum(1, keepdim=True) + 1e-6).sqrt()

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        if param.HasField("normalize_param"):
            return "normalize_param is set"
        return "it has two tops" if len(param.top) == 2 else ""

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return not shapes
