"""Every field of every layer's message: honoured, refused, or without effect; none in between.

The fields come from the descriptor. One that is honoured is shown to be so by a case of real Caffe
that fails without it, by a row of `field_rows` (a naive formula), or by one of `field_checks`; a
filler by the blob that it fills.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from field_checks import (
    SHOWS,
    SOURCES,
    Field,
    Show,
    hdf5,
    images_of,
    open_layer,
    window_settings,
    windows_of,
)
from field_rows import ROWS as CAFFES_ROWS
from field_rows import (
    Row,
    build,
    clear,
    draw_inputs,
    net_text,
    paths_of,
    run_row,
    write_layers,
)
from fork_fields import FILLED as FORKS_FILLED
from fork_fields import REFUSED as FORKS_REFUSED
from fork_fields import ROWS as FORKS_ROWS
from fork_fields import UNCHANGED
from golden_case import GOLDEN, READY, GoldenCase, case_folder

from converters.environment import Environment
from converters.errors import CaffeError
from converters.layers import LAYERS
from converters.layers.fields import field_paths, honoured, to_markdown
from converters.layers.meanings import Meanings
from converters.layers.registry import Shape
from converters.net.caffe_net import build_net
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_net, read_net
from converters.readers import open_reader

ROWS = [*CAFFES_ROWS, *FORKS_ROWS]
FILLERS = {
    path
    for layer in LAYERS.values()
    for path in field_paths(layer)
    if path.rsplit(".", 1)[1] in ("filler", "weight_filler", "bias_filler")
} | {path for _, path in FORKS_FILLED}


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
    folders = [*(GOLDEN / "layers").iterdir(), *map(case_folder, READY)]
    for folder in sorted(folders, key=lambda f: (f.name[:4] == "net_", f.name)):
        for kind, layer in entries(read_net(folder / "net.prototxt")):
            for message in LAYERS[kind].params:
                for field, _ in getattr(layer, message).ListFields():
                    found = cases[kind, f"{message}.{field.name}"]
                    if folder.name not in found:
                        found.append(folder.name)
    return dict(cases)


def entries(net: pb.NetParameter) -> Iterator[tuple[str, pb.LayerParameter]]:
    """Each layer with the name of its class in LAYERS (`BN of SegNet`)."""
    meanings = Meanings(net, "net.prototxt", lambda name: None)
    for layer in net.layer:
        meant = meanings.of(layer)
        yield next(n for n, c in LAYERS.items() if c is (meant or LAYERS[layer.type])), layer


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
    if (kind, path) in FORKS_FILLED:
        settings, bottoms, place = FORKS_FILLED[kind, path]
    else:
        settings, bottoms = FILLED[kind]
    text = net_text(kind, f"{message} {{ {settings} {field} {{ value: 7 }} }}", bottoms)
    blobs = build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"))).params["layer"]
    filled = [bool((blob == 7).all()) for blob in blobs]
    if (kind, path) in FORKS_FILLED:
        assert filled == [index == place for index in range(len(blobs))]
        return
    # A bias has one axis; the weights of Scale, Bias and PReLU too, and they come first.
    is_bias = [
        blob.dim() == 1
        and (kind not in ("Bias", "PReLU") or i > 0)
        and not (kind == "Scale" and i == 0)
        for i, blob in enumerate(blobs)
    ]
    assert filled == (is_bias if field == "bias_filler" else [not bias for bias in is_bias])


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
    elif field.is_repeated:
        getattr(holder, name).append(7)
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
        layers = [layer for layer in net.layer if layer.type == kind]
        assert layers
        for layer in layers:
            set_another(layer, path)

    cases = [name for (k, _), names in golden_cases().items() if k == kind for name in names]
    plain = f"{kind.lower()}_0"
    cases += [
        name for name in [*(f.name for f in (GOLDEN / "layers").iterdir()), *READY] if name == plain
    ]
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
        np.testing.assert_array_equal(build(net, folder)(feed)["t0"].detach().numpy(), tops[0])
        return
    if kind in UNCHANGED:
        UNCHANGED[kind](folder, change)
        return
    if kind == "WindowData":
        plain = windows_of(folder)["data"]
        layer = f'layer {{ name: "l" type: "{kind}" top: "data" top: "label" {window_settings()} }}'
        net = parse_net(layer, "net.prototxt")
        change(net)
        reader = open_reader(
            net.layer[0], Environment(str(folder / "n"), "TEST", str(folder)), seed=1
        )
        np.testing.assert_array_equal(reader.next()["data"], plain)
        return
    images = np.stack(images_of(8))
    SOURCES[kind].write(folder, list(images))
    settings = SOURCES[kind].settings(8).replace("height: 4 width: 4", "height: 6 width: 6")
    text = f'layer {{ name: "l" type: "{kind}" top: "data" top: "label" {settings} }}'
    net = parse_net(text, "net.prototxt")
    change(net)
    reader = open_reader(net.layer[0], Environment("n", "TEST", str(folder)), seed=1)
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


def refuse(
    kind: str,
    settings: str,
    *bottoms: Shape,
    allow: bool = True,
    tops: int = 1,
    files: Show = write_layers,
) -> Show:
    def build_it(folder: Path) -> None:
        files(folder)
        net = parse_net(net_text(kind, settings, bottoms, tops), "net.prototxt")
        build_net(NetChoice(str(folder / "net.prototxt"), net, allow_python_layers=allow))

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
    ("Dropout", "dropout_ratio 1 in TRAIN"): Refusal(
        refuse("Dropout", "dropout_param { dropout_ratio: 1 } phase: TRAIN", (2, 3)),
        "dropout_ratio 1 keeps no value in TRAIN",
    ),
    ("Pooling", "padding with STOCHASTIC"): Refusal(
        refuse("Pooling", "pooling_param { kernel_size: 3 pad: 1 pool: STOCHASTIC }", (1, 1, 6, 6)),
        "padding.*MAX and AVE",
    ),
    ("Pooling", "AVE or STOCHASTIC with a last window outside the image"): Refusal(
        refuse("Pooling", "pooling_param { pool: AVE kernel_size: 1 stride: 3 }", (1, 1, 6, 6)),
        r"outside bottom size \(6, 6\).*stride of at most",
    ),
    ("Python", "without --allow-python-layers"): Refusal(
        refuse("Python", CAFFES_ROWS[-1].settings, (2, 3), allow=False), "--allow-python-layers"
    ),
    ("BatchNorm", "param.lr_mult other than 0"): Refusal(
        refuse("BatchNorm", "param { lr_mult: 1 }", (2, 3)), "lr_mult 1.*need lr_mult: 0"
    ),
} | {
    key: Refusal(refuse(key[0], r.settings, *r.bottoms, tops=r.tops, files=r.files), r.says)
    for key, r in FORKS_REFUSED.items()
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
