"""Fields of BN, Upsample, Interp and SegAccuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from field_checks import shows
from field_rows import Row, build, net_text
from oracle import Array

from converters.prototxt.text import parse_net
from fork_fields import Filled


def segnet_bn(b: list[Array], w: list[Array], merged: bool) -> list[Array]:
    """With merged statistics, or by those of the batch, one channel after another."""
    y = b[0].copy()
    statistics = np.zeros((2, 1, y.shape[1], 1, 1))
    for c in range(y.shape[1]):
        x = b[0][:, c]
        if not merged:
            statistics[:, 0, c] = np.reshape([x.mean(), ((x - x.mean()) ** 2).mean()], (2, 1, 1))
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-9)
        y[:, c] = x * w[0].flat[c] + w[1].flat[c]
    return [y, *statistics]


def unpool(b: list[Array], height: int, width: int) -> list[Array]:
    """Value by value, in order."""
    x, mask = b
    y = np.zeros((*x.shape[:2], height * width))
    for n, c, i, j in np.ndindex(*x.shape):
        y[n, c, int(mask[n, c, i, j])] = x[n, c, i, j]
    return [y.reshape(*x.shape[:2], height, width)]


def interp(x: Array, height: int, width: int) -> Array:
    """Between aligned corners, pixel by pixel."""
    y = np.zeros((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        row = i * (x.shape[2] - 1) / (height - 1) if height > 1 else 0.0
        column = j * (x.shape[3] - 1) / (width - 1) if width > 1 else 0.0
        for h, w in np.ndindex(*x.shape[2:]):
            weight = max(0.0, 1 - abs(row - h)) * max(0.0, 1 - abs(column - w))
            y[:, :, i, j] += weight * x[:, :, h, w]
    return y


def measures(scores: Array, labels: Array, left_out: tuple[int, ...] = ()) -> Array:
    """Pixel accuracy, mean class accuracy, mean overlap, class by class."""
    classes = scores.shape[1]
    flat = scores.transpose(0, 2, 3, 1).reshape(-1, classes)
    pairs = [
        (int(label), max(range(classes), key=lambda c: (row[c], c)))
        for row, label in zip(flat, labels.ravel())
        if int(label) not in left_out
    ]
    right = sum(label == guess for label, guess in pairs) / len(pairs)
    recalls, overlaps = [], []
    for c in range(classes):
        own = [guess == c for label, guess in pairs if label == c]
        either = [label == guess for label, guess in pairs if c in (label, guess)]
        recalls += [np.mean(own)] if own else []
        overlaps.append(np.mean(either) if either else 1.0)
    return np.array([right, np.mean(recalls), np.mean(overlaps)]).reshape(1, 1, 1, 3)


PIXELS = ((2, 4, 3, 5), (2, 1, 3, 5))
MASKED = ((2, 3, 2, 4),) * 2
MAPS = ((2, 3, 6, 7),)


def masked(settings: str, fields: str, height: int, width: int) -> Row:
    """A mask with the places of 15, and so several values of one place."""
    return Row(
        "Upsample",
        fields,
        f"upsample_param {{ {settings} }}",
        MASKED,
        lambda b, w: unpool(b, height, width),
        labels=15,
    )


def resized(settings: str, fields: str, height: int, width: int, cut: tuple[int, int]) -> Row:
    first, last = cut
    return Row(
        "Interp",
        fields,
        f"interp_param {{ {settings} }}",
        MAPS,
        lambda b, w: [interp(b[0][:, :, first : 6 - last, first : 7 - last], height, width)],
    )


ROWS = [
    Row(
        "BN of SegNet",
        "bn_mode",
        "bn_param { bn_mode: INFERENCE }",
        MAPS,
        lambda b, w: segnet_bn(b, w, True),
        tops=3,
    ),
    Row(
        "BN of SegNet",
        "",
        "bn_param { scale_filler { value: 1 } }",
        MAPS,
        lambda b, w: segnet_bn(b, w, False),
        tops=3,
    ),
    masked("scale: 3", "scale", 6, 12),
    masked("scale_h: 3 scale_w: 4", "scale_h scale_w", 6, 16),
    # The mask's largest place is 14.
    masked("scale_h: 2 scale_w: 4", "scale_h scale_w", 4, 16),
    masked("pad_out_h: true pad_out_w: true", "pad_out_h pad_out_w", 3, 7),
    masked("upsample_h: 5 upsample_w: 9", "upsample_h upsample_w", 5, 9),
    Row(
        "Upsample of MobileNet-YOLO",
        "scale",
        "upsample_param { scale: 3 }",
        MAPS,
        lambda b, w: [np.kron(b[0], np.ones((1, 1, 3, 3)))],
    ),
    resized("zoom_factor: 3 pad_beg: -2 pad_end: -1", "zoom_factor pad_beg pad_end", 7, 10, (2, 1)),
    # Shrunk to 3 × 4 first, then zoomed.
    resized("shrink_factor: 2 zoom_factor: 3", "shrink_factor zoom_factor", 7, 10, (0, 0)),
    # A single factor goes before the size; with both the size does.
    resized("shrink_factor: 2 height: 9 width: 9", "shrink_factor", 3, 4, (0, 0)),
    resized("shrink_factor: 2 zoom_factor: 3 height: 1 width: 5", "height width", 1, 5, (0, 0)),
    Row(
        "SegAccuracy",
        "ignore_label",
        "seg_accuracy_param { ignore_label: 1 ignore_label: 2 }",
        PIXELS,
        lambda b, w: [measures(b[0], b[1], (1, 2))],
        labels=4,
    ),
]

FILLED = {
    ("BN", "bn_param.slope_filler"): Filled("", MAPS, 0),
    ("BN", "bn_param.bias_filler"): Filled("", MAPS, 1),
    ("BN of SegNet", "bn_param.scale_filler"): Filled("", MAPS, 0),
    ("BN of SegNet", "bn_param.shift_filler"): Filled("", MAPS, 1),
}


@shows("SegAccuracy", "seg_accuracy_param.reset")
def counts_go_on(folder: Path) -> None:
    """Two forwards without reset measure both batches as one."""
    text = net_text("SegAccuracy", "seg_accuracy_param { reset: %s }", PIXELS)
    random = np.random.default_rng(5)
    scores = random.integers(0, 3, (2, *PIXELS[0])).astype(float)
    labels = random.integers(0, 4, (2, *PIXELS[1])).astype(float)
    for reset, used in (("true", slice(1, 2)), ("false", slice(0, 2))):
        net = build(parse_net(text % reset, "net"), folder)
        for one in range(2):
            top = net({"b0": torch.tensor(scores[one]), "b1": torch.tensor(labels[one])})["t0"]
        wanted = measures(np.concatenate(scores[used]), np.concatenate(labels[used]))
        np.testing.assert_allclose(top, wanted, rtol=1e-12)
