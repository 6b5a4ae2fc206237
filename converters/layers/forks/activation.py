"""Forks' layers that work on each value alone: ReLU6."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from converters.layers.registry import ENGINE, Family, Layer, LayerState

if TYPE_CHECKING:
    import torch.nn.functional as F
    from torch import Tensor

register = Family("#fdd0a2")


@register("ReLU6", "relu6_param")
class ReLU6(Layer):
    """min(max(x, 0) + slope · min(x, 0), 6); no gradient at 6 and above, the slope's at 0.

    Source: eric612/MobileNet-YOLO relu6_layer.cpp.
    """

    origin = "MobileNet-YOLO"
    ignored = {"relu6_param.engine": ENGINE}
    differences = (
        "in place with a negative negative_slope, the fork takes the gradient at the overwritten "
        "bottom; here it is the true one"
    )

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        slope = self.param.relu6_param.negative_slope
        if not slope:
            return F.relu6(bottoms[0])
        return F.hardtanh(F.leaky_relu(bottoms[0], slope), -math.inf, 6.0)
