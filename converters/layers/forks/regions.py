"""Layers of the R-CNN family that look at regions of maps, or propose them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from converters.layers.forks.arithmetic import bins, suppression

register = Family("#fdae6b")

REGION = 5
ROW = "(image, x1, y1, x2, y2)"


class _OfRegions(Layer):
    """A layer that takes maps (N, C, H, W) and regions (R, 5): image, x1, y1, x2, y2."""

    bottoms = Count(2, 2)
    no_gradient = (1,)
    in_place = False

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise unless the bottoms are maps and regions, whose further axes are 1."""
        maps, regions = bottoms
        if len(maps) != 4:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {maps} must have 4 axes (N, C, H, W)"
            )
        if regions[1:2] != (REGION,) or any(size != 1 for size in regions[2:]):
            raise self.shape_error(
                f"{self.bottom_name(1)} {regions} must be ({regions[0] if regions else 'R'}, "
                f"{REGION}): rows {ROW}"
            )

    def regions(self, bottoms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The image (R,) and the corners (R, 4) of each region.

        On a CPU an image that is not in the batch is an error, as in the forks' CPU code.
        """
        rows = bottoms[1].detach().reshape(-1, REGION)
        image, number = rows[:, 0].long(), len(bottoms[0])
        if image.device.type == "cpu" and image.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in image.aminmax())
            if low < 0 or high >= number:
                raise self.error(
                    f"image {low if low < 0 else high} in {self.bottom_name(1)} is not among the "
                    f"{number} of {self.bottom_name(0)}"
                )
        return image, rows[:, 1:]


class _Pooled(_OfRegions):
    """A layer of regions that reads roi_pooling_param."""

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.roi_pooling_param
        self.pooled = (param.pooled_h, param.pooled_w)
        if min(self.pooled) < 1:
            raise self.error(f"pooled_h {param.pooled_h} and pooled_w {param.pooled_w} must be > 0")
        self.scale, self.more = param.spatial_scale, param.pad_ratio
        return ()

    def padded(self, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Corners (R, 2) on the maps, of regions that pad_ratio of their sides enlarges."""
        first, last = corners[:, :2], corners[:, 2:]
        beside = (last - first + 1) * self.more
        return (first - beside) * self.scale, (last + beside) * self.scale


@register("ROIPooling", "roi_pooling_param")
class ROIPooling(_Pooled):
    """The largest value in each of pooled_h × pooled_w bins of each region.

    A region's corners are scaled by spatial_scale and rounded, halves away from 0; it is 1 pixel
    wide and high at least. Its bins' borders are rounded outwards; a bin outside the map is 0. The
    gradient goes to the pixel of the largest value, the first of equal ones. `pad_ratio` adds that
    share of its sides to a region's four. Sources: rbgirshick/caffe-fast-rcnn roi_pooling_layer.cu,
    zhaoweicai/mscnn roi_pooling_layer.cu.
    """

    origin = "Fast R-CNN"
    of_forks = ("roi_pooling_param.pad_ratio",)
    needs_host = "reads how large its regions are"
    differences = (
        "mscnn's backward pass clips padded regions at the map's border and so loses gradients of "
        "some bins; here none is lost"
    )

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.check(bottoms)
        return [(bottoms[1][0], bottoms[0][1], *self.pooled)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        image, corners = self.regions(bottoms)
        start, end = (bins.rounded(one) for one in self.padded(corners))
        size = (end - start + 1).clamp(min=1)
        zero = torch.zeros_like(size[:, 0])
        cuts = [
            bins.cut(zero, size[:, axis] / number, number, start[:, axis], limit)
            for axis, number, limit in zip((1, 0), self.pooled, bottoms[0].shape[2:])
        ]
        top: Tensor = bins.LargestInBins.apply(bottoms[0], bins.Bins(image, *cuts[0], *cuts[1]))  # type: ignore[no-untyped-call]
        return top


@register("PSROIPooling", "psroi_pooling_param")
class PSROIPooling(_OfRegions):
    """The mean of each of group_size² bins of each region, each bin from maps of its own.

    Bin (i, j) of output channel c reads map (c · g + i) · g + j. Corners are rounded, the right and
    lower ones moved by 1, and then scaled; a region is 0.1 pixels wide and high at least.
    Source: daijifeng001/caffe-rfcn psroi_pooling_layer.cu.
    """

    origin = "R-FCN"
    differences = "a NaN or an infinity in a map reaches the bins right of it and below it too"

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.psroi_pooling_param
        for name in ("output_dim", "group_size"):
            if getattr(param, name) < 1:
                raise self.error(f"{name} {getattr(param, name)} must be given and positive")
        if not param.HasField("spatial_scale"):
            raise self.error("spatial_scale must be given")
        self.out, self.group, self.scale = param.output_dim, param.group_size, param.spatial_scale
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.check(bottoms)
        if bottoms[0][1] != self.out * self.group**2:
            raise self.shape_error(
                f"bottom {self.bottom_name(0)} {bottoms[0]} must have output_dim {self.out} · "
                f"group_size {self.group}² = {self.out * self.group**2} channels"
            )
        return [(bottoms[1][0], self.out, self.group, self.group)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        image, corners = self.regions(bottoms)
        corners = bins.rounded(corners)
        start, end = corners[:, :2] * self.scale, (corners[:, 2:] + 1) * self.scale
        size = (end - start).clamp(min=0.1) / self.group
        zero = torch.zeros_like(size[:, 0])
        rows, columns = (
            bins.cut(start[:, axis], size[:, axis], self.group, zero, limit)
            for axis, limit in zip((1, 0), bottoms[0].shape[2:])
        )
        return bins.means(bottoms[0], bins.Bins(image, *rows, *columns), self.group)


@register("ROIAlign", "roi_pooling_param")
class ROIAlign(_Pooled):
    """Bilinear values at the corners of pooled_h × pooled_w bins, one more of them on each axis.

    A pixel's value is that of its middle. Outside the map, and in a region without height or width,
    it is 0. `pad_ratio` adds that share of its sides to a region's four.
    Source: zhaoweicai/mscnn roi_align_layer.cu.
    """

    origin = "mscnn"
    of_forks = ("roi_pooling_param.pad_ratio",)
    refused = {"roi_align_param": "Synopsys's ROIAlign samples otherwise, and is not computed here"}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        if self.param.HasField("roi_align_param"):
            raise self.error("roi_align_param is Synopsys's, whose ROIAlign is not computed here")
        return super().setup(bottoms)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.check(bottoms)
        return [(bottoms[1][0], bottoms[0][1], *(number + 1 for number in self.pooled))]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        image, corners = self.regions(bottoms)
        start, end = (one - 0.5 for one in self.padded(corners))
        size = end - start
        rows, columns = (
            start[:, axis, None]
            + torch.arange(number + 1, device=size.device) * (size[:, axis, None] / number)
            for axis, number in zip((1, 0), self.pooled)
        )
        # A region that is none lies nowhere.
        rows = torch.where((size > 0).all(1, keepdim=True), rows, -1)
        return bins.between_pixels(bottoms[0], image, rows, columns)


@register("Proposal", "proposal_param")
class Proposal(Layer):
    """Regions (image, x1, y1, x2, y2) that scores (N, 2A, H, W) and deltas (N, 4A, H, W) propose.

    At each place there are A anchors about the middle of base_size pixels, one of scale² pixels for
    each `ratio` (height to width) and `scale`, moved by feat_stride; the second A maps are their
    scores. Deltas move and resize them,
    the image's borders (bottom 2: height, width, and the scales of min_size) clip them, and those
    below min_size count 0. The best pre_nms_topn by score, of equal ones the first by row, column
    and anchor, are suppressed where they overlap a better one by more than nms_thresh; the first
    post_nms_topn of an image are its regions. A second top is their scores (R,).
    Source: happynear/caffe-windows proposal_layer.cpp.
    """

    origin = "happynear"
    bottoms = Count(3, 3)
    tops = Count(1, 2)
    no_gradient = (0, 1, 2)
    in_place = False
    needs_host = "has tops whose size depends on the data"
    differences = (
        "equal scores: by place and anchor, where the fork's sort is not stable; a bottom 2 of 3 "
        "values (height, width, scale) is taken too; the fork's GPU code scales no min_size"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.proposal_param
        if not param.ratio or not param.scale:
            raise self.error("needs a ratio and a scale or more")
        if min(param.ratio) <= 0 or min(param.scale) <= 0:
            raise self.error("ratio and scale must be positive")
        for name in ("base_size", "feat_stride", "pre_nms_topn", "post_nms_topn"):
            if getattr(param, name) < 1:
                raise self.error(f"{name} {getattr(param, name)} must be positive")
        self.anchors = anchors(param)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, deltas, about = bottoms
        count = len(self.anchors)
        if len(scores) != 4 or scores[1] != 2 * count:
            raise self.shape_error(
                f"{self.bottom_name(0)} {scores} must be (N, {2 * count}, H, W): 2 scores for each "
                f"of {count} anchors"
            )
        if deltas != (scores[0], 4 * count, *scores[2:]):
            raise self.shape_error(
                f"{self.bottom_name(1)} {deltas} must be {(scores[0], 4 * count, *scores[2:])}"
            )
        if not about or about[-1] < 3:
            raise self.shape_error(
                f"{self.bottom_name(2)} {about} must have height, width and scale of the image"
            )
        number = scores[0] * self.param.proposal_param.post_nms_topn
        return [(number, REGION), (number,)][: len(self.param.top)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        scores, deltas, about = (bottom.detach() for bottom in bottoms)
        boxes = self._moved(deltas)
        info = about.reshape(-1)[: min(4, about.shape[-1])]
        high, wide, scale = info[0], info[1], info[2:]
        limit = torch.stack([wide, high, wide, high]) - 1
        boxes = torch.minimum(boxes, limit).clamp(min=0)
        least = self.param.proposal_param.min_size * torch.stack([scale[-1], scale[0]])
        large = (boxes[..., 2:] - boxes[..., :2] + 1 >= least).all(-1)
        chances = scores[:, len(self.anchors) :].permute(0, 2, 3, 1).flatten(1) * large
        found = [self._best(image, *one) for image, one in enumerate(zip(boxes, chances))]
        tops = tuple(torch.cat(parts) for parts in zip(*found))
        return tops if len(self.param.top) == 2 else tops[0]

    def _moved(self, deltas: Tensor) -> Tensor:
        """The anchors (N, H·W·A, 4) where the deltas put them, as corners."""
        number, _, height, width = deltas.shape
        deltas = deltas.view(number, -1, 4, height, width).permute(0, 3, 4, 1, 2)
        stride = self.param.proposal_param.feat_stride
        x, y = (torch.arange(size, device=deltas.device) * stride for size in (width, height))
        x, y = torch.meshgrid(x, y, indexing="xy")
        shifts = torch.stack([x, y, x, y], 2)[:, :, None].to(deltas)
        own = shifts + deltas.new_tensor(self.anchors)
        size = own[..., 2:] - own[..., :2] + 1
        centre = deltas[..., :2] * size + (own[..., :2] + 0.5 * size)
        half = 0.5 * (deltas[..., 2:].exp() * size)
        return torch.cat([centre - half, centre + half], -1).flatten(1, 3)

    def _best(self, image: int, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        param = self.param.proposal_param
        order = scores.argsort(descending=True, stable=True)[: param.pre_nms_topn]
        boxes, scores = boxes[order], scores[order]
        kept = suppression.greedy(
            boxes, param.nms_thresh, suppression.pixels_above, param.post_nms_topn
        )
        rows = torch.cat([boxes.new_full((len(kept), 1), image), boxes[kept]], 1)
        return rows, scores[kept]


def anchors(param: pb.ProposalParameter) -> np.ndarray:
    """Corners (A, 4) of the anchors at the first place, in single precision as the fork's."""
    found = []
    for ratio in map(np.float32, param.ratio):
        width = np.float32(np.sqrt(np.float32(param.base_size**2) / ratio))
        for scale in map(np.float32, param.scale):
            middle = 0.5 * (param.base_size - 1)
            sides = (float(side * scale) / param.base_size - 1 for side in (width, width * ratio))
            half = [0.5 * int(side + 0.5) for side in sides]
            found.append([middle - half[0], middle - half[1], middle + half[0], middle + half[1]])
    return np.array(found, np.float32)
