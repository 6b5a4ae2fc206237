"""Fields of ShuffleChannel, Reorg, Reverse, Flip and Transpose."""

from __future__ import annotations

import numpy as np
from field_rows import Row
from oracle import Array


def reorg(x: Array, s: int, reverse: bool) -> Array:
    """Value by value, as darknet numbers them: maps c of (N, C, H, W), and of the larger ones."""
    number, channels, height, width = x.shape
    few = channels // s**2
    y = np.zeros(x.size)
    flat = x.reshape(-1)
    for n, c, h, w in np.ndindex(*x.shape):
        small = w + width * (h + height * (c + channels * n))
        down, across = divmod(c // few, s)
        row, column = h * s + down, w * s + across
        large = column + width * s * (row + height * s * (c % few + few * n))
        if reverse:
            y[large] = flat[small]
        else:
            y[small] = flat[large]
    shape = (few, height * s, width * s) if reverse else (channels * s**2, height // s, width // s)
    return y.reshape(number, *shape)


ROWS = [
    Row(
        "ShuffleChannel",
        "group",
        "shuffle_channel_param { group: 3 }",
        ((2, 6, 2, 3),),
        lambda b, w: [b[0][:, [0, 2, 4, 1, 3, 5]]],
    ),
    *(
        Row(
            "Reorg",
            "stride reverse" if reverse else "stride",
            f"reorg_param {{ stride: {s} reverse: {str(reverse).lower()} }}",
            ((2, 18, 6, 12),),
            lambda b, w, s=s, reverse=reverse: [reorg(b[0], s, reverse)],
        )
        for s, reverse in ((3, False), (3, True))
    ),
    Row("Reverse", "axis", "reverse_param { axis: 1 }", ((2, 3, 4),), lambda b, w: [b[0][:, ::-1]]),
    Row(
        "Flip",
        "flip_width flip_height",
        "flip_param { flip_width: false flip_height: true }",
        ((2, 3, 4, 5),),
        lambda b, w: [b[0][:, :, ::-1]],
    ),
    Row(
        "Transpose",
        "dim",
        "transpose_param { dim: 2 dim: 0 dim: 1 }",
        ((2, 3, 4),),
        lambda b, w: [b[0].transpose(2, 0, 1)],
    ),
]
