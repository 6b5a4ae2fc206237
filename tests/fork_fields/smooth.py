"""Fields of SmoothL1Loss in three forks, and their gradients."""

from __future__ import annotations

import numpy as np
from field_rows import Row
from oracle import Array

SHAPE = (4, 3, 2, 2)


def smooth(d: Array, sigma: float = 1.0) -> Array:
    return np.vectorize(
        lambda v: (sigma * v) ** 2 / 2 if abs(v) < 1 / sigma**2 else abs(v) - 0.5 / sigma**2
    )(d)


def weighted(b: list[Array], sigma: float) -> Array:
    return b[3] * smooth(b[2] * (b[0] - b[1]), sigma)


def by(normalization: str, fields: str, normalizer: float) -> Row:
    return Row(
        "SmoothL1Loss of R-FCN",
        fields,
        f"loss_param {{ {normalization} }}",
        (SHAPE,) * 3,
        lambda b, w: [np.array(smooth(b[2] * (b[0] - b[1])).sum() / normalizer)],
    )


ROWS = [
    Row(
        "SmoothL1Loss of Fast R-CNN",
        "sigma",
        "smooth_l1_loss_param { sigma: 1.5 }",
        (SHAPE,) * 4,
        lambda b, w: [np.array(weighted(b, 1.5).sum() / 4)],
    ),
    by("normalization: BATCH_SIZE", "normalization", 4),
    by("normalization: NONE", "normalization", 1),
    by("normalize: false", "normalize", 4),
    by(
        "normalization: PRE_FIXED pre_fixed_normalizer: 2.5",
        "normalization pre_fixed_normalizer",
        2.5,
    ),
    Row(
        "SmoothL1Loss of R-FCN",
        "normalization",
        "loss_param { normalization: BATCH_SIZE }",
        (SHAPE,) * 2,
        lambda b, w: [
            np.array(smooth(b[0] - b[1]).sum() / 4),
            smooth(b[0] - b[1]).sum(1, keepdims=True),
        ],
        tops=2,
    ),
]
