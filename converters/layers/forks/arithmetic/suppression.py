"""Non-maximum suppression of sorted boxes, without a loop over them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 1024


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and (m, 4) by their corners: (n, m)."""
    low = torch.maximum(first[:, None, :2], second[:, :2])
    sides = (torch.minimum(first[:, None, 2:], second[:, 2:]) - low).clamp(min=0)
    shared = sides.prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def overlapping(first: Tensor, second: Tensor, threshold: float) -> Tensor:
    """Which boxes (n, 4) and (m, 4) overlap by `threshold` or more: (n, m)."""
    return overlaps(first, second) >= threshold


def pixels_above(first: Tensor, second: Tensor, threshold: float) -> Tensor:
    """Which boxes of whole pixels, last ones included, overlap by more than `threshold`."""
    apart = (first[:, None, :2] > second[:, 2:]) | (first[:, None, 2:] < second[:, :2])
    ends = first.new_tensor([0, 0, 1, 1])
    return (overlaps(first + ends, second + ends) > threshold) & ~apart.any(2)


def greedy(
    boxes: Tensor,
    threshold: float,
    hides: Callable[[Tensor, Tensor, float], Tensor] = overlapping,
    most: int | None = None,
) -> Tensor:
    """Which of the boxes (n, 4), best first, are kept: their places, in order; `most` of them.

    A box goes that a kept one before it hides.
    """
    kept = boxes.new_zeros(0, dtype=torch.long)
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK]
        free = ~hides(boxes[kept], block, threshold).any(0)
        earlier = hides(block, block, threshold).triu(1)
        # What a kept box overlaps goes; those that only such a box held back come again.
        keep, before = free, ~free
        while not torch.equal(keep, before):
            before, keep = keep, free & ~(earlier & keep[:, None]).any(0)
        kept = torch.cat([kept, keep.nonzero()[:, 0] + start])
        if most is not None and len(kept) >= most:
            break
    return kept[:most]
