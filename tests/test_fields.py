"""Every field of every layer's message: honoured, refused, or without effect; none in between.

The fields come from the descriptor. One that is honoured is shown to be so by a case of real Caffe
that fails without it, by a row of `ROWS` (a naive formula), or by a function marked `@shows`; a
filler by the blob that it fills.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import oracle
import pytest
import torch
from golden_case import GOLDEN, GoldenCase
from oracle import Array, Windows

from converters.datum import encode_datum
from converters.errors import CaffeError
from converters.graph import CaffeNet, build_net
from converters.layers import LAYERS
from converters.layers.fields import field_paths, honoured, to_markdown
from converters.layers.registry import Shape
from converters.mean import write_mean
from converters.proto import caffe_pb2 as pb
from converters.prototxt import parse_net, read_net
from converters.readers import Reader, open_reader

Field = tuple[str, str]
"""A layer type and a path, ("Convolution", "convolution_param.pad")."""

FILLERS = {
    path
    for layer in LAYERS.values()
    for path in field_paths(layer)
    if path.rsplit(".", 1)[1] in ("filler", "weight_filler", "bias_filler")
}


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
    built = build_net(net, str(folder / "net.prototxt"), phase, allow_python_layers=True).double()
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


def row_id(row: Row) -> str:
    return f"{row.kind}-{row.fields.replace(' ', '-')[:40]}"


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_a_row_follows_its_formula_and_needs_each_field(row: Row, tmp_path: Path) -> None:
    tops, blobs = run_row(row, tmp_path)
    # A matrix from a file, and what a Python layer sees, have single precision.
    bound = 1e-6 if row.kind in ("InfogainLoss", "Python") else 1e-12
    for top, wanted in zip(tops, row.formula(draw_inputs(row), blobs), strict=True):
        assert top.shape == wanted.shape
        np.testing.assert_allclose(top, wanted, rtol=bound, atol=bound)
    for path in paths_of(row):
        try:
            others, _ = run_row(row, tmp_path, without=path)
        except CaffeError:
            continue
        assert not all(map(np.array_equal, tops, others)), path


# Cases of real Caffe -----------------------------------------------------------------------------


@cache
def golden_cases() -> dict[Field, list[str]]:
    """The cases that set each field; small nets first."""
    cases: dict[Field, list[str]] = defaultdict(list)
    folders = sorted((GOLDEN / "layers").iterdir(), key=lambda f: (f.name[:4] == "net_", f.name))
    for folder in folders:
        for layer in read_net(folder / "net.prototxt").layer:
            for message in LAYERS[layer.type].params:
                for field, _ in getattr(layer, message).ListFields():
                    found = cases[layer.type, f"{message}.{field.name}"]
                    if folder.name not in found:
                        found.append(folder.name)
    return dict(cases)


def needs(name: str, kind: str, path: str) -> bool:
    """Whether a case no longer agrees with Caffe once the field is removed."""
    case = GoldenCase(name, lambda net: clear(net, kind, path))
    try:
        for phase in case.about["phases"]:
            case.check(phase)
    except (AssertionError, CaffeError):
        return True
    return False


def is_shown_by_caffe(kind: str, path: str) -> bool:
    return any(needs(name, kind, path) for name in golden_cases().get((kind, path), ()))


# Fillers -----------------------------------------------------------------------------------------

FILLED = {
    "Convolution": ("num_output: 2 kernel_size: 2", ((1, 2, 4, 4),)),
    "Deconvolution": ("num_output: 2 kernel_size: 2", ((1, 2, 4, 4),)),
    "InnerProduct": ("num_output: 2", ((1, 3),)),
    "Embed": ("num_output: 2 input_dim: 3", ((4,),)),
    "PReLU": ("", ((1, 3),)),
    "Bias": ("", ((1, 3),)),
    "Scale": ("bias_term: true", ((1, 3),)),
    "LSTM": ("num_output: 2", ((1, 2, 3), (1, 2))),
    "RNN": ("num_output: 2", ((1, 2, 3), (1, 2))),
}


def check_filler(kind: str, path: str) -> None:
    """A constant 7 fills the weights or the biases and nothing else."""
    message, field = path.split(".")
    settings, bottoms = FILLED[kind]
    text = net_text(kind, f"{message} {{ {settings} {field} {{ value: 7 }} }}", bottoms)
    blobs = build_net(parse_net(text, "net.prototxt"), "net.prototxt").params["layer"]
    filled = [bool((blob == 7).all()) for blob in blobs]
    # A bias has one axis; the weights of Scale, Bias and PReLU too, and they come first.
    is_bias = [
        blob.dim() == 1
        and (kind not in ("Bias", "PReLU") or i > 0)
        and not (kind == "Scale" and i == 0)
        for i, blob in enumerate(blobs)
    ]
    assert filled == (is_bias if field == "bias_filler" else [not bias for bias in is_bias])


# Data layers: what they read and how it is transformed --------------------------------------------

Show = Callable[[Path], None]
SHOWS: dict[Field, Show] = {}


def shows(kind: str, *paths: str) -> Callable[[Show], Show]:
    """Register a check of these fields of a type."""

    def add(check: Show) -> Show:
        SHOWS.update({(kind, path): check for path in paths})
        return check

    return add


def open_layer(kind: str, settings: str, folder: Path, phase: str = "TEST") -> Reader:
    text = f'layer {{ name: "layer" type: "{kind}" top: "data" top: "label" {settings} }}'
    layer = parse_net(text, "net.prototxt").layer[0]
    return open_reader(layer, phase, str(folder / "net.prototxt"), str(folder), seed=1)


def images_of(number: int, shape: Shape = (3, 6, 6)) -> list[Array]:
    random = np.random.default_rng(number)
    return [random.integers(0, 256, shape).astype(np.uint8) for _ in range(number)]


def write_records(folder: Path, images: Sequence[Array]) -> None:
    """An LMDB `db` of raw records with labels 0, 1, …"""
    import lmdb

    (folder / "db").mkdir()
    with lmdb.open(str(folder / "db"), map_size=2**22) as env, env.begin(write=True) as txn:
        for index, image in enumerate(images):
            txn.put(b"%08d" % index, bytes(encode_datum(image, index)))


@shows("Data", "data_param.source", "data_param.batch_size")
def data_source(folder: Path) -> None:
    images = images_of(5)
    write_records(folder, images)
    batch = open_layer("Data", 'data_param { source: "db" batch_size: 3 }', folder).next()
    np.testing.assert_array_equal(batch["data"], images[:3])
    np.testing.assert_array_equal(batch["label"], [0, 1, 2])


class Source(NamedTuple):
    """How a type reads given images (N, 3, 6, 6): the files it needs, and its own settings."""

    write: Callable[[Path, Sequence[Array]], None]
    settings: Callable[[int], str]


def write_pngs(folder: Path, images: Sequence[Array]) -> None:
    import cv2

    lines = []
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"{index}.png"), image.transpose(1, 2, 0))
        lines.append(f"{index}.png {index}\n")
    (folder / "list.txt").write_text("".join(lines))


SOURCES = {
    "Data": Source(write_records, lambda n: f'data_param {{ source: "db" batch_size: {n} }}'),
    "ImageData": Source(
        write_pngs, lambda n: f'image_data_param {{ source: "list.txt" batch_size: {n} }}'
    ),
    "MemoryData": Source(
        lambda folder, images: None,
        lambda n: f"memory_data_param {{ batch_size: {n} channels: 3 height: 4 width: 4 }}",
    ),
}


def transformed(kind: str, folder: Path, transform: str, phase: str = "TEST") -> Array:
    """The first batch of 8 images under `transform_param`, cut to 4×4 by it."""
    images = images_of(8)
    source = SOURCES[kind]
    source.write(folder, images)
    settings = f"{source.settings(8)} transform_param {{ crop_size: 4 {transform} }}"
    reader = open_layer(kind, settings, folder, phase)
    if kind == "MemoryData":
        reader.add(np.stack(images), np.arange(8))
    return reader.next()["data"]


def middle(image: Array) -> Array:
    return image[:, 1:5, 1:5].astype(np.float32)


def check_scale(kind: str, folder: Path) -> None:
    found = transformed(kind, folder, "scale: 0.5")
    np.testing.assert_array_equal(found, [middle(image) * 0.5 for image in images_of(8)])


def check_crop(kind: str, folder: Path) -> None:
    """TRAIN cuts at random places, TEST in the middle (in every other check)."""
    found = transformed(kind, folder, "", "TRAIN")
    places = set()
    for image, cut in zip(images_of(8), found):
        fits = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.array_equal(cut, image[:, y : y + 4, x : x + 4])
        ]
        assert len(fits) == 1
        places.update(fits)
    assert len(places) > 2


def check_mirror(kind: str, folder: Path) -> None:
    """In both phases half of the images, on average, are mirrored."""
    found = transformed(kind, folder, "mirror: true")
    flips = []
    for image, cut in zip(images_of(8), found):
        plain, flipped = middle(image), middle(image)[:, :, ::-1]
        assert np.array_equal(cut, plain) != np.array_equal(cut, flipped)
        flips.append(np.array_equal(cut, flipped))
    assert any(flips) and not all(flips)


def check_mean_file(kind: str, folder: Path) -> None:
    """The mean is read at the uncropped position."""
    mean = images_of(1)[0].astype(np.float32) / 3
    write_mean(folder / "mean.binaryproto", mean)
    found = transformed(kind, folder, 'mean_file: "mean.binaryproto"')
    np.testing.assert_array_equal(
        found, [middle(image) - mean[:, 1:5, 1:5] for image in images_of(8)]
    )


def check_mean_value(kind: str, folder: Path) -> None:
    found = transformed(kind, folder, "mean_value: 1 mean_value: 20 mean_value: 3.5")
    means = np.array([1, 20, 3.5], np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(found, [middle(image) - means for image in images_of(8)])


for _kind in SOURCES:
    for _name, _check in (
        ("scale", check_scale),
        ("crop_size", check_crop),
        ("mirror", check_mirror),
        ("mean_file", check_mean_file),
        ("mean_value", check_mean_value),
    ):
        SHOWS[_kind, f"transform_param.{_name}"] = lambda folder, kind=_kind, check=_check: check(
            kind, folder
        )


@shows("Data", "transform_param.force_color", "transform_param.force_gray")
def data_force(folder: Path) -> None:
    """Compressed records are decoded to three channels, or to one."""
    import cv2
    import lmdb

    from converters.datum import encode_image

    (folder / "db").mkdir()
    gray = images_of(1, (5, 5))[0]
    color = images_of(1, (5, 5, 3))[0]
    with lmdb.open(str(folder / "db"), map_size=2**22) as env, env.begin(write=True) as txn:
        for index, image in enumerate((gray, color)):
            png = cv2.imencode(".png", image)[1].tobytes()
            txn.put(b"%08d" % index, bytes(encode_image(png, index)))
    source = 'data_param { source: "db" batch_size: 2 }'
    forced = open_layer("Data", f"{source} transform_param {{ force_color: true }}", folder).next()
    np.testing.assert_array_equal(forced["data"], [[gray] * 3, color.transpose(2, 0, 1)])
    grays = open_layer("Data", f"{source} transform_param {{ force_gray: true }}", folder).next()
    assert grays["data"].shape == (2, 1, 5, 5)
    np.testing.assert_array_equal(grays["data"][0, 0], gray)
    # OpenCV's weights of blue, green and red.
    wanted = color @ np.array([0.114, 0.587, 0.299])
    assert np.abs(grays["data"][1, 0] - wanted).max() <= 1


@shows("ImageData", "image_data_param.source", "image_data_param.batch_size")
def list_source(folder: Path) -> None:
    images = images_of(4)
    write_pngs(folder, images)
    settings = 'image_data_param { source: "list.txt" batch_size: 3 }'
    batch = open_layer("ImageData", settings, folder).next()
    np.testing.assert_array_equal(batch["data"], images[:3])
    np.testing.assert_array_equal(batch["label"], [0, 1, 2])


@shows("ImageData", "image_data_param.root_folder")
def list_root(folder: Path) -> None:
    (folder / "below").mkdir()
    write_pngs(folder / "below", images_of(2))
    settings = 'image_data_param { source: "below/list.txt" batch_size: 2 root_folder: "below/" }'
    batch = open_layer("ImageData", settings, folder).next()
    np.testing.assert_array_equal(batch["data"], images_of(2))


@shows("ImageData", "image_data_param.shuffle")
def list_shuffle(folder: Path) -> None:
    """Each epoch has every image once, in an order of its own."""
    write_pngs(folder, images_of(12))
    settings = 'image_data_param { source: "list.txt" batch_size: 12 shuffle: true }'
    reader = open_layer("ImageData", settings, folder)
    first, second = reader.next()["label"], reader.next()["label"]
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second) and list(first) != list(range(12))


@shows("ImageData", "image_data_param.rand_skip")
def list_skip(folder: Path) -> None:
    """The run starts at one of the first rand_skip lines, and goes on from there in order."""
    write_pngs(folder, images_of(40))
    settings = 'image_data_param { source: "list.txt" batch_size: 4 rand_skip: 30 }'
    labels = open_layer("ImageData", settings, folder).next()["label"]
    assert 0 < labels[0] < 30
    np.testing.assert_array_equal(labels, labels[0] + np.arange(4))


@shows("ImageData", "image_data_param.new_height", "image_data_param.new_width")
def list_resize(folder: Path) -> None:
    """Twice the size, bilinear: the corner pixels stay."""
    write_pngs(folder, images_of(1))
    settings = 'image_data_param { source: "list.txt" batch_size: 1 new_height: 12 new_width: 18 }'
    data = open_layer("ImageData", settings, folder).next()["data"]
    assert data.shape == (1, 3, 12, 18)
    np.testing.assert_array_equal(data[0][:, ::11, ::17], images_of(1)[0][:, ::5, ::5])


@shows("ImageData", "image_data_param.is_color")
def list_gray(folder: Path) -> None:
    write_pngs(folder, images_of(1))
    settings = 'image_data_param { source: "list.txt" batch_size: 1 is_color: false }'
    data = open_layer("ImageData", settings, folder).next()["data"]
    assert data.shape == (1, 1, 6, 6)
    wanted = np.tensordot(np.array([0.114, 0.587, 0.299]), images_of(1)[0], 1)
    assert np.abs(data[0, 0] - wanted).max() <= 1


def write_windows(folder: Path, box: str = "1 1 4 4", other: str = "0 0 3 3") -> None:
    """One image with a foreground window of class 7 and a background window."""
    write_pngs(folder, images_of(1))
    text = f"# 0\n0.png\n3 6 6\n2\n1 0.2 {other}\n7 0.6 {box}\n"
    (folder / "windows.txt").write_text(text)


def window_settings(options: str = "", transform: str = "crop_size: 4") -> str:
    return (
        f'window_data_param {{ source: "windows.txt" batch_size: 8 {options} }} '
        f"transform_param {{ {transform} }}"
    )


def windows_of(
    folder: Path, options: str = "", transform: str = "crop_size: 4"
) -> dict[str, Array]:
    """The first batch of 8 windows of `write_windows`, two of them foreground by default."""
    write_windows(folder)
    return open_layer("WindowData", window_settings(options, transform), folder).next()


def region(image: Array, first: int, last: int) -> Array:
    return image[:, first : last + 1, first : last + 1].astype(np.float32)


@shows("WindowData", "window_data_param.source", "window_data_param.batch_size")
def window_source(folder: Path) -> None:
    """Background first, with label 0; windows of the crop's size are taken as they are."""
    batch = windows_of(folder)
    (image,) = images_of(1)
    np.testing.assert_array_equal(batch["label"], [0] * 6 + [7] * 2)
    np.testing.assert_array_equal(
        batch["data"], [region(image, 0, 3)] * 6 + [region(image, 1, 4)] * 2
    )


@shows("WindowData", "window_data_param.fg_fraction")
def window_fraction(folder: Path) -> None:
    labels = windows_of(folder, "fg_fraction: 0.7")["label"]
    np.testing.assert_array_equal(labels, [0] * 3 + [7] * 5)


@shows("WindowData", "window_data_param.fg_threshold", "window_data_param.bg_threshold")
def window_thresholds(folder: Path) -> None:
    """Between the two a window is neither; then one kind is missing."""
    windows_of(folder, "fg_threshold: 0.6 bg_threshold: 0.3")
    for options in ("fg_threshold: 0.61", "bg_threshold: 0.2"):
        with pytest.raises(CaffeError, match=r"(has|and) 0 (fore|back)ground windows"):
            windows_of(folder, options)


@shows("WindowData", "window_data_param.root_folder")
def window_root(folder: Path) -> None:
    found = windows_of(folder)
    (folder / "below").mkdir()
    (folder / "0.png").rename(folder / "below" / "0.png")
    text = window_settings('root_folder: "below/"')
    batch = open_layer("WindowData", text, folder).next()
    np.testing.assert_array_equal(batch["data"], found["data"])


@shows("WindowData", "window_data_param.cache_images")
def window_cache(folder: Path) -> None:
    """Files that were read once are not needed again."""
    write_windows(folder)
    kept, read = (
        open_layer("WindowData", window_settings(f"cache_images: {value}"), folder)
        for value in ("true", "false")
    )
    kept.next()
    read.next()
    (folder / "0.png").unlink()
    kept.next()
    with pytest.raises(CaffeError, match="cannot be read"):
        read.next()


@shows("WindowData", "window_data_param.context_pad", "window_data_param.crop_mode")
def window_context(folder: Path) -> None:
    """The region grows about its centre, 3; both its ends are taken.

    With a pixel of context around 2×2: 1 · 5 / 3 to each side, rounded. Square: 2 to each side.
    """
    for box, options in (("2 2 3 3", "context_pad: 1"), ("1 2 4 3", 'crop_mode: "square"')):
        write_windows(folder, box)
        settings = window_settings(options, "crop_size: 5")
        found = open_layer("WindowData", settings, folder).next()["data"][-1]
        np.testing.assert_array_equal(found, region(images_of(1)[0], 1, 5))


@shows("WindowData", "window_data_param.scale", "transform_param.mean_value")
def window_values(folder: Path) -> None:
    transform = "crop_size: 4 mean_value: 1 mean_value: 20 mean_value: 3.5"
    found = windows_of(folder, "scale: 0.5", transform)["data"][-1]
    means = np.array([1, 20, 3.5], np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(found, (region(images_of(1)[0], 1, 4) - means) * 0.5)


@shows("WindowData", "transform_param.mean_file", "transform_param.crop_size")
def window_mean(folder: Path) -> None:
    """The mean is that of the mean image's middle, wherever the window lay."""
    mean = images_of(1, (3, 8, 8))[0].astype(np.float32) / 3
    write_mean(folder / "mean.binaryproto", mean)
    found = windows_of(folder, "", 'crop_size: 4 mean_file: "mean.binaryproto"')["data"][-1]
    np.testing.assert_array_equal(found, region(images_of(1)[0], 1, 4) - mean[:, 2:6, 2:6])


@shows("WindowData", "transform_param.mirror")
def window_mirror(folder: Path) -> None:
    data = windows_of(folder, "fg_fraction: 1", "crop_size: 4 mirror: true")["data"]
    plain = region(images_of(1)[0], 1, 4)
    flips = [np.array_equal(window, plain[:, :, ::-1]) for window in data]
    assert any(flips) and not all(flips)
    assert all(np.array_equal(window, plain) for window, flip in zip(data, flips) if not flip)


MEMORY_FIELDS = [f"memory_data_param.{n}" for n in ("batch_size", "channels", "height", "width")]


@shows("MemoryData", *MEMORY_FIELDS)
def memory(folder: Path) -> None:
    settings = "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }"
    reader = open_layer("MemoryData", settings, folder)
    assert reader.shapes() == [(2, 3, 4, 5), (2,)]
    for shape in ((2, 1, 4, 5), (2, 3, 5, 5), (2, 3, 4, 4), (3, 3, 4, 5)):
        with pytest.raises(CaffeError):
            reader.add(np.zeros(shape), np.zeros(shape[0]))
    images = np.stack(images_of(4, (3, 4, 5)))
    reader.add(images, np.arange(4))
    reader.next()
    np.testing.assert_array_equal(reader.next()["data"], images[2:])


@shows("HDF5Data", *(f"hdf5_data_param.{name}" for name in ("source", "batch_size", "shuffle")))
def hdf5(folder: Path) -> None:
    import h5py

    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    with h5py.File(folder / "a.h5", "w") as file:
        file["data"], file["label"] = rows, rows[:, 0]
    (folder / "list.txt").write_text("a.h5\n")
    settings = 'hdf5_data_param { source: "list.txt" batch_size: 12 shuffle: %s }'
    plain = open_layer("HDF5Data", settings % "false", folder).next()
    np.testing.assert_array_equal(plain["data"], rows)
    mixed = open_layer("HDF5Data", settings % "true", folder).next()
    assert not np.array_equal(mixed["data"], rows)
    np.testing.assert_array_equal(mixed["data"][np.argsort(mixed["label"])], rows)


@shows("Dropout", "dropout_param.dropout_ratio")
def dropout(folder: Path) -> None:
    """A quarter is kept, and four times as large."""
    settings = "dropout_param { dropout_ratio: 0.75 }"
    net = build(parse_net(net_text("Dropout", settings, ((100, 100),)), "net"), folder, "TRAIN")
    y = net({"b0": torch.ones(100, 100)})["t0"]
    assert set(y.unique().tolist()) == {0.0, 4.0}
    # Five standard deviations of 10,000 tosses.
    assert abs(float((y > 0).double().mean()) - 0.25) < 0.022


@shows("Eltwise", "eltwise_param.stable_prod_grad")
def product_gradient(folder: Path) -> None:
    """The unstable gradient is y / x · dy: NaN where a factor is 0."""
    for stable, wanted in (("true", 5.0), ("false", np.nan)):
        settings = f"eltwise_param {{ operation: PROD stable_prod_grad: {stable} }}"
        net = build(parse_net(net_text("Eltwise", settings, ((1,), (1,))), "net"), folder, "TRAIN")
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        net({"b0": x, "b1": torch.tensor([5.0])})["t0"].sum().backward()
        np.testing.assert_array_equal(x.grad, [wanted])


@shows("HDF5Output", "hdf5_output_param.file_name")
def hdf5_output(folder: Path) -> None:
    import h5py

    settings = f'hdf5_output_param {{ file_name: "{folder}/out.h5" }}'
    net = build(parse_net(net_text("HDF5Output", settings, ((2, 3), (2,)), 0), "net"), folder)
    values = [np.arange(6.0).reshape(2, 3), np.array([4.0, 5.0])]
    net({f"b{i}": torch.from_numpy(x) for i, x in enumerate(values)})
    with h5py.File(folder / "out.h5") as file:
        np.testing.assert_array_equal(file["data"][...].reshape(2, 3), values[0])
        np.testing.assert_array_equal(file["label"][...].reshape(2), values[1])


@pytest.mark.parametrize("check", dict.fromkeys(SHOWS.values()), ids=lambda c: c.__name__)
def test_shown_by_a_check(check: Show, tmp_path: Path) -> None:
    check(tmp_path)


# Without effect ----------------------------------------------------------------------------------


def set_another(layer: pb.LayerParameter, path: str) -> None:
    """Give the field a value that it does not have."""
    message, name = path.split(".")
    holder = getattr(layer, message)
    field = holder.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None:
        getattr(holder, name).value = 7
    elif field.enum_type is not None:
        now = getattr(holder, name)
        setattr(holder, name, next(v.number for v in field.enum_type.values if v.number != now))
    elif isinstance(getattr(holder, name), str):
        setattr(holder, name, "nothing")
    else:
        setattr(holder, name, type(getattr(holder, name))(not getattr(holder, name)))


def check_no_effect(kind: str, path: str, folder: Path) -> None:
    """The result with the field set is the one without it."""

    def change(net: pb.NetParameter) -> None:
        for layer in net.layer:
            if layer.type == kind:
                set_another(layer, path)

    cases = [name for (k, _), names in golden_cases().items() if k == kind for name in names]
    cases += [f.name for f in (GOLDEN / "layers").iterdir() if f.name == f"{kind.lower()}_0"]
    if cases:
        case = GoldenCase(cases[0], change)
        assert all(case.check(phase) for phase in case.about["phases"])
        return
    row = next((row for row in ROWS if row.kind == kind), None)
    if row is not None:
        row.files(folder)
        net = parse_net(net_text(row.kind, row.settings, row.bottoms, row.tops), "net.prototxt")
        change(net)
        feed = {f"b{i}": torch.from_numpy(x) for i, x in enumerate(draw_inputs(row))}
        tops, _ = run_row(row, folder)
        np.testing.assert_array_equal(build(net, folder)(feed)["t0"].numpy(), tops[0])
        return
    if kind == "WindowData":
        plain = windows_of(folder)["data"]
        layer = f'layer {{ name: "l" type: "{kind}" top: "data" top: "label" {window_settings()} }}'
        net = parse_net(layer, "net.prototxt")
        change(net)
        reader = open_reader(net.layer[0], "TEST", str(folder / "n"), str(folder), seed=1)
        np.testing.assert_array_equal(reader.next()["data"], plain)
        return
    images = np.stack(images_of(8))
    SOURCES[kind].write(folder, list(images))
    settings = SOURCES[kind].settings(8).replace("height: 4 width: 4", "height: 6 width: 6")
    text = f'layer {{ name: "l" type: "{kind}" top: "data" top: "label" {settings} }}'
    net = parse_net(text, "net.prototxt")
    change(net)
    reader = open_reader(net.layer[0], "TEST", str(folder / "n"), str(folder), seed=1)
    if kind == "MemoryData":
        reader.add(images, np.arange(8))
    batch = reader.next()
    np.testing.assert_array_equal(batch["data"], images)
    np.testing.assert_array_equal(batch["label"], np.arange(8))


# Refused -----------------------------------------------------------------------------------------


def refuse_leveldb(folder: Path) -> None:
    (folder / "db").mkdir()
    (folder / "db" / "CURRENT").write_text("MANIFEST-000001\n")
    open_layer("Data", 'data_param { source: "db" batch_size: 1 }', folder)


def refuse_transform(folder: Path) -> None:
    hdf5(folder)
    settings = 'hdf5_data_param { source: "list.txt" batch_size: 1 } transform_param { scale: 2 }'
    open_layer("HDF5Data", settings, folder)


def refuse(kind: str, settings: str, *bottoms: Shape, allow: bool = True) -> Show:
    def build_it(folder: Path) -> None:
        write_layers(folder)
        net = parse_net(net_text(kind, settings, bottoms), "net.prototxt")
        build_net(net, str(folder / "net.prototxt"), allow_python_layers=allow)

    return build_it


class Refusal(NamedTuple):
    """Something that raises, and what the error must say."""

    example: Show
    says: str


REFUSALS = {
    ("Data", "a LevelDB database"): Refusal(refuse_leveldb, "LevelDB.*imageset"),
    ("HDF5Data", "transform_param"): Refusal(refuse_transform, "takes no transform_param"),
    ("InfogainLoss", "loss_param.normalize"): Refusal(
        refuse("InfogainLoss", "loss_param { normalize: true }", (2, 3), (2,), (3, 3)),
        "loss_param.normalize is not accepted.*normalization",
    ),
    ("Pooling", "padding with STOCHASTIC"): Refusal(
        refuse("Pooling", "pooling_param { kernel_size: 3 pad: 1 pool: STOCHASTIC }", (1, 1, 6, 6)),
        "padding.*MAX and AVE",
    ),
    ("Pooling", "a last window outside the image"): Refusal(
        refuse("Pooling", "pooling_param { kernel_size: 1 stride: 3 }", (1, 1, 6, 6)),
        r"outside bottom size \(6, 6\).*stride of at most",
    ),
    ("Python", "without --allow-python-layers"): Refusal(
        refuse("Python", ROWS[-1].settings, (2, 3), allow=False), "--allow-python-layers"
    ),
    ("BatchNorm", "param.lr_mult other than 0"): Refusal(
        refuse("BatchNorm", "param { lr_mult: 1 }", (2, 3)), "lr_mult 1.*need lr_mult: 0"
    ),
}


def test_every_refusal_has_an_example() -> None:
    refused = {(name, key) for name, layer in LAYERS.items() for key in layer.refused}
    assert refused == set(REFUSALS)


@pytest.mark.parametrize("key", REFUSALS, ids="-".join)
def test_what_is_refused_raises(key: Field, tmp_path: Path) -> None:
    with pytest.raises(CaffeError, match=REFUSALS[key].says) as raised:
        REFUSALS[key].example(tmp_path)
    assert '"layer"' in str(raised.value)


# The walk ----------------------------------------------------------------------------------------


def walk() -> Iterator[Field]:
    for name, layer in LAYERS.items():
        for path in field_paths(layer):
            yield name, path


ROW_FIELDS = {(row.kind, path) for row in ROWS for path in paths_of(row)}


@pytest.mark.parametrize(("kind", "path"), list(walk()), ids=str)
def test_every_field_is_honoured_refused_or_without_effect(
    kind: str, path: str, tmp_path: Path
) -> None:
    layer = LAYERS[kind]
    if path in layer.refused:
        assert (kind, path) in REFUSALS
    elif path in layer.ignored:
        check_no_effect(kind, path, tmp_path)
    elif path in FILLERS:
        check_filler(kind, path)
    else:
        assert path in honoured(layer)
        # Rows and checks are tests of their own.
        shown = (kind, path) in ROW_FIELDS | SHOWS.keys() or is_shown_by_caffe(kind, path)
        assert shown, f"nothing shows that {kind} honours {path}"


def test_ignored_fields_exist() -> None:
    for layer in LAYERS.values():
        assert set(layer.ignored) <= set(field_paths(layer)), layer.type


def test_the_table_in_docs_is_the_registrys() -> None:
    docs = Path(__file__).parent.parent / "docs" / "layers.md"
    assert docs.read_text(encoding="utf-8") == to_markdown()
