"""SSD's boxes by their corners (xmin, ymin, xmax, ymax): overlap, code, matching, suppression.

Proposals of other forks are suppressed in one group, by other rules: `suppression`.

No function loops over boxes: what is greedy in the forks is brought to rest by rounds over all of
them at once, which gives the greedy result. Source: weiliu89/caffe util/bbox_util.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3
"""The values of PriorBoxParameter.CodeType."""

LEAST_OVERLAP = 1e-6
"""Boxes that overlap by no more do not match at all."""
SMALLEST = 1e-5
"""Boxes of a smaller area are no candidates where hard examples are suppressed."""
UNMATCHED, LEFT_OUT = -1, -2
"""In place of the number of a match: no box, and a box that must not be matched."""
PAIRS = 1 << 19
"""Overlaps that are computed at a time: few enough to stay in a processor's cache."""
BLOCK = 1024
"""Boxes of a group that are settled at a time, so that the overlaps of many fit into memory."""


def areas(boxes: Tensor) -> Tensor:
    """Areas (…) of boxes (…, 4); a box whose corners are the wrong way round has none."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (…, n, 4) and (…, m, 4): (…, n, m)."""
    width, height = _shared(first, second)
    shared = width.clamp_(min=0).mul_(height.clamp_(min=0))
    union = (areas(first).unsqueeze(-1) + areas(second).unsqueeze(-2)).sub_(shared)
    # Boxes without area have no union either, and 0 of it is shared.
    return shared.div_(union).nan_to_num_(nan=0.0)


def _shared(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of intersections (…, n, m), negative where boxes are apart."""
    a, b = first.unsqueeze(-2).unbind(-1), second.unsqueeze(-3).unbind(-1)
    return (
        torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0]),
        torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1]),
    )


# Codes -------------------------------------------------------------------------------------------


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode(boxes: Tensor, priors: Tensor, code: int) -> Tensor:
    """Boxes (…, 4) as seen from their priors (…, 4), before any variance."""
    if code == CORNER:
        return boxes - priors
    centre, size = _centres(priors)
    if code == CORNER_SIZE:
        return (boxes - priors) / torch.cat([size, size], -1)
    own_centre, own_size = _centres(boxes)
    return torch.cat([(own_centre - centre) / size, (own_size / size).log()], -1)


def decode(values: Tensor, priors: Tensor, code: int) -> Tensor:
    """The boxes (…, 4) that `encode` gives these values for."""
    if code == CORNER:
        return priors + values
    centre, size = _centres(priors)
    if code == CORNER_SIZE:
        return priors + values * torch.cat([size, size], -1)
    own_centre = values[..., :2] * size + centre
    half = values[..., 2:].exp() * size / 2
    return torch.cat([own_centre - half, own_centre + half], -1)


# Pixels ------------------------------------------------------------------------------------------


class Pixels(NamedTuple):
    """Boxes (n, 4) in pixels of their images, and their areas (n,) as the forks count them."""

    boxes: Tensor
    areas: Tensor


class Resized(NamedTuple):
    """How images were made to fit a net: what of them its unit square shows.

    With `pad` an image of another shape lies in the middle of (height, width) and its longer side
    fits; `scale`, where it is given, is the size that boxes are shares of, in place of the image's.
    """

    size: tuple[int, int]
    pad: bool = False
    scale: tuple[int, int] | None = None


def in_pixels(boxes: Tensor, sizes: Tensor, resized: Resized | None = None) -> Pixels:
    """Boxes (n, 4), shares of the net's input, in images of heights and widths (n, 2)."""
    height, width = sizes.to(boxes).unbind(1)
    whole = torch.stack([width, height, width, height], 1)
    if resized is not None and resized.scale is not None:
        down, across = resized.scale
        found = boxes * boxes.new_tensor([across, down, across, down])
        found = torch.minimum(found.clamp(min=0), whole)
        return Pixels(found, areas(found))
    if resized is not None and resized.pad:
        down, across = resized.size
        wide = width / height > across / down
        above = torch.where(wide, (down - across * height / width) / 2 / down, 0)
        beside = torch.where(wide, 0, (across - down * width / height) / 2 / across)
        low = torch.stack([beside, above], 1)
        sides = 1 - 2 * low
        high = 1 - low
        seen = ((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(1, keepdim=True)
        inner = ((boxes.view(-1, 2, 2) - low[:, None]) / sides[:, None]).flatten(1)
        boxes = torch.where(seen, inner, boxes)
    found = boxes.clamp(0, 1) * whole
    size = found[:, 2:] - found[:, :2]
    one = (sizes > 1).any(1, keepdim=True).to(boxes)
    return Pixels(found, torch.where((size < 0).any(1), 0, (size + one).prod(1)))


def overlaps_in_pixels(first: Pixels, second: Pixels) -> Tensor:
    """As the forks have them (n, m): an intersection has a pixel more each way, and one box that is
    apart from another still shares one pixel with it.
    """
    width, height = _shared(first.boxes, second.boxes)
    apart = (width < 0) | (height < 0)
    shared = torch.where(apart, 1, (width + 1) * (height + 1))
    return shared / (first.areas[:, None] + second.areas - shared)


# Matching ----------------------------------------------------------------------------------------


class Matches(NamedTuple):
    """The box that each candidate is matched with, by its number, or UNMATCHED or LEFT_OUT; and the
    overlap with it, or the largest with any: both (N, P).
    """

    boxes: Tensor
    overlaps: Tensor


def match(
    candidates: Tensor,
    boxes: Tensor,
    images: Tensor,
    number: int,
    threshold: float | None,
    within: bool = False,
) -> Matches:
    """Match candidates with the boxes of their image.

    First one by one, the pair that overlaps most of those whose box and candidate are both free;
    then, with a `threshold`, each other candidate with the box that it overlaps most, if by as much
    as that. Of equal overlaps the first candidate counts, and of its the first box.

    Args:
        candidates: (P, 4), the same for every image, or (N, P, 4).
        boxes: (R, 4), of the images (R,) from 0 to `number` - 1.
        threshold: None for one by one alone.
        within: leave candidates out that are not all inside the unit square.
    """
    count = candidates.shape[-2]
    out = ((candidates < 0) | (candidates > 1)).any(-1).expand(number, count)
    found = torch.where(out & within, LEFT_OUT, UNMATCHED)
    best = candidates.new_zeros(number, count)
    if not len(boxes):
        return Matches(found, best)
    own = candidates if candidates.dim() == 2 else candidates[images]
    overlap = overlaps(boxes[:, None], own)[:, 0] if own.dim() == 3 else overlaps(boxes, own)
    overlap = overlap.masked_fill(overlap <= LEAST_OVERLAP, -1)
    if within:
        overlap = overlap.masked_fill(out[images], -1)
    # (N, most boxes of an image, P), -1 where an image has fewer.
    place = places_within(images)
    padded = overlap.new_full((number, int(place.max()) + 1, count), -1)
    padded[images, place] = overlap
    rows = images.new_full(padded.shape[:2], UNMATCHED)
    rows[images, place] = torch.arange(len(boxes), device=images.device)
    most, slot = padded.max(1)
    best = most.clamp(min=0)
    one, other = _pairs(overlap, images)
    matched = found.clone()
    if threshold is not None:
        near = (most >= threshold) & (most > 0) & (found == UNMATCHED)
        matched = torch.where(near, rows.gather(1, slot), matched)
    matched[images[one], other] = one
    best[images[one], other] = overlap[one, other]
    return Matches(matched, best)


def places_within(groups: Tensor) -> Tensor:
    """The place of each among those of its group, in their order."""
    order = groups.argsort(stable=True)
    ordered = groups[order]
    first = torch.searchsorted(ordered, ordered)
    place = torch.empty_like(groups)
    place[order] = torch.arange(len(groups), device=groups.device) - first
    return place


def _pairs(overlap: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """One by one matches: the boxes that have one, and their candidates.

    A pair that is the first of both its box's and its candidate's is the greedy choice, whatever
    becomes of others: all such pairs are taken in one round.
    """
    count, device = len(overlap), overlap.device
    overlap = overlap.clone()
    same = images[:, None] == images
    index = torch.arange(count, device=device)
    taken = torch.full((count,), -1, device=device)
    while True:
        most, candidate = overlap.max(1)
        # Of every box with the candidate of each: (box, whose).
        rivals = overlap[:, candidate].masked_fill(~same, -1)
        first = rivals.argmax(0) == index
        chosen = ((most > 0) & first).nonzero()[:, 0]
        if not len(chosen):
            break
        taken[chosen] = candidate[chosen]
        overlap[chosen] = -1
        # Their candidates are free for no other box of the image.
        where = same[:, chosen].nonzero()
        overlap[where[:, 0], candidate[chosen][where[:, 1]]] = -1
    matched = (taken >= 0).nonzero()[:, 0]
    return matched, taken[matched]


# Suppression -------------------------------------------------------------------------------------


def suppress(boxes: Tensor, groups: Tensor, threshold: float, eta: float = 1.0) -> Tensor:
    """Which of boxes (n, 4), best first, are kept in their groups (n,): (n,) of bool.

    A box goes that overlaps one kept before it, in its group, by more than the threshold. With
    `eta` below 1 the threshold shrinks by it at each kept box while it is above a half.
    """
    kept = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    if len(boxes) < 2:
        return kept
    _, names, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    place = places_within(names)
    # Groups of like size together, so that little of a block is padding.
    by_size = sizes.argsort(descending=True)
    rank = torch.empty_like(by_size)
    rank[by_size] = torch.arange(len(sizes), device=sizes.device)
    rank = rank[names]
    ordered = sizes[by_size].tolist()
    start = 0
    while start < len(ordered) and ordered[start] > 1:
        most = ordered[start]
        stop = min(len(ordered), start + max(1, PAIRS // most**2))
        inside = ((rank >= start) & (rank < stop)).nonzero()[:, 0]
        where = rank[inside] - start, place[inside]
        padded = boxes.new_zeros(stop - start, most, 4)
        padded[where] = boxes[inside]
        kept[inside] = _greedy(padded, threshold, eta)[where]
        start = stop
    return kept


def _greedy(boxes: Tensor, threshold: float, eta: float) -> Tensor:
    """As `suppress`, for (g, k, 4): (g, k) of bool. Many are taken block by block."""
    bounds = _thresholds(threshold, eta, boxes)
    keep = boxes.new_zeros(boxes.shape[:2], dtype=torch.bool)
    for start in range(0, boxes.shape[1], BLOCK):
        block = boxes[:, start : start + BLOCK]
        before = keep[:, :start]
        most = torch.zeros_like(block[..., 0])
        if start:
            overlap = overlaps(boxes[:, :start], block).masked_fill_(~before[..., None], 0)
            most = overlap.amax(1)
        count = before.sum(1, keepdim=True)
        keep[:, start : start + BLOCK] = _settled(block, most, count, bounds)
    return keep


def _settled(boxes: Tensor, most: Tensor, count: Tensor, bounds: Tensor) -> Tensor:
    """Which of (g, k, 4) are kept, where `count` (g, 1) are already and overlap them by `most`."""
    overlap = overlaps(boxes, boxes)
    bound = bounds[0]
    keep = boxes.new_ones(boxes.shape[:2], dtype=torch.bool)
    near = (overlap > bound).triu_(1).to(overlap.dtype)
    while True:
        last = keep
        if len(bounds) > 1:
            # What the threshold is at a box depends on how many were kept before it.
            earlier = count + keep.cumsum(1) - keep.long()
            bound = bounds[earlier.clamp(max=len(bounds) - 1)]
            near = (overlap > bound[:, None]).triu_(1).to(overlap.dtype)
        # A box is settled once those before it are: the rounds end at the greedy result.
        held = torch.bmm(keep[:, None].to(near.dtype), near)[:, 0] > 0
        keep = ~(held | ((most > bound) & (count > 0)))
        if torch.equal(keep, last):
            return keep


def _thresholds(threshold: float, eta: float, like: Tensor) -> Tensor:
    """The thresholds after 0, 1, 2 … kept boxes, as long as they change; in single precision."""
    found = [torch.tensor(threshold, dtype=torch.float32)]
    while eta < 1 and float(found[-1]) > 0.5:
        found.append(found[-1] * torch.tensor(eta, dtype=torch.float32))
    return torch.stack(found).to(like)
