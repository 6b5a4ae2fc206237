"""SSD's PriorBox: the boxes that predictions are relative to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from converters.layers.forks.predictions import register
from converters.layers.registry import BlobSpec, Count, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class _Size(NamedTuple):
    width: float
    height: float


@register("PriorBox", "prior_box_param")
class PriorBox(Layer):
    """Boxes around the places of a map, as shares of the image: (1, 2, h·w·boxes·4).

    Around ((j + offset) · step_w, (i + offset) · step_h) there is, for each min_size m, a square of
    m; then one of √(m · max_size); then one of m · √r by m / √r for each aspect ratio r but 1, each
    followed by its inverse with `flip`. Sizes count as whole numbers, what is behind the point
    dropped. `clip` cuts boxes at the image's border. The second row has the variances of the first.
    Image and step are those of the fields, or else of the second bottom.
    Source: weiliu89/caffe prior_box_layer.cpp.
    """

    origin = "SSD"
    bottoms = Count(2, 2)
    no_gradient = (0, 1)
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.prior_box_param
        least, most = list(param.min_size), list(param.max_size)
        if not least or any(not size > 0 for size in least):
            raise self.error(f"min_size {least} must be given and positive")
        if most and (len(most) != len(least) or any(b <= a for a, b in zip(least, most))):
            raise self.error(
                f"max_size {most} must have a larger value for each min_size {least}, or none"
            )
        if any(not ratio > 0 for ratio in param.aspect_ratio):
            raise self.error(f"aspect_ratio {list(param.aspect_ratio)} must be positive")
        self.variances = list(param.variance) or [pb.PriorBoxParameter(variance=[0.1]).variance[0]]
        if len(self.variances) not in (1, 4) or any(not v > 0 for v in self.variances):
            raise self.error(f"variance {self.variances} must be one positive value, or four")
        self.image = self._pair("img", "img_size")
        self.step = self._pair("step", "step")
        self.sizes = list(self._sizes(least, most))
        self._made: dict[object, Tensor] = {}
        return ()

    def _pair(self, stem: str, both: str) -> _Size | None:
        """The width and the height that fields give, together or each; None for none."""
        param = self.param.prior_box_param
        single = [f"{stem}_h", f"{stem}_w"]
        if any(map(param.HasField, single)):
            if param.HasField(both):
                raise self.error(f"give {both}, or {single[0]} and {single[1]}, not both")
            height, width = (getattr(param, name) for name in single)
        elif param.HasField(both):
            single = [both]
            height = width = getattr(param, both)
        else:
            return None
        if not (height > 0 and width > 0):
            raise self.error(f"{' and '.join(single)} must be positive")
        return _Size(width, height)

    def _sizes(self, least: Sequence[float], most: Sequence[float]) -> Sequence[_Size]:
        """The boxes of one place."""
        param = self.param.prior_box_param
        ratios = [1.0]
        for ratio in param.aspect_ratio:
            if all(abs(ratio - known) >= 1e-6 for known in ratios):
                ratios += [ratio, 1 / ratio] if param.flip else [ratio]
        found = []
        for index, size in enumerate(map(int, least)):
            found.append(_Size(size, size))
            if most:
                side = math.sqrt(size * int(most[index]))
                found.append(_Size(side, side))
            found += [
                _Size(size * math.sqrt(ratio), size / math.sqrt(ratio))
                for ratio in ratios
                if abs(ratio - 1) >= 1e-6
            ]
        return found

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for index, shape in enumerate(bottoms):
            if not 1 <= len(shape) <= 4:
                raise self.shape_error(f"{self.bottom_name(index)} {shape} must have 1 to 4 axes")
        height, width = _height_and_width(bottoms[0])
        return [(1, 2, height * width * len(self.sizes) * 4)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        shapes = [tuple(x.shape) for x in bottoms]
        kind = torch.promote_types(bottoms[0].dtype, torch.float32)
        key = (*map(_height_and_width, shapes), kind, bottoms[0].device)
        if key not in self._made:
            self._made = {key: self._boxes(shapes, bottoms[0].device).to(kind)}
        return self._made[key].clone()

    def _boxes(self, shapes: Sequence[Shape], device: torch.device) -> Tensor:
        height, width = _height_and_width(shapes[0])
        whole_height, whole_width = _height_and_width(shapes[1])
        image = self.image or _Size(whole_width, whole_height)
        step = self.step or _Size(image.width / width, image.height / height)
        offset = self.param.prior_box_param.offset
        along = [
            (torch.arange(number, device=device, dtype=torch.float64) + offset) * size
            for number, size in zip((width, height), step)
        ]
        x, y = along[0].expand(height, width), along[1][:, None].expand(height, width)
        places = [
            torch.stack(
                [
                    (x - size.width / 2) / image.width,
                    (y - size.height / 2) / image.height,
                    (x + size.width / 2) / image.width,
                    (y + size.height / 2) / image.height,
                ],
                -1,
            )
            for size in self.sizes
        ]
        found = torch.stack(places, 2).flatten()
        if self.param.prior_box_param.clip:
            found = found.clamp(0, 1)
        variances = self.variances if len(self.variances) == 4 else self.variances * 4
        columns = [torch.full_like(found[::4], value) for value in variances]
        return torch.stack([found, torch.stack(columns, 1).flatten()])[None]


def _height_and_width(shape: Shape) -> tuple[int, int]:
    """Those of a blob (num, channels, height, width), 1 where it has fewer axes."""
    _, _, height, width = shape[:4] + (1,) * (4 - len(shape))
    return height, width
