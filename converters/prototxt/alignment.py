"""The offsets of old Crop layers, which come of the net's geometry: FCN's branch of Caffe.

Its V1 `CROP` has no settings. It aligns its bottoms: where the two paths down to their common blob
shift and stride, the offset is how far the second bottom's first value lies in the first bottom.
Today's Crop is given the offset, and `converters.prototxt.upgrade` writes it. Source:
longjon/caffe (branch future) crop_layer.cpp and util/coords.hpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from converters.errors import PrototxtError
from converters.proto import caffe_pb2 as pb


class Affine(NamedTuple):
    """x → scale · x + shift: a coordinate of one blob as one of another, along one axis."""

    scale: Fraction
    shift: Fraction

    def after(self, other: Affine) -> Affine:
        """self(other(x))."""
        return Affine(self.scale * other.scale, self.scale * other.shift + self.shift)

    def inverse(self) -> Affine:
        """The map back."""
        return Affine(1 / self.scale, -self.shift / self.scale)


IDENTITY = Affine(Fraction(1), Fraction(0))


def _windows(param: Any) -> tuple[Affine, Affine]:
    """Where a window's middle is in the bottom, for its place in the top: height and width."""

    def value(name: str, axis: str, default: int) -> int:
        if param.HasField(f"{name}_{axis}"):
            return int(getattr(param, f"{name}_{axis}"))
        field = "kernel_size" if name == "kernel" else name
        given = getattr(param, field)
        return (
            int(given or default) if isinstance(given, int) else int((list(given) or [default])[-1])
        )

    def along(axis: str) -> Affine:
        kernel, stride, pad = (
            value(*one) for one in (("kernel", axis, 1), ("stride", axis, 1), ("pad", axis, 0))
        )
        return Affine(Fraction(stride), Fraction(kernel - 1, 2) - pad)

    return along("h"), along("w")


Maps = tuple[Affine, Affine]


def _shrinking(param: Any) -> Maps:
    down, across = _windows(param)
    return down.inverse(), across.inverse()


def _cropped(param: pb.CropParameter) -> Maps:
    offsets = list(param.offset) * (1 if len(param.offset) == 2 else 2) or [0, 0]
    down, across = (Affine(Fraction(1), Fraction(-offset)) for offset in offsets[:2])
    return down, across


# From a coordinate of the bottom to one of the top; types that are not here shift nothing.
MAPS: dict[str, Callable[[pb.LayerParameter], Maps]] = {
    "Convolution": lambda layer: _shrinking(layer.convolution_param),
    "Pooling": lambda layer: _shrinking(layer.pooling_param),
    "Deconvolution": lambda layer: _windows(layer.convolution_param),
    "Crop": lambda layer: _cropped(layer.crop_param),
}
STILL = frozenset(
    [
        "Concat",
        "Eltwise",
        "LRN",
        "MVN",
        "Slice",
        "Softmax",
        "Split",
        "AbsVal",
        "BNLL",
        "Dropout",
        "Exp",
        "Log",
        "Power",
        "PReLU",
        "ReLU",
        "Sigmoid",
        "TanH",
        "Threshold",
        "BatchNorm",
        "Scale",
    ]
)


def align_crops(layers: Sequence[pb.LayerParameter], crops: Sequence[int], source: str) -> None:
    """Give the Crop layers at `crops`, which have no offset, the one that aligns their bottoms.

    Raises:
        PrototxtError: bottoms without a common blob, or at different scales; a layer between that
            no map is known for.
    """
    made = {top: layer for layer in reversed(layers) for top in layer.top}
    for crop in (layers[index] for index in crops):
        place = f'{source}: layer "{crop.name}" (CROP)'
        if len(crop.bottom) != 2:
            raise PrototxtError(f"{place}: takes 2 bottom blobs, got {len(crop.bottom)}")
        if crop.crop_param.offset:
            continue
        paths = [list(_way_down(name, made)) for name in crop.bottom]
        blobs = [name for name, _ in paths[0]]
        common = next((name for name, _ in paths[1] if name in blobs), None)
        if common is None:
            raise PrototxtError(
                f'{place}: "{crop.bottom[0]}" and "{crop.bottom[1]}" come of no common blob, so '
                "that nothing aligns them; give it crop_param { offset: … }"
            )
        first, second = (_from(common, path, place) for path in paths)
        for axis in range(2):
            aligned = second[axis].after(first[axis].inverse())
            if aligned.scale != 1 or aligned.shift > 0 or aligned.shift.denominator != 1:
                raise PrototxtError(
                    f'{place}: "{crop.bottom[0]}" and "{crop.bottom[1]}" cannot be aligned: scale '
                    f"{float(aligned.scale):g}, offset {float(-aligned.shift):g}"
                )
            crop.crop_param.offset.append(int(-aligned.shift))


def _way_down(
    name: str, made: dict[str, pb.LayerParameter]
) -> Iterator[tuple[str, pb.LayerParameter | None]]:
    """Blobs from `name` down by first bottoms, each with the layer that makes it."""
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        layer = made.get(name)
        yield name, layer
        if layer is None or not layer.bottom:
            return
        name = layer.bottom[0]


def _from(blob: str, path: list[tuple[str, pb.LayerParameter | None]], place: str) -> Maps:
    """From coordinates of `blob` to those of the path's top."""
    maps = (IDENTITY, IDENTITY)
    for name, layer in path:
        if name == blob or layer is None:
            break
        if layer.type not in MAPS and layer.type not in STILL:
            raise PrototxtError(
                f'{place}: how "{layer.name}" ({layer.type}) shifts its values is not known; give '
                "it crop_param { offset: … }"
            )
        if layer.type in MAPS:
            own = MAPS[layer.type](layer)
            maps = (maps[0].after(own[0]), maps[1].after(own[1]))
    return maps
