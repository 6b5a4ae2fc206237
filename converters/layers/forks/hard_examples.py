"""R-FCN's online hard example mining: losses of each region, and the regions that lose most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.loss import PRE_FIXED, NormalizedLoss, SoftmaxWithLoss
from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers.forks.arithmetic import weighting

register = Family("#fc9272")


@register("SoftmaxWithLossOHEM", "softmax_param", "loss_param")
class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """SoftmaxWithLoss, with R-FCN's third top, under a name of its own.

    Source: syshensyshen/pva-mobilenet-v2 softmax_loss_ohem_layer.cu.
    """

    origin = "R-FCN"
    of_forks = PRE_FIXED
    differences = (
        f"{SoftmaxWithLoss.differences}; R-FCN's code stops at normalization: PRE_FIXED here"
    )


@register("SmoothL1LossOHEM", "loss_param")
class SmoothL1LossOHEM(NormalizedLoss):
    """Σ f(w · (a - b)) / normalizer with f(x) = x²/2 for |x| < 1, else |x| - 1/2.

    Bottom 2, where there is one, is w; the gradient is ±f'(w · (a - b)), without a factor w. The
    normalizer counts regions, not values. An optional second top is the sum of each region (N, 1,
    H, W), through which no gradient comes back. Source: daijifeng001/caffe-rfcn
    smooth_L1_loss_layer.cu.
    """

    origin = "R-FCN"
    bottoms = Count(2, 3)
    tops = Count(1, 2)
    of_forks = PRE_FIXED
    no_gradient = (2,)
    whole_numbers = ()
    ignored = {"loss_param.ignore_label": "there are no labels"}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.read_loss_param()
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shapes = [self.four_axes(bottoms, index) for index in range(len(bottoms))]
        for index, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise self.shape_error(
                    f"{self.bottom_name(index)} {bottoms[index]} must have the shape of "
                    f"{self.bottom_name(0)}, {bottoms[0]}"
                )
        number, _, height, width = shapes[0]
        return [(), (number, 1, height, width)][: len(self.param.top)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0].reshape(self.four_axes([tuple(bottoms[0].shape)], 0))
        difference = x - bottoms[1].reshape(x.shape)
        if len(bottoms) == 3:
            weight = bottoms[2].detach().reshape(x.shape)
            difference = weighting.ForwardAlone.apply(difference, weight)  # type: ignore[no-untyped-call]
        losses = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
        regions = losses.sum(1, keepdim=True)
        loss = self.normalized(regions, len(regions), None)
        return loss if len(self.param.top) == 1 else (loss, regions.detach())


@register("BoxAnnotatorOHEM", "box_annotator_ohem_param")
class BoxAnnotatorOHEM(Layer):
    """The labels and box weights of the roi_per_img regions of each image with the largest losses.

    Bottoms: regions (N, 5), their losses and labels (N), weights (N, K, …). All others have the
    label ignore_label and the weight 0. Source: daijifeng001/caffe-rfcn
    box_annotator_ohem_layer.cu.
    """

    origin = "R-FCN"
    bottoms = Count(4, 4)
    tops = Count(2, 2)
    no_gradient = (0, 1, 2, 3)
    whole_numbers = (2,)
    in_place = False
    differences = (
        "of equal losses the first region is taken, where the fork's sort is not stable; over "
        "places (H, W) the fork reads foreign memory"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.box_annotator_ohem_param
        if param.roi_per_img < 1:
            raise self.error(f"roi_per_img {param.roi_per_img} must be positive")
        self.most, self.left_out = param.roi_per_img, param.ignore_label
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shapes = [shape + (1,) * (4 - len(shape)) for shape in bottoms]
        number, _, *size = shapes[0]
        for index, (shape, channels) in enumerate(zip(shapes, (5, 1, 1, shapes[3][1]))):
            if shape != (number, channels, *size):
                raise self.shape_error(
                    f"{self.bottom_name(index)} {bottoms[index]} must be "
                    f"{(number, channels, *size)}, for the regions {self.bottom_name(0)} "
                    f"{bottoms[0]}"
                )
        return [(number, 1, *size), shapes[3]]

    def forward(self, state: LayerState, *bottoms: Tensor) -> tuple[Tensor, ...]:
        regions, losses, labels, weights = (bottom.detach() for bottom in bottoms)
        label_shape, weight_shape = self.reshape([tuple(bottom.shape) for bottom in bottoms])
        places = math.prod(label_shape[2:])
        image = regions.reshape(label_shape[0], 5, places)[:, 0].flatten()
        # By image, and within one by falling loss: a region's place less that of its image's first.
        order = losses.flatten().argsort(descending=True, stable=True)
        order = order[image[order].argsort(stable=True)]
        ordered = image[order].contiguous()
        place = torch.arange(len(order), device=order.device)
        hard = torch.zeros_like(order, dtype=torch.bool)
        hard[order] = place - torch.searchsorted(ordered, ordered) < self.most
        hard = hard.view(label_shape)
        return (
            torch.where(hard, labels.reshape(label_shape), self.left_out),
            torch.where(hard, weights.reshape(weight_shape), 0),
        )
