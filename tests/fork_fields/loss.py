"""Fields of FlowNet2's L1Loss."""

from __future__ import annotations

import numpy as np
from field_rows import Row

SHAPES = ((3, 4, 2, 5),) * 2


def by_place(scale: float, epsilon: float, plateau: float) -> Row:
    def total(d: np.ndarray) -> np.ndarray:
        sums = (d**2).sum(1) * scale
        return np.array(np.sqrt(np.where(sums < plateau**2, 0, sums) + epsilon).sum())

    return Row(
        "L1Loss of FlowNet2",
        "l2_per_location l2_prescale_by_channels epsilon plateau",
        f"l1_loss_param {{ l2_per_location: true l2_prescale_by_channels: {str(scale < 1).lower()} "
        f"epsilon: {epsilon} plateau: {plateau} }}",
        SHAPES,
        lambda b, w: [total(b[0] - b[1]) / 3],
    )


ROWS = [
    by_place(0.25, 0.5, 0.9),
    Row(
        "L1Loss of FlowNet2",
        "normalize_by_num_entries plateau",
        "l1_loss_param { normalize_by_num_entries: true plateau: 0.7 }",
        SHAPES,
        # 3 · 4 · 2 · 5 values, over 4 channels.
        lambda b, w: [np.where(abs(d := b[0] - b[1]) < 0.7, 0, abs(d)).sum() / 30],
    ),
]
