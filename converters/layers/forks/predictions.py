"""What SSD's layers of boxes share: what they are given, and rows of boxes that should be found.

They are `prior_box`, `multibox_loss`, `detection_output`, `detection_evaluate`; what they compute
with boxes is in `arithmetic.boxes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from converters.layers.registry import Family, Layer, Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from converters.layers.forks.arithmetic import boxes

register = Family("#c7e9c0")

DETECTION, TRUTH = 7, 8
"""Columns of a detection's row, and of a box's that should be found."""
REFINE = "RefineDet's layer, with bottoms of its own, is not here"
EVERY_SIZE = "has tops whose size depends on the data"


def single(x: Tensor) -> Tensor:
    """A bottom without gradient, in single precision at least."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


class Predictions(Layer):
    """A layer of locations (N, P·4, or P·4 for each class), scores (N, P·classes) and priors."""

    origin = "SSD"
    in_place = False
    needs_host = EVERY_SIZE
    classes: int
    background: int
    shared: bool

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        where, scores, priors = bottoms[:3]
        if len(priors) < 3 or priors[1] != 2 or priors[2] % 4 or math.prod(priors[3:]) != 1:
            raise self.shape_error(
                f"{self.bottom_name(2)} {priors} must be (1, 2, 4 · priors): boxes and variances"
            )
        count = priors[2] // 4
        wanted = (count * 4 * (1 if self.shared else self.classes), count * self.classes)
        for index, (shape, size) in enumerate(zip((where, scores), wanted)):
            if shape[:2] != (where[0], size) or math.prod(shape[2:]) != 1:
                what = "4 values" if self.shared else f"4 values for each of {self.classes} classes"
                raise self.shape_error(
                    f"{self.bottom_name(index)} {shape} must be ({where[0]}, {size}): for each of "
                    f"the {count} priors "
                    f"{f'{self.classes} scores (num_classes)' if index else what}"
                )
        return [()]

    def read(self, bottoms: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Locations (N, P, 1 or classes, 4), scores (N, P, classes), priors, variances (P, 4)."""
        number = len(bottoms[0])
        priors, variances = single(bottoms[2])[0].reshape(2, -1, 4)
        where = bottoms[0].reshape(number, len(priors), -1, 4)
        return where, bottoms[1].reshape(number, len(priors), -1), priors, variances

    def require_sizes(self, priors: Tensor, code: int) -> None:
        """Raise for a prior that has no size to multiply with (where that makes no GPU wait)."""
        if code == boxes.CORNER or priors.device.type != "cpu":
            return
        flat = (priors[:, 2:] <= priors[:, :2]).any(1).nonzero()
        if len(flat):
            place = int(flat[0])
            corners = ", ".join(f"{value:g}" for value in priors[place].tolist())
            raise self.error(
                f"prior {place} of {self.bottom_name(2)}, ({corners}), has no width or height"
            )


class Truth(NamedTuple):
    """The boxes that an image should have: image and label (R,), corners (R, 4), difficult (R,)."""

    image: Tensor
    label: Tensor
    boxes: Tensor
    difficult: Tensor


def truth_of(layer: Layer, bottom: Tensor, place: int, background: int) -> Truth:
    """The rows (image, label, instance, corners, difficult) of a bottom, less those of image -1.

    Raises:
        NetError: a row has the background's label.
    """
    rows = single(bottom).reshape(-1, TRUTH)
    rows = rows[rows[:, 0].trunc() != -1]
    label = rows[:, 1].long()
    if bool((label == background).any()):
        raise layer.error(
            f"{layer.bottom_name(place)} has a box with label {background}, which is the background"
        )
    return Truth(rows[:, 0].long(), label, rows[:, 3:7], rows[:, 7] != 0)
