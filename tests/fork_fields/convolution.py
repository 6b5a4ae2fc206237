"""Fields of DepthwiseConvolution and ConvolutionDepthwise."""

from __future__ import annotations

import numpy as np
import oracle
from field_rows import H_AND_W, SIZES, WINDOWS, Row, over_axis_2
from oracle import Array, Windows

from converters.layers.registry import Shape
from fork_fields import Filled, Refused

OUTPUTS = {"DepthwiseConvolution": "num_output: 6", "ConvolutionDepthwise": ""}
DILATED = Windows((2, 3), (2, 1), (1, 0), (2, 1))


def rows_of(kind: str) -> list[Row]:
    out = OUTPUTS[kind]
    return [
        Row(
            kind,
            f"{H_AND_W} {'num_output' if out else ''}",
            f"convolution_param {{ {out} {SIZES} }}",
            ((2, 3, 6, 5),),
            lambda b, w: [oracle.convolve(b[0], w[0], w[1], WINDOWS, 3)],
        ),
        Row(
            kind,
            "kernel_size stride pad dilation bias_term",
            f"convolution_param {{ {out} kernel_size: 2 kernel_size: 3 stride: 2 stride: 1 pad: 1 "
            "pad: 0 dilation: 2 dilation: 1 bias_term: false }",
            ((2, 3, 6, 5),),
            lambda b, w: [oracle.convolve(b[0], w[0], np.zeros(len(w[0])), DILATED, 3)],
        ),
    ]


ROWS = [
    *rows_of("DepthwiseConvolution"),
    *rows_of("ConvolutionDepthwise"),
    Row(
        "DepthwiseConvolution",
        "axis",
        "convolution_param { num_output: 4 kernel_size: 2 axis: 2 bias_term: false }",
        ((2, 3, 2, 4),),
        lambda b, w: [
            over_axis_2(
                lambda x: oracle.convolve(x, w[0], np.zeros(4), Windows((2,), (1,), (0,), (1,)), 2)
            )(b[0])
        ],
    ),
    Row(
        "DepthwiseConvolution",
        "group",
        "convolution_param { num_output: 4 kernel_size: 2 group: 2 }",
        ((2, 4, 3, 3),),
        lambda b, w: [
            oracle.convolve(b[0], w[0], w[1], Windows((2, 2), (1, 1), (0, 0), (1, 1)), 2)
        ],
    ),
]

FILLED = {
    (kind, f"convolution_param.{field}"): Filled("num_output: 2 kernel_size: 2", ((1, 2, 4, 4),), i)
    for kind in OUTPUTS
    for i, field in enumerate(("weight_filler", "bias_filler"))
}


def pooled(b: list[Array], mean: bool, k: Shape, s: Shape, p: Shape) -> list[Array]:
    """Window by window; a mean is over what lies within image and padding."""
    x = b[0]
    size = x.shape[2:]
    sizes = []
    for n, kernel, stride, pad in zip(size, k, s, p):
        windows = -(-(n + 2 * pad - kernel) // stride) + 1
        sizes.append(windows - (pad > 0 and (windows - 1) * stride >= n + pad))
    y = np.zeros((*x.shape[:2], *sizes))
    for place in np.ndindex(*sizes):
        starts = [i * stride - pad for i, stride, pad in zip(place, s, p)]
        ends = [min(start + kernel, n + pad) for start, kernel, n, pad in zip(starts, k, size, p)]
        inside = tuple(slice(max(0, a), min(e, n)) for a, e, n in zip(starts, ends, size))
        window = x[(slice(None), slice(None), *inside)].reshape(*x.shape[:2], -1)
        area = np.prod([e - a for a, e in zip(starts, ends)])
        y[(slice(None), slice(None), *place)] = window.sum(2) / area if mean else window.max(2)
    return [y]


def dims(name: str, values: Shape) -> str:
    return f"{name}_shape {{ {' '.join(f'dim: {value}' for value in values)} }}"


K, S, P = (2, 3, 2), (1, 2, 3), (1, 0, 1)
SHAPES = " ".join(map(dims, ("kernel", "stride", "pad"), (K, S, P)))

ROWS += [
    Row(
        "NdConvolution",
        "num_output bias_term group kernel_shape stride_shape pad_shape",
        f"convolution_param {{ num_output: 4 bias_term: false group: 2 {SHAPES} }}",
        ((2, 4, 3, 5, 4),),
        lambda b, w: [oracle.convolve(b[0], w[0], np.zeros(4), Windows(K, S, P, (1, 1, 1)), 2)],
    ),
    *(
        Row(
            "NdPooling",
            f"{'pool' if mean else ''} kernel_shape stride_shape pad_shape",
            f"pooling_param {{ pool: {'AVE' if mean else 'MAX'} {SHAPES} }}",
            ((2, 3, 3, 6, 5),),
            lambda b, w, mean=mean: pooled(b, mean, K, S, P),
        )
        for mean in (False, True)
    ),
    Row(
        "NdPooling",
        "global_pooling",
        f"pooling_param {{ pool: AVE global_pooling: true {dims('kernel', (1, 1))} }}",
        ((2, 3, 4, 5),),
        lambda b, w: [b[0].mean((2, 3), keepdims=True)],
    ),
]
ROWS += [
    Row(
        "Pooling",
        "pooling_param.ceil_mode",
        "pooling_param { kernel_size: 2 stride: 3 ceil_mode: false }",
        ((2, 3, 7, 6),),
        # Floor: 2 windows a side where ceil has 3 and 3.
        lambda b, w: [
            np.block(
                [
                    [b[0][:, :, i : i + 2, j : j + 2].max((2, 3), keepdims=True) for j in (0, 3)]
                    for i in (0, 3)
                ]
            )
        ],
    ),
]
FILLED |= {
    ("NdConvolution", f"convolution_param.{field}"): Filled(
        f"num_output: 2 {dims('kernel', (2, 2))}", ((1, 2, 4, 4),), i
    )
    for i, field in enumerate(("weight_filler", "bias_filler"))
}
REFUSED = {
    ("NdPooling", "STOCHASTIC"): Refused(
        f"pooling_param {{ pool: STOCHASTIC {dims('kernel', (1, 1))} }}",
        ((2, 3, 4, 5),),
        "pool STOCHASTIC must be MAX or AVE",
    )
}
