"""What Caffe computes and torch has no single call for; exported modules hold what they need of it.

Each function stands for itself: it names torch, `F`, `Tensor` and functions of this file alone.
Computed as in the layers of the same name in `converters.layers`, without what their gradients
need. Spatial sizes may be any; (N, C, H, W) where nothing else is said.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def batch_norm(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalized by sums of means and variances and their weight; by 0 where that is 0."""
    factor = torch.where(weight == 0, torch.zeros_like(weight), 1 / weight)
    return F.batch_norm(x, mean * factor, variance * factor, eps=eps)


def batch_norm_by_batch(x: Tensor, eps: float) -> Tensor:
    """Normalized by the mean and variance of the batch itself."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    centred = x - x.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()


def mvn(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / (sqrt(variance) + eps) over some axes."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + eps)


def within_windows(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    ceil: bool,
    value: float,
) -> tuple[Tensor, int, int]:
    """x with `value` around it so that all of Caffe's windows lie within, and their numbers."""
    windows: list[int] = []
    sides: list[int] = []
    for n, k, s, p in zip(x.shape[2:], kernel, stride, pad):
        span = n + 2 * p - k
        number = (-(-span // s) if ceil else span // s) + 1
        if any(pad) and (number - 1) * s >= n + p:
            number -= 1
        windows.append(number)
        sides = [p, max(0, (number - 1) * s + k - p - n), *sides]
    return F.pad(x, sides, value=value), windows[0], windows[1]


def max_pool(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    ceil: bool,
) -> Tensor:
    """Maxima in windows that torch does not have: wider pads, or windows beyond the image."""
    padded, height, width = within_windows(x, kernel, stride, pad, ceil, torch.finfo(x.dtype).min)
    return F.max_pool2d(padded, kernel, stride)[:, :, :height, :width]


def max_pool_with_mask(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    ceil: bool,
) -> tuple[Tensor, Tensor]:
    """Maxima, and the place h · W + w of each: the first of equals, -1 in a window of nothing."""
    least = torch.finfo(x.dtype).min
    padded, height, width = within_windows(x, kernel, stride, pad, ceil, least)
    y, place = F.max_pool2d(padded, kernel, stride, return_indices=True)
    y, place = y[:, :, :height, :width], place[:, :, :height, :width]
    row = torch.div(place, padded.shape[3], rounding_mode="floor")
    place = (row - pad[0]) * x.shape[3] + place - row * padded.shape[3] - pad[1]
    return y, torch.where(y > least, place, -1).to(x.dtype)


def stochastic_pool(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    ceil: bool,
) -> Tensor:
    """Σx² / Σx over each window, 0 where Σx is 0."""
    padded, height, width = within_windows(x, kernel, stride, pad, ceil, 0.0)
    total = F.avg_pool2d(padded, kernel, stride)[:, :, :height, :width]
    squares = F.avg_pool2d(padded * padded, kernel, stride)[:, :, :height, :width]
    return squares / torch.where(total == 0, torch.ones_like(total), total)


def im2col(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """The columns (N, C·h·w, rows, columns) that a convolution multiplies."""
    rows, columns = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], kernel, stride, pad, dilation)
    )
    return F.unfold(x, kernel, dilation, pad, stride).reshape(x.shape[0], -1, rows, columns)


def arg_max(x: Tensor, axis: int, top_k: int) -> tuple[Tensor, Tensor]:
    """The largest values along an axis, largest first, and their places; of equals the last."""
    size, values, places = x.shape[axis], [], []
    shape = [size if one == axis else 1 for one in range(x.dim())]
    numbers = torch.arange(size, device=x.device).reshape(shape)
    for _ in range(top_k):
        place = size - 1 - x.flip(axis).argmax(axis, keepdim=True)
        values.append(x.amax(axis, keepdim=True))
        places.append(place.to(x.dtype))
        x = torch.where(numbers == place, -torch.inf, x)
    return torch.cat(values, axis), torch.cat(places, axis)


def arg_max_of_items(x: Tensor, top_k: int, with_values: bool) -> Tensor:
    """`arg_max` over all values of an item: (N, 1, k, …), or (N, 2, k, …) with the values too."""
    values, place = arg_max(x.flatten(1), 1, top_k)
    y = torch.stack([place, values], 1) if with_values else place.unsqueeze(1)
    return y.reshape(*y.shape, *(1,) * (max(3, x.dim()) - 3))


def lstm_unit(before: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """Cell and hidden state after one step: gates i, f, o, g (1, N, 4·D), cont (1, N, 1)."""
    i, f, o, g = torch.chunk(gates, 4, 2)
    cell = cont * torch.sigmoid(f) * before + torch.sigmoid(i) * torch.tanh(g)
    return cell, torch.sigmoid(o) * torch.tanh(cell)


def lstm(
    x: Tensor, cont: Tensor, weight: Tensor, hidden: Tensor | None, cell: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps of an LSTM on its gates x (T, N, 4·D); the last states, 0 at first, behind them."""
    if hidden is None or cell is None:
        hidden = cell = x[:1, :, : weight.shape[1]] * 0
    steps = []
    for step in range(x.shape[0]):
        goes_on = cont[step : step + 1].unsqueeze(2)
        gates = F.linear(hidden * goes_on, weight) + x[step : step + 1]
        cell, hidden = lstm_unit(cell, gates, goes_on)
        steps.append(hidden)
    return torch.cat(steps), hidden, cell


def rnn(
    x: Tensor,
    cont: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    hidden: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """All steps of an RNN on its inputs' part x (T, N, D); the last state, 0 at first, behind."""
    if hidden is None:
        hidden = x[:1] * 0
    steps = []
    for step in range(x.shape[0]):
        goes_on = cont[step : step + 1].unsqueeze(2)
        hidden = torch.tanh(F.linear(hidden * goes_on, weight) + x[step : step + 1])
        steps.append(hidden)
    return torch.tanh(F.linear(torch.cat(steps), output_weight, output_bias)), hidden


def scores_and_labels(x: Tensor, labels: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Scores (…, C, …) as (outer, C, inner), and their labels as (outer, 1, inner)."""
    outer = 1
    for size in x.shape[:axis]:
        outer = outer * size
    return x.reshape(outer, x.shape[axis], -1), labels.reshape(outer, 1, -1).long()


def normalized(losses: Tensor, items: int, counted: Tensor | None, normalization: str) -> Tensor:
    """The sum of losses by VALID (what counts), FULL (all), BATCH_SIZE (`items`) or NONE."""
    if normalization == "VALID" and counted is not None:
        return losses.sum() / counted.sum().clamp(min=1)
    if normalization in ("VALID", "FULL"):
        return losses.sum() / losses.numel()
    return losses.sum() / (items if normalization == "BATCH_SIZE" else 1)


def softmax_loss(
    x: Tensor, labels: Tensor, axis: int, normalization: str, ignored: int | None = None
) -> Tensor:
    """-Σ log max(softmax(x)[label], FLT_MIN), normalized."""
    scores, index = scores_and_labels(x, labels, axis)
    counted = None if ignored is None else index != ignored
    index = index if counted is None else torch.where(counted, index, 0)
    losses = -F.log_softmax(scores, 1).gather(1, index).clamp(min=-87.33654475055310898657)
    losses = losses if counted is None else torch.where(counted, losses, 0)
    return normalized(losses, scores.shape[0], counted, normalization)


def infogain_loss(
    x: Tensor,
    labels: Tensor,
    matrix: Tensor,
    axis: int,
    normalization: str,
    ignored: int | None = None,
) -> Tensor:
    """-Σ_c H[label, c] · log max(softmax(x)_c, 1e-20), normalized."""
    scores, index = scores_and_labels(x, labels, axis)
    outer, classes = scores.shape[:2]
    counted = None if ignored is None else (index != ignored).squeeze(1)
    index = index.squeeze(1) if counted is None else torch.where(counted, index.squeeze(1), 0)
    rows = matrix.reshape(classes, classes)[index].transpose(1, 2)
    losses = -(rows * F.log_softmax(scores, 1).clamp(min=-46.05170185988091368)).sum(1)
    losses = losses if counted is None else torch.where(counted, losses, 0)
    return normalized(losses, outer, counted, normalization)


def accuracy(
    x: Tensor, labels: Tensor, axis: int, top_k: int, ignored: int | None = None
) -> tuple[Tensor, Tensor]:
    """The share of labels among the top_k, where a tie counts against them, and that by class."""
    scores, index = scores_and_labels(x, labels, axis)
    counted = torch.ones_like(index, dtype=torch.bool) if ignored is None else index != ignored
    index = torch.where(counted, index, 0)
    rivals = (scores >= scores.gather(1, index)).sum(1, keepdim=True) - 1
    right = (rivals < top_k) & counted
    share = right.sum().to(x.dtype) / counted.sum().clamp(min=1)
    classes = torch.arange(scores.shape[1], device=x.device).reshape(1, -1, 1)
    members = (index == classes) & counted
    hits = (members & right).sum((0, 2)).to(x.dtype)
    return share, hits / members.sum((0, 2)).clamp(min=1)


def sigmoid_cross_entropy_loss(
    x: Tensor, targets: Tensor, normalization: str, ignored: int | None = None
) -> Tensor:
    """-Σ (t · log σ(x) + (1 - t) · log(1 - σ(x))), normalized."""
    targets = targets.reshape(x.shape)
    losses = F.relu(x) - x * targets + F.softplus(-x.abs())
    counted = None if ignored is None else targets.trunc() != ignored
    losses = losses if counted is None else torch.where(counted, losses, 0)
    return normalized(losses, x.shape[0], counted, normalization)


def euclidean_loss(x: Tensor, y: Tensor) -> Tensor:
    """Σ (x - y)² / 2N."""
    return (x - y.reshape(x.shape)).square().sum() / (2 * x.shape[0])


def hinge_loss(x: Tensor, labels: Tensor, power: int) -> Tensor:
    """Σ max(0, 1 ± x)^power / N, minus for the label's class."""
    rows = x.flatten(1)
    index = labels.flatten()[: x.shape[0]].unsqueeze(1).long()
    margin = F.relu(1 + rows * torch.ones_like(rows).scatter(1, index, -1.0))
    return (margin**power).sum() / x.shape[0]


def contrastive_loss(x: Tensor, y: Tensor, similar: Tensor, margin: float, legacy: bool) -> Tensor:
    """Σ (s · d² + (1 - s) · max(margin - d, 0)²) / 2N; legacy: max(margin - d², 0)."""
    square = (x - y.reshape(x.shape)).flatten(1).square().sum(1)
    apart = F.relu(margin - square) if legacy else F.relu(margin - square.sqrt()).square()
    alike = similar.flatten()[: x.shape[0]].trunc() != 0
    return torch.where(alike, square, apart).sum() / (2 * x.shape[0])


def multinomial_logistic_loss(p: Tensor, labels: Tensor) -> Tensor:
    """-Σ log max(p[label], 1e-20) / N."""
    index = labels.reshape(p.shape[0], 1).long()
    return -p.flatten(1).gather(1, index).clamp(min=1e-20).log().sum() / p.shape[0]


def center_loss(x: Tensor, labels: Tensor, centers: Tensor, power: int) -> Tensor:
    """Σ |x - c|^power / (power · N) to the centers of the labels' classes."""
    difference = x.flatten(1) - centers[labels.flatten().long()]
    return (difference.abs() ** power).sum() / (power * x.shape[0])


def reorg(x: Tensor, stride: int) -> Tensor:
    """(N, C, H, W) to (N, C·s², H/s, W/s), as YOLO's fork does it."""
    n, c, h, w = x.shape
    maps = x.reshape(n, c // stride**2, h, stride, w, stride)
    return maps.permute(0, 3, 5, 1, 2, 4).reshape(n, c * stride**2, h // stride, w // stride)


def reorg_back(x: Tensor, stride: int) -> Tensor:
    """(N, C, H, W) to (N, C/s², H·s, W·s): what undoes `reorg`."""
    n, c, h, w = x.shape
    maps = x.reshape(n, stride, stride, c // stride**2, h, w)
    return maps.permute(0, 3, 4, 1, 5, 2).reshape(n, c // stride**2, h * stride, w * stride)


def unpool(x: Tensor, mask: Tensor, height: int, width: int) -> Tensor:
    """Values at the places h · W + w that a pooling mask has for them, 0 elsewhere."""
    flat = torch.zeros(*x.shape[:2], height * width, dtype=x.dtype, device=x.device)
    filled = flat.scatter(2, mask.flatten(2).long(), x.flatten(2))
    return filled.reshape(*x.shape[:2], height, width)


def boxes_of(values: Tensor, priors: Tensor, code: str) -> Tensor:
    """Corners (n, 4) of boxes that are told by their priors (n, 4)."""
    if code == "CORNER":
        return priors + values
    size = priors[:, 2:] - priors[:, :2]
    if code == "CORNER_SIZE":
        return priors + values * torch.cat([size, size], 1)
    centre = values[:, :2] * size + (priors[:, :2] + priors[:, 2:]) / 2
    half = values[:, 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], 1)


def suppress(boxes: Tensor, threshold: float, eta: float) -> list[int]:
    """The places of the boxes (n, 4), best first, that overlap no kept one by more than that.

    Below a threshold of a half eta lowers it no more.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    areas = sides[:, 0] * sides[:, 1]
    kept, worst, place = [], torch.zeros_like(areas), 0
    while place < boxes.shape[0]:
        kept.append(place)
        low = torch.maximum(boxes[:, :2], boxes[place, :2])
        both = (torch.minimum(boxes[:, 2:], boxes[place, 2:]) - low).clamp(min=0)
        shared = both[:, 0] * both[:, 1]
        overlap = (shared / (areas + areas[place] - shared)).nan_to_num(nan=0.0)
        worst = torch.maximum(worst, overlap)
        if eta < 1 and threshold > 0.5:
            threshold *= eta
        after = (worst[place + 1 :] <= threshold).nonzero()
        place += 1 + (int(after[0]) if len(after) else boxes.shape[0])
    return kept


def detection_output(
    where: Tensor,
    scores: Tensor,
    priors: Tensor,
    classes: int,
    background: int,
    code: str,
    variance_encoded: bool,
    least: float,
    threshold: float,
    eta: float,
    top_k: int | None,
    keep: int | None,
) -> Tensor:
    """Rows (image, label, score, xmin, ymin, xmax, ymax), by label and falling score.

    Of each label the `top_k` best scores above `least`, less those that overlap a better one; of an
    image the `keep` best. Where there are none, a row an image: its number, then six times -1.
    """
    number = where.shape[0]
    boxes, variances = priors[0].reshape(2, -1, 4)
    where = where.reshape(number, boxes.shape[0], -1, 4)
    where = where if variance_encoded else where * variances[:, None]
    scores = scores.reshape(number, boxes.shape[0], classes)
    rows = [scores.new_zeros(0, 7)]
    for image in range(number):
        found = [scores.new_zeros(0, 7)]
        for label in range(classes):
            if label == background:
                continue
            own = scores[image, :, label]
            place = (own > least).nonzero()[:, 0]
            place = place[own[place].argsort(descending=True, stable=True)][:top_k]
            told = where[image, place, label if where.shape[2] > 1 else 0]
            corners = boxes_of(told, boxes[place], code)
            kept = suppress(corners, threshold, eta)
            about = own.new_tensor([image, label]).expand(len(kept), 2)
            found.append(torch.cat([about, own[place[kept], None], corners[kept]], 1))
        of_image = torch.cat(found)
        best = of_image[:, 2].argsort(descending=True, stable=True)[:keep]
        rows.append(of_image[best.sort().values])
    kept_rows = torch.cat(rows)
    if kept_rows.shape[0] == 0:
        kept_rows = scores.new_full((number, 7), -1)
        kept_rows[:, 0] = torch.arange(number)
    return kept_rows.reshape(1, 1, -1, 7)
