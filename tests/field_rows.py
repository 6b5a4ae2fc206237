"""Settings of layers whose results are naive formulas (`oracle`): rows for `test_fields`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import oracle
import torch
from oracle import Array, Windows

from converters.layers import LAYERS
from converters.layers.registry import Shape
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_net
from converters.records.mean import write_mean

# Nets of one layer -------------------------------------------------------------------------------


def net_text(kind: str, settings: str, bottoms: Sequence[Shape], tops: int = 1) -> str:
    """A net with an Input layer b0, b1 … per bottom and one layer with tops t0, t1 …"""
    lines = []
    for index, shape in enumerate(bottoms):
        dims = " ".join(f"dim: {size}" for size in shape)
        lines.append(
            f'layer {{ name: "b{index}" type: "Input" top: "b{index}" '
            f"input_param {{ shape {{ {dims} }} }} }}"
        )
    names = [f'bottom: "b{index}"' for index in range(len(bottoms))]
    names += [f'top: "t{index}"' for index in range(tops)]
    lines.append(f'layer {{ name: "layer" type: "{kind}" {" ".join(names)} {settings} }}')
    return "\n".join(lines)


def build(net: pb.NetParameter, folder: Path, phase: str = "TEST") -> CaffeNet:
    torch.manual_seed(1)
    choice = NetChoice(str(folder / "net.prototxt"), net, phase, allow_python_layers=True)
    built = build_net(choice).double()
    for blobs in built.params.values():
        for blob in blobs:
            torch.nn.init.normal_(blob)
    return built


def clear(net: pb.NetParameter, kind: str, path: str) -> None:
    """Remove the field from every layer of this type."""
    message, field = path.split(".")
    for layer in net.layer:
        if layer.type == kind:
            getattr(layer, message).ClearField(field)


# Rows: settings whose result is a naive formula --------------------------------------------------


class Row(NamedTuple):
    """`formula(bottoms, blobs)` gives the tops of a layer with `settings`, which show `fields`."""

    kind: str
    fields: str
    settings: str
    bottoms: tuple[Shape, ...]
    formula: Callable[[list[Array], list[Array]], list[Array]]
    tops: int = 1
    labels: int = 0  # this many classes in bottom 1
    files: Callable[[Path], None] = lambda folder: None


SIZES = "kernel_h: 4 kernel_w: 3 stride_h: 2 stride_w: 3 pad_h: 2 pad_w: 1"
H_AND_W = "kernel_h kernel_w stride_h stride_w pad_h pad_w"
WINDOWS = Windows((4, 3), (2, 3), (2, 1), (1, 1))
DILATED = Windows((4, 3), (2, 3), (2, 1), (2, 2))
SCORES, LABELS = (2, 3, 4), (2, 4)
MATRIX = np.arange(9.0).reshape(3, 3) / 4


def over_axis_2(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`function` of (N, C, …) on a blob whose axes 0 and 1 are both batch."""
    return lambda x: function(x.reshape(-1, *x.shape[2:])).reshape(
        *x.shape[:2], *function(x.reshape(-1, *x.shape[2:])).shape[1:]
    )


def grouped(kind: str, w: Windows, group: int = 1) -> Callable[..., list[Array]]:
    function = oracle.convolve if kind == "Convolution" else oracle.deconvolve
    return lambda bottoms, blobs: [function(bottoms[0], blobs[0], blobs[1], w, group)]


def many_axes(kind: str) -> Row:
    """Four spatial axes, beyond what torch convolves."""
    return Row(
        kind,
        "num_output kernel_size pad stride dilation group",
        "convolution_param { num_output: 4 kernel_size: 2 pad: 1 pad: 0 pad: 0 pad: 1 stride: 1 "
        "stride: 1 stride: 2 stride: 1 dilation: 2 dilation: 1 dilation: 1 dilation: 1 group: 2 }",
        ((1, 4, 3, 3, 4, 2),),
        grouped(kind, Windows((2,) * 4, (1, 1, 2, 1), (1, 0, 0, 1), (2, 1, 1, 1)), 2),
    )


def loss(
    normalizer: Callable[[Array, Array], float], axis: int = 1, ignored: int = -1
) -> Callable[..., list[Array]]:
    """-Σ log softmax(x)[label] / normalizer(scores, counted)."""

    def formula(bottoms: list[Array], blobs: list[Array]) -> list[Array]:
        x, label = np.moveaxis(bottoms[0], axis, 1), bottoms[1].astype(int)
        own = np.take_along_axis(np.log(oracle.softmax(x, 1)), label[:, None], 1)[:, 0]
        counted = label != ignored
        return [np.array(-(own * counted).sum() / normalizer(x, counted))]

    return formula


def infogain(
    normalizer: Callable[[Array, Array], float], axis: int = 1, ignored: int = -1
) -> Callable[..., list[Array]]:
    """-Σ H[label]·log softmax(x) / normalizer; H is `MATRIX`."""

    def formula(bottoms: list[Array], blobs: list[Array]) -> list[Array]:
        x, label = np.moveaxis(bottoms[0], axis, 1), bottoms[1].astype(int)
        losses = -(np.moveaxis(MATRIX[label], -1, 1) * np.log(oracle.softmax(x, 1))).sum(1)
        counted = label != ignored
        return [np.array((losses * counted).sum() / normalizer(x, counted))]

    return formula


def sigmoid_loss(bottoms: list[Array], blobs: list[Array]) -> list[Array]:
    p = 1 / (1 + np.exp(-bottoms[0]))
    t = bottoms[1]
    return [np.array(-(t * np.log(p) + (1 - t) * np.log(1 - p)).sum() / t.size)]


def write_matrix(folder: Path) -> None:
    write_mean(folder / "H.binaryproto", MATRIX.astype(np.float32)[None])


def write_layers(folder: Path) -> None:
    (folder / "fields_layers.py").write_text(
        "import caffe\n"
        "class Times(caffe.Layer):\n"
        "    def setup(self, bottom, top): self.factor = float(self.param_str or 1)\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = bottom[0].data * self.factor\n"
    )


ROWS = [
    Row(
        "Convolution",
        H_AND_W,
        f"convolution_param {{ num_output: 4 {SIZES} }}",
        ((2, 3, 6, 5),),
        grouped("Convolution", WINDOWS),
    ),
    Row(
        "Convolution",
        "axis",
        "convolution_param { num_output: 4 kernel_size: 2 axis: 2 bias_term: false }",
        ((2, 2, 3, 4),),
        lambda b, w: [
            over_axis_2(
                lambda x: oracle.convolve(x, w[0], np.zeros(4), Windows((2,), (1,), (0,), (1,)), 1)
            )(b[0])
        ],
    ),
    many_axes("Convolution"),
    # The kernel is longer than the image, by less than a stride.
    Row(
        "Convolution",
        "kernel_size",
        "convolution_param { num_output: 2 kernel_size: 3 stride: 2 }",
        ((2, 3, 2, 5),),
        grouped("Convolution", Windows((3, 3), (2, 2), (0, 0), (1, 1))),
    ),
    Row(
        "Deconvolution",
        f"{H_AND_W} dilation",
        f"convolution_param {{ num_output: 4 {SIZES} dilation: 2 }}",
        ((2, 3, 4, 3),),
        grouped("Deconvolution", DILATED),
    ),
    Row(
        "Deconvolution",
        "axis",
        "convolution_param { num_output: 4 kernel_size: 2 axis: 2 bias_term: false }",
        ((2, 2, 3, 4),),
        lambda b, w: [
            over_axis_2(
                lambda x: oracle.deconvolve(
                    x, w[0], np.zeros(4), Windows((2,), (1,), (0,), (1,)), 1
                )
            )(b[0])
        ],
    ),
    many_axes("Deconvolution"),
    Row(
        "Im2col",
        f"{H_AND_W} dilation",
        f"convolution_param {{ {SIZES} dilation: 2 }}",
        ((2, 3, 7, 5),),
        lambda b, w: [oracle.im2col(b[0], DILATED)],
    ),
    Row(
        "Im2col",
        "axis",
        "convolution_param { kernel_size: 2 axis: 2 }",
        ((2, 2, 3, 4),),
        lambda b, w: [
            over_axis_2(lambda x: oracle.im2col(x, Windows((2,), (1,), (0,), (1,))))(b[0])
        ],
    ),
    *(
        Row(
            "Pooling",
            H_AND_W,
            f"pooling_param {{ {SIZES} pool: {method} }}",
            ((2, 3, 6, 5),),
            lambda b, w, average=method == "AVE": [oracle.pool(b[0], WINDOWS, average)],
        )
        for method in ("MAX", "AVE")
    ),
    Row(
        "Concat",
        "concat_dim",
        "concat_param { concat_dim: 2 }",
        ((2, 3, 4), (2, 3, 1)),
        lambda b, w: [np.concatenate(b, 2)],
    ),
    Row(
        "Slice",
        "slice_dim",
        "slice_param { slice_dim: 2 }",
        ((2, 4, 6),),
        lambda b, w: np.split(b[0], 2, 2),
        tops=2,
    ),
    Row(
        "Tile",
        "axis",
        "tile_param { axis: 2 tiles: 3 }",
        ((2, 4, 6),),
        lambda b, w: [np.tile(b[0], (1, 1, 3))],
    ),
    Row(
        "SPP",
        "pool",
        "spp_param { pyramid_height: 1 pool: AVE }",
        ((2, 4, 6, 5),),
        lambda b, w: [b[0].mean((2, 3), keepdims=True)],
    ),
    Row(
        "Accuracy",
        "axis",
        "accuracy_param { axis: 2 }",
        ((2, 4, 3), LABELS),
        lambda b, w: [np.array((b[0].argmax(2) == b[1]).mean())],
        labels=3,
    ),
    Row(
        "SoftmaxWithLoss",
        "softmax_param.axis",
        "softmax_param { axis: 2 }",
        ((2, 4, 3), LABELS),
        loss(lambda x, counted: counted.size, axis=2),
        labels=3,
    ),
    Row(
        "SoftmaxWithLoss",
        "loss_param.normalize",
        "loss_param { normalize: false }",
        (SCORES, LABELS),
        loss(lambda x, counted: len(x)),
        labels=3,
    ),
    Row(
        "InfogainLoss",
        "infogain_loss_param.source infogain_loss_param.axis",
        'infogain_loss_param { source: "H.binaryproto" axis: 2 }',
        ((2, 4, 3), LABELS),
        infogain(lambda x, counted: counted.size, axis=2),
        labels=3,
        files=write_matrix,
    ),
    Row(
        "InfogainLoss",
        "loss_param.ignore_label",
        'infogain_loss_param { source: "H.binaryproto" } loss_param { ignore_label: 1 }',
        (SCORES, LABELS),
        infogain(lambda x, counted: counted.sum(), ignored=1),
        labels=3,
        files=write_matrix,
    ),
    Row(
        "InfogainLoss",
        "loss_param.normalization",
        'infogain_loss_param { source: "H.binaryproto" } loss_param { normalization: BATCH_SIZE }',
        (SCORES, LABELS),
        infogain(lambda x, counted: len(x)),
        labels=3,
        files=write_matrix,
    ),
    Row(
        "SigmoidCrossEntropyLoss",
        "loss_param.normalize",
        "loss_param { normalize: true }",
        ((2, 6), (2, 6)),
        sigmoid_loss,
        labels=2,
    ),
    Row(
        "DummyData",
        "num channels height width data_filler",
        "dummy_data_param { num: 2 channels: 3 height: 1 width: 4 data_filler { value: 5 } }",
        (),
        lambda b, w: [np.full((2, 3, 1, 4), 5.0)],
    ),
    Row(
        "LSTM",
        "expose_hidden",
        "recurrent_param { num_output: 3 expose_hidden: true }",
        ((4, 2, 5), (4, 2), (1, 2, 3), (1, 2, 3)),
        lambda b, w: oracle.lstm(*b, w),
        tops=3,
        labels=2,
    ),
    Row(
        "RNN",
        "expose_hidden",
        "recurrent_param { num_output: 3 expose_hidden: true }",
        ((4, 2, 5), (4, 2), (1, 2, 3)),
        lambda b, w: oracle.rnn(*b, w),
        tops=2,
        labels=2,
    ),
    Row(
        "Python",
        "module layer param_str",
        'python_param { module: "fields_layers" layer: "Times" param_str: "3" }',
        ((2, 3),),
        lambda b, w: [3 * b[0]],
        files=write_layers,
    ),
]


def paths_of(row: Row) -> list[str]:
    """The row's fields with their message, which is the type's only one if they name none."""
    message = LAYERS[row.kind].params[0]
    return [name if "." in name else f"{message}.{name}" for name in row.fields.split()]


def draw_inputs(row: Row) -> list[Array]:
    random = np.random.default_rng(3)
    values = [random.standard_normal(shape) for shape in row.bottoms]
    if row.labels:
        values[1] = random.integers(0, row.labels, row.bottoms[1]).astype(float)
    return values


def run_row(row: Row, folder: Path, without: str = "") -> tuple[list[Array], list[Array]]:
    """The layer's tops and blobs after clearing the field `without`."""
    row.files(folder)
    net = parse_net(net_text(row.kind, row.settings, row.bottoms, row.tops), "net.prototxt")
    if without:
        clear(net, row.kind, without)
    built = build(net, folder)
    feed = {f"b{i}": torch.from_numpy(x) for i, x in enumerate(draw_inputs(row))}
    with torch.no_grad():
        tops = built(feed, blobs=[f"t{i}" for i in range(row.tops)])
    blobs = [blob.detach().numpy() for blob in built.params.get("layer", [])]
    return [top.numpy() for top in tops.values()], blobs
