"""Fields of ReLU6."""

from __future__ import annotations

import numpy as np
from field_rows import Row

ROWS = [
    Row(
        "ReLU6",
        "negative_slope",
        "relu6_param { negative_slope: 0.25 }",
        ((2, 3, 40),),
        lambda b, w: [np.minimum(np.where(b[0] > 0, b[0], b[0] * 0.25), 6)],
    ),
]
