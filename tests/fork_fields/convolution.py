"""Fields of DepthwiseConvolution and ConvolutionDepthwise."""

from __future__ import annotations

import numpy as np
import oracle
from field_rows import H_AND_W, SIZES, WINDOWS, Row, over_axis_2
from oracle import Windows

from fork_fields import Filled

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
