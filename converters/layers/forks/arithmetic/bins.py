"""What bins of regions of maps hold: their largest value, their mean, values between pixels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

LEAST = -3.4028234663852886e38
"""-FLT_MAX, the largest of nothing."""


def rounded(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from 0, as C does."""
    whole = x.trunc()
    return torch.where((x - whole).abs() >= 0.5, whole + x.sign(), whole)


class Bins(NamedTuple):
    """Bins of R regions: rows from `top` to before `bottom` (R, ph), columns likewise (R, pw).

    `image` (R,) is the region's image. A bin whose end is not behind its start is empty.
    """

    image: Tensor
    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor

    @property
    def empty(self) -> Tensor:
        """(R, ph, pw)."""
        rows, columns = self.bottom <= self.top, self.right <= self.left
        return rows[:, :, None] | columns[:, None, :]


def cut(start: Tensor, size: Tensor, number: int, offset: Tensor, limit: int) -> list[Tensor]:
    """Starts and ends (R, number) of bins of `size` (R,), clipped to `limit` pixels.

    The bins begin at `start` (R,); their borders are rounded outwards, and then moved by `offset`.
    """
    count = torch.arange(number + 1, device=size.device, dtype=size.dtype)
    borders = count * size[:, None] + start[:, None]
    first, last = borders[:, :-1].floor(), borders[:, 1:].ceil()
    return [(one + offset[:, None]).clamp(0, limit).long() for one in (first, last)]


# The largest value -------------------------------------------------------------------------------

Pair = tuple[Tensor, Tensor | None]
"""Values, and their places in the map where these are wanted."""


def _larger(a: Pair, b: Pair) -> Pair:
    """Value by value the larger, of equal ones the one at the first place."""
    (va, pa), (vb, pb) = a, b
    if pa is None or pb is None:
        return torch.maximum(va, vb), None
    second = (vb > va) | ((vb == va) & (pb < pa))
    return torch.where(second, vb, va), torch.where(second, pb, pa)


def _doubled(pair: Pair, axis: int, step: int) -> Pair:
    """The largest of 2 · step values along an axis, from the largest of `step`."""
    size = pair[0].shape[axis] - step
    ends: list[Pair] = []
    for start in (0, step):
        value, place = (one if one is None else one.narrow(axis, start, size) for one in pair)
        assert value is not None
        ends.append((value, place))
    return _larger(*ends)


def _levels(sizes: Tensor, most: int) -> Tensor:
    """floor(log2(size)) of whole numbers from 1 on."""
    powers = 2 ** torch.arange(1, most + 1, device=sizes.device)
    return (sizes[..., None] >= powers).sum(-1)


class LargestInBins(Function):
    """ROIPooling: the largest value of each bin, the first in reading order where several are.

    Tables have the largest of 2^i × 2^j pixels from each pixel on; four overlapping entries make a
    bin of any size. A bin's rows are whole channels, so that they are copied in one go.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bins: Bins) -> Tensor:
        """(R, C, ph, pw) of maps x (N, C, H, W); 0 for an empty bin."""
        channels, height, width = x.shape[1:]
        empty = bins.empty
        largest = [
            int((end - start).clamp(min=1).max()) if len(start) else 1
            for start, end in ((bins.top, bins.bottom), (bins.left, bins.right))
        ]
        up, across = (int(math.log2(size)) for size in largest)
        value = x.detach().permute(0, 2, 3, 1)
        place: Tensor | None = None
        counted = value > LEAST
        if ctx.needs_input_grad[0]:
            place = torch.arange(height * width, device=x.device, dtype=torch.int32)
            place = torch.where(counted, place.view(1, height, width, 1), height * width)
        tables: list[Pair] = []
        starts: list[int] = []
        row: Pair = (torch.where(counted, value, LEAST), place)
        for i in range(up + 1):
            row = _doubled(row, 1, 2 ** (i - 1)) if i else row
            entry = row
            for j in range(across + 1):
                entry = _doubled(entry, 2, 2 ** (j - 1)) if j else entry
                starts.append(starts[-1] + tables[-1][0].shape[:3].numel() if tables else 0)
                tables.append(entry)
        values = torch.cat([value.reshape(-1, channels) for value, _ in tables])
        places = [place.reshape(-1, channels) for _, place in tables if place is not None]
        joined = torch.cat(places) if places else None

        # Where bins are empty the entry of pixel (0, 0) stands in.
        top, left = bins.top.clamp(max=height - 1), bins.left.clamp(max=width - 1)
        rows, columns = (bins.bottom - top).clamp(min=1), (bins.right - left).clamp(min=1)
        down, along = _levels(rows, up), _levels(columns, across)
        first = torch.tensor(starts, device=x.device).view(up + 1, across + 1)
        first = first[down[:, :, None], along[:, None, :]]
        table_height, table_width = height - 2**down + 1, width - 2**along + 1
        found: Pair | None = None
        for y in (top, top + rows - 2**down):
            for z in (left, left + columns - 2**along):
                line = bins.image[:, None] * table_height + y
                index = first + line[:, :, None] * table_width[:, None, :] + z[:, None, :]
                index = index.flatten()
                one = values.index_select(0, index)
                at = None if joined is None else joined.index_select(0, index)
                found = (one, at) if found is None else _larger(found, (one, at))
        assert found is not None
        shape = (*empty.shape, channels)
        result = torch.where(empty[..., None], 0, found[0].view(shape))
        if found[1] is not None:
            where = torch.where(empty[..., None], height * width, found[1].view(shape))
            ctx.save_for_backward(where.permute(0, 3, 1, 2), bins.image)
            ctx.shape = x.shape
        return result.permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Each bin's gradient goes to the pixel that its value came from."""
        where, image = ctx.saved_tensors
        number, channels, height, width = ctx.shape
        # One pixel more takes what no pixel of the map is to have.
        pixels = height * width + 1
        channel = torch.arange(channels, device=image.device)
        maps = image[:, None] * channels + channel
        index = maps[:, :, None, None] * pixels + where
        sums = gradients[0].new_zeros(number * channels * pixels)
        sums.index_add_(0, index.flatten(), gradients[0].flatten())
        return sums.view(number, channels, pixels)[..., :-1].reshape(ctx.shape), None


# Means and values between pixels -----------------------------------------------------------------


def means(x: Tensor, bins: Bins, groups: int) -> Tensor:
    """PSROIPooling: (R, D, groups, groups), bin (i, j) of d from map (d · groups + i) · groups + j.

    By sums from the corner in double precision, of which four make a bin's. x is (N, D·groups², H,
    W); an empty bin is 0.
    """
    number, _, height, width = x.shape
    sums = F.pad(x.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
    sums = sums.view(number, -1, groups, groups, height + 1, width + 1)
    group = torch.arange(groups, device=x.device)
    image, i, j = bins.image[:, None, None], group[:, None], group

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        return sums[image, :, i, j, rows[:, :, None], columns[:, None, :]]

    total = at(bins.bottom, bins.right) - at(bins.top, bins.right)
    total = total - at(bins.bottom, bins.left) + at(bins.top, bins.left)
    rows, columns = bins.bottom - bins.top, bins.right - bins.left
    area = (rows[:, :, None] * columns[:, None, :]).clamp(min=1)
    mean = torch.where(bins.empty, 0, total.permute(3, 0, 1, 2) / area)
    return mean.transpose(0, 1).to(x.dtype)


def between_pixels(x: Tensor, image: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Bilinear values (R, C, gh, gw) at rows y (R, gh) and columns z (R, gw) of maps (N, C, H, W).

    From half a pixel around the map on the value is 0, and up to there that of the border.
    """
    channels, height, width = x.shape[1:]
    flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
    inside = [(one >= -0.5) & (one <= size - 0.5) for one, size in ((y, height), (z, width))]

    def ends(at: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        low = at.floor()
        low, high = low.clamp(0, size - 1), (low + 1).clamp(0, size - 1)
        return low.long(), high.long(), at.clamp(0, size - 1) - low

    up, down, below = ends(y, height)
    left, right, beyond = ends(z, width)
    below, beyond = below[:, :, None, None], beyond[:, None, :, None]

    def pixels(rows: Tensor, columns: Tensor) -> Tensor:
        index = (image[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
        return flat.index_select(0, index.flatten()).view(*index.shape, channels)

    upper = pixels(up, left) * (1 - beyond) + pixels(up, right) * beyond
    lower = pixels(down, left) * (1 - beyond) + pixels(down, right) * beyond
    value = upper * (1 - below) + lower * below
    used = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return torch.where(used, value, 0).permute(0, 3, 1, 2)
