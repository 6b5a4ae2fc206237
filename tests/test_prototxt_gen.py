"""The generator: every variant and data set, structure beside Caffe's goldens, options, errors."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

from converters.datasets.registry import DATASETS
from converters.errors import OutputError
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.net.summary import summarize
from converters.proto import caffe_pb2 as pb
from converters.prototxt.net_rules import filter_net
from converters.prototxt.text import parse_text, read_net, read_solver
from converters.records.mean import write_mean
from prototxt_gen import GeneratorError
from prototxt_gen.__main__ import main
from prototxt_gen.options import Options, flag
from prototxt_gen.recipes import Means, channel_means, find_dataset, schedule
from prototxt_gen.render import Generated, generate, net_text, write
from prototxt_gen.variants import VARIANTS, build_model, find_variant

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "layers"
NO_MEAN = Means((), None, "")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of each test: no mean files, no earlier outputs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(variant: str, dataset: str = "cifar10", **options: Any) -> Generated:
    return generate(find_variant(variant), find_dataset(dataset), Options(**options))


def net_of(variant: str, dataset: str = "cifar10", **options: Any) -> pb.NetParameter:
    text = made(variant, dataset, **options).texts["net.prototxt"]
    return parse_text(text, pb.NetParameter(), variant)


def solver_of(variant: str, dataset: str = "cifar10", **options: Any) -> pb.SolverParameter:
    text = made(variant, dataset, **options).texts["solver.prototxt"]
    return parse_text(text, pb.SolverParameter(), variant)


def layers(net: pb.NetParameter, kind: str) -> list[pb.LayerParameter]:
    return [layer for layer in net.layer if layer.type == kind]


# GMNET.md's figures; those it leaves out are sums over a layer's k·k·c/g·o, BatchNorm's 2·o and fc.
PARAMETERS = [
    ("bua", {}, 1_737_290),
    ("bua", {"reading": "table"}, 1_547_338),
    ("bua", {"bu_s": "units"}, 1_869_386),
    ("bua", {"bu_s": "units", "reading": "table"}, 1_679_434),
    ("bub", {}, 1_737_290),
    ("bub", {"reading": "table"}, 1_547_338),
    ("baseline", {}, 921_418),
    ("baseline", {"reading": "table"}, 659_786),
    ("baseline_bub", {}, 921_418),
    ("baseline_bub", {"reading": "table"}, 659_786),
    ("bua_no_groups", {}, 3_893_834),
    ("bua_groups_block1", {}, 3_589_706),
    ("bua_groups_block3", {}, 2_041_418),
    ("baseline_8_2", {}, 1_105_738),
    ("baseline_8_4_16_8", {}, 792_394),
    ("baseline_4_4_4_4", {}, 1_059_658),
    ("baseline_no_operation_merge", {}, 659_786),
    ("baseline_no_unit_merge", {}, 921_418),
    ("bua_concat", {}, 1_353_562),
    ("bua_concat", {"adaption_groups": 1}, 2_457_178),
]


@pytest.mark.parametrize(("variant", "options", "expected"), PARAMETERS)
def test_parameters(variant: str, options: dict[str, Any], expected: int) -> None:
    summary = summarize(plan_net(NetChoice("net", made(variant, **options).deploy)))
    assert summary.parameters == expected


def test_every_variant_has_a_parameter_row() -> None:
    assert {variant for variant, _, _ in PARAMETERS} == set(VARIANTS)
    assert len(VARIANTS) == 13


def test_groups_differ_from_bua_by_what_the_groups_save() -> None:
    """k·k·c·o·(1 - 1/g) weights more for each convolution that a variant leaves ungrouped."""
    block1 = 3 * 9 * 64 * 128 * 7 // 8 + 9 * 128 * 128 * 3 // 4
    block3 = 3 * 9 * 192 * 384 * 7 // 8 + 384 * 384 * 3 // 4
    figures = {variant: figure for variant, options, figure in PARAMETERS if not options}
    assert figures["bua_groups_block3"] - figures["bua"] == block1
    assert figures["bua_groups_block1"] - figures["bua"] == block3
    assert figures["bua_no_groups"] - figures["bua"] == block1 + block3


@pytest.mark.parametrize(
    "dataset",
    [x if x in ("mnist", "cifar10") else pytest.param(x, marks=pytest.mark.long) for x in DATASETS],
)
def test_all_variants_are_whole_nets(dataset: str) -> None:
    """Parsed and wired, shapes inferred in both phases; reading `table` at half width."""
    found = find_dataset(dataset)
    image = (found.channels, found.size, found.size)
    shapes = {"data": (2, *image), "label": (2,)}
    for number, name in enumerate(VARIANTS):
        # Each reading with each variant and with each data set, not with every pair of the two.
        table = (number + list(DATASETS).index(dataset)) % 2
        options = {"reading": "table", "width": 0.5} if table else {}
        generated = made(name, dataset, **options)
        net = parse_text(generated.texts["net.prototxt"], pb.NetParameter(), name)
        deploy = summarize(plan_net(NetChoice("net", generated.deploy)))
        assert deploy.rows[0].type == "Input"
        assert deploy.rows[0].top_shapes == ((1, *image),)
        assert (deploy.rows[-1].type, deploy.rows[-1].top_shapes) == (
            "Softmax",
            ((1, found.classes),),
        )
        for phase, last in (("TRAIN", "SoftmaxWithLoss"), ("TEST", "Accuracy")):
            summary = summarize(plan_net(NetChoice("net", net, phase, input_shapes=shapes)))
            assert summary.parameters == deploy.parameters
            assert summary.rows[-1].type == last
        solver = parse_text(generated.texts["solver.prototxt"], pb.SolverParameter(), name)
        assert Path(solver.net) == generated.folder / "net.prototxt"


# --- Structure beside Caffe's goldens ------------------------------------------------------------


def canonical(message: Message) -> Message:
    """Without fields that hold their default, and without `pad: 0`, which is Caffe's."""
    for field, value in message.ListFields():
        if isinstance(value, Message):
            canonical(value)
        elif (field.has_presence and value == field.default_value) or (
            field.name == "pad" and list(value) == [0]
        ):
            message.ClearField(field.name)
    return message


def structure(net: pb.NetParameter) -> list[tuple[str, tuple[int, ...], str]]:
    """Type, wiring and fields of each layer from the stem to fc.

    Wiring is by value, not by name: the number of the layer that last wrote a blob.
    """
    types = [layer.type for layer in net.layer]
    first, last = types.index("Convolution"), types.index("InnerProduct")
    writer = {"data": -1}
    result = []
    for number, layer in enumerate(net.layer[first : last + 1]):
        bottoms = tuple(writer[bottom] for bottom in layer.bottom)
        for top in layer.top:
            writer[top] = number
        rest = pb.LayerParameter()
        rest.CopyFrom(layer)
        for name in ("name", "bottom", "top", "type"):
            rest.ClearField(name)
        result.append((layer.type, bottoms, str(canonical(rest))))
    return result


NARROW: dict[str, Any] = {"width": 0.125, "unit_groups": 4, "adaption_groups": 2, "dropout": 0.0}


@pytest.mark.parametrize(
    ("variant", "count"),
    # Convolutions with BatchNorm, Scale and ReLU; sums; pooling and fc.
    [("bua", 26 * 4 + 9 + 4), ("bub", 26 * 4 + 5 + 4), ("baseline", 22 * 4 + 6 + 4)],
)
def test_structure_is_that_of_the_golden(variant: str, count: int) -> None:
    golden = structure(read_net(GOLDEN / f"net_gmnet_{variant}" / "net.prototxt"))
    assert len(golden) == count
    assert structure(net_of(variant, **NARROW)) == golden


@pytest.mark.parametrize(
    ("variant", "options"),
    [("bub", {}), ("bua", {"adaption_groups": 4}), ("bua", {"bias": True}), ("baseline", {})],
)
def test_structure_tells_nets_apart(variant: str, options: dict[str, Any]) -> None:
    golden = structure(read_net(GOLDEN / "net_gmnet_bua" / "net.prototxt"))
    assert structure(net_of(variant, **{**NARROW, **options})) != golden


# --- Topology ------------------------------------------------------------------------------------


def test_basic_units_join_as_figure_1() -> None:
    def joins(variant: str, kind: str) -> dict[str, list[str]]:
        return {
            layer.name: [bottom.split("/")[1] for bottom in layer.bottom]
            for layer in layers(net_of(variant), kind)
            if layer.name.startswith("bu_i/")
        }

    units = ["unit1", "unit2", "unit3"]
    assert joins("bua", "Eltwise") == {"bu_i/sum2": units[:2], "bu_i/sum3": units}
    assert joins("bub", "Eltwise") == {"bu_i/sum3": ["unit1", "unit3"]}
    assert joins("baseline_no_unit_merge", "Eltwise") == {}
    assert joins("bua_concat", "Concat") == {
        f"bu_i/concat{number}": ["conv3x3", *units[:number]] for number in (1, 2, 3)
    }


def test_in_place_layers_and_names() -> None:
    net = net_of("bua")
    for kind, suffix in (("BatchNorm", "bn"), ("Scale", "scale"), ("ReLU", "relu")):
        found = layers(net, kind)
        assert len(found) == len(layers(net, "Convolution")) == 26
        for layer in found:
            assert list(layer.bottom) == list(layer.top)
            assert layer.name == f"{layer.top[0]}/{suffix}"
    names = [layer.name for layer in net.layer if layer.type != "Data"]
    assert len(set(names)) == len(names)
    assert "bu_i/unit2/conv3x3" in names


def test_dropout_follows_each_unit_of_bu_i_and_bu_e() -> None:
    drops = layers(net_of("bua"), "Dropout")
    assert [layer.top[0] for layer in drops] == [
        f"{part}/unit{number}/conv3x3" for part in ("bu_i", "bu_e") for number in (1, 2, 3)
    ]
    assert all(list(layer.bottom) == list(layer.top) for layer in drops)
    assert {round(layer.dropout_param.dropout_ratio, 6) for layer in drops} == {0.2}
    assert layers(net_of("bua", dropout=0.0), "Dropout") == []


def test_reading_groups_the_1x1_and_nothing_else() -> None:
    def groups(reading: str) -> dict[str, int]:
        convolutions = layers(net_of("bua", reading=reading), "Convolution")
        return {layer.name: layer.convolution_param.group for layer in convolutions}

    text, table = groups("text"), groups("table")
    changed = {name for name in text if text[name] != table[name]}
    assert changed == {
        f"{part}/unit{number}/conv1x1" for part in ("bu_i", "bu_e") for number in (1, 2, 3)
    }
    assert {table[name] for name in changed} == {8}


def test_width_scales_bu_s_groups_and_growths() -> None:
    narrow = {c.name: c.convolution_param for c in layers(net_of("bua", width=0.25), "Convolution")}
    assert narrow["bu_s/unit1/conv3x3"].num_output == narrow["bu_s/unit1/conv3x3"].group == 64
    assert narrow["bu_i/unit1/conv3x3"].num_output == 32
    assert narrow["bu_i/unit1/conv3x3"].group == 8
    # 20, 40, 60 times 0.25 are 5, 10, 15; times 0.0625 all are below 4.
    for width, expected in ((0.25, [4, 12, 16]), (0.0625, [4, 4, 4]), (2.0, [40, 80, 120])):
        net = net_of("bua_concat", width=width)
        outputs = {c.name: c.convolution_param.num_output for c in layers(net, "Convolution")}
        assert [outputs[f"{part}/unit1/conv3x3"] for part in ("bu_i", "bu_f", "bu_e")] == expected
        assert outputs["bu_i/unit1/conv1x1"] == 4 * expected[0]


# --- Data and recipe -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "epoch", "max_iter", "steps", "test_iter"),
    [
        ("mnist", 938, 187_600, [93_800, 140_700], 100),
        ("cifar10", 782, 234_600, [117_300, 175_950], 100),
        ("cifar100_plus", 782, 234_600, [117_300, 175_950], 100),
        ("svhn", 9_444, 1_888_800, [944_400, 1_416_600], 1_627),
        ("digits", 23, 322, [161, 241], 6),
    ],
)
def test_solver(dataset: str, epoch: int, max_iter: int, steps: list[int], test_iter: int) -> None:
    solver = solver_of("bua", dataset)
    assert (solver.type, solver.lr_policy, list(solver.stepvalue)) == (
        "Nesterov",
        "multistep",
        steps,
    )
    assert (solver.max_iter, solver.test_interval, list(solver.test_iter)) == (
        max_iter,
        epoch,
        [test_iter],
    )
    rates = (solver.base_lr, solver.gamma, solver.momentum, solver.weight_decay)
    assert rates == pytest.approx((0.01 if dataset == "mnist" else 0.1, 0.1, 0.9, 1e-4))
    assert (solver.display, solver.snapshot) == (100, 10 * epoch)
    assert solver.net == f"prototxt/bua_{dataset}/net.prototxt"
    assert solver.snapshot_prefix.startswith(f"runs/bua_{dataset}/")
    assert not solver.test_initialization
    assert not solver.HasField("random_seed")


def test_a_net_and_its_solver_are_of_the_data_sets_entry() -> None:
    for name, dataset in DATASETS.items():
        train, test = data_layers(net_of("bua", name))
        assert train.data_param.source == f"lmdb/{name}_train"
        assert test.data_param.source == f"lmdb/{dataset.test_of or name}_test"
        tested = solver_of("bua", name).test_iter[0] * test.data_param.batch_size
        assert tested == dataset.counts["test"]
        assert dataset.channels == (1 if dataset.order == "gray" else 3)
        crop, mirror = train.transform_param.crop_size, train.transform_param.mirror
        assert (crop, mirror) == ((dataset.size, True) if dataset.pad else (0, False))


def data_layers(net: pb.NetParameter) -> tuple[pb.LayerParameter, pb.LayerParameter]:
    """The data layer of TRAIN and that of TEST."""
    found = [layers(filter_net(net, phase), "Data") for phase in ("TRAIN", "TEST")]
    assert [len(one) for one in found] == [1, 1]
    return found[0][0], found[1][0]


def test_plus_sets_crop_and_mirror_in_training_alone() -> None:
    train, test = data_layers(net_of("bua", "cifar100_plus"))
    assert (train.data_param.source, train.data_param.batch_size) == (
        "lmdb/cifar100_plus_train",
        64,
    )
    assert (train.transform_param.crop_size, train.transform_param.mirror) == (32, True)
    assert (test.data_param.source, test.data_param.batch_size) == ("lmdb/cifar100_test", 100)
    assert not test.transform_param.crop_size
    assert not test.transform_param.mirror
    for layer in (train, test):
        assert list(layer.transform_param.mean_value) == pytest.approx([129.3, 124.1, 112.4])
        assert layer.data_param.backend == pb.DataParameter.LMDB


def test_plain_sets_neither_crop_nor_mirror() -> None:
    train, test = data_layers(net_of("bua", "mnist"))
    assert str(train.transform_param) == str(test.transform_param)
    assert list(train.transform_param.mean_value) == pytest.approx([33.318])
    assert not train.transform_param.HasField("crop_size")
    assert train.data_param.source == "lmdb/mnist_train"


def mean_file(dataset: str, *values: float) -> Path:
    path = Path(f"lmdb/{dataset}_mean.binaryproto")
    image = np.ones((len(values), 4, 4), np.float32) * np.array(values, np.float32)[:, None, None]
    image[:, 0, 0] += 16.0
    write_mean(path, image)
    return path


def test_a_mean_file_wins_over_the_constants() -> None:
    mean_file("cifar10", 100.0, 110.0, 120.0)
    means = channel_means(find_dataset("cifar10"), Options())
    assert means.values == (101.0, 111.0, 121.0)
    (note,) = means.notes
    assert "101.00, 111.00, 121.00 differ from the published ones, 125.3, 123.0, 113.9" in note
    for layer in data_layers(net_of("bua")):
        assert list(layer.transform_param.mean_value) == [101.0, 111.0, 121.0]


def test_a_mean_file_that_agrees_needs_no_note() -> None:
    mean_file("cifar10", 124.307, 121.951, 112.866)
    means = channel_means(find_dataset("cifar10"), Options())
    assert means == (
        (125.307, 122.951, 113.866),
        None,
        "channel means of cifar10_mean.binaryproto",
        (),
    )


@pytest.mark.parametrize("dataset", ["svhn", "digits"])
def test_a_set_without_constants_reads_its_mean_image_until_it_is_built(dataset: str) -> None:
    generated = made("bua", dataset)
    (note,) = generated.notes
    path = f"lmdb/{dataset}_mean.binaryproto"
    assert path in note
    for layer in data_layers(net_of("bua", dataset)):
        assert layer.transform_param.mean_file == path
        assert not layer.transform_param.mean_value
    mean_file(dataset, *[40.0] * find_dataset(dataset).channels)
    assert made("bua", dataset).notes == ()
    for layer in data_layers(net_of("bua", dataset)):
        assert set(layer.transform_param.mean_value) == {41.0}
        assert not layer.transform_param.HasField("mean_file")


def test_mean_option() -> None:
    path = mean_file("cifar10", 1.0, 2.0, 3.0).rename("other.binaryproto")
    for setting, expected in (
        ("none", []),
        ("5", [5.0]),
        ("1.5,2,3.25", [1.5, 2.0, 3.25]),
        (str(path), [2.0, 3.0, 4.0]),
    ):
        for layer in data_layers(net_of("bua", mean=setting)):
            assert list(layer.transform_param.mean_value) == expected


# --- Options -------------------------------------------------------------------------------------


def test_every_option_changes_what_is_written() -> None:
    values: dict[str, Any] = {
        "reading": "table",
        "bu_s": "units",
        "unit_groups": 4,
        "adaption_groups": 2,
        "width": 0.5,
        "bias": True,
        "filler": "xavier",
        "dropout": 0.5,
        "moving_average_fraction": 0.9,
        "mean": "none",
        "batch": 128,
        "epochs": 8,
        "weight_decay": 5e-4,
        "random_seed": 7,
    }
    assert set(values) == {one.name for one in fields(Options)}
    plain = made("bua").texts
    for name, value in values.items():
        changed = made("bua", **{name: value}).texts

        def content(texts: dict[str, str]) -> list[str]:
            return [re.sub(r"#.*", "", text) for text in texts.values()]

        assert content(changed) != content(plain), name
        # The file says how it was made.
        assert f"{flag(name)} {value}".removesuffix(" True") in changed["net.prototxt"]


def test_options_reach_their_fields() -> None:
    net = net_of(
        "bua", bias=True, filler="xavier", moving_average_fraction=0.9, batch=32, dropout=0.25
    )
    for layer in layers(net, "Convolution"):
        assert layer.convolution_param.bias_term
        assert layer.convolution_param.weight_filler.type == "xavier"
    for layer in layers(net, "BatchNorm"):
        assert layer.batch_norm_param.moving_average_fraction == pytest.approx(0.9)
    assert data_layers(net)[0].data_param.batch_size == 32
    assert layers(net, "Dropout")[0].dropout_param.dropout_ratio == 0.25
    solver = solver_of("bua", batch=32, weight_decay=5e-4, random_seed=7)
    assert solver.max_iter == 300 * 1563
    assert solver.weight_decay == pytest.approx(5e-4)
    assert solver.random_seed == 7
    assert schedule(find_dataset("digits"), Options(batch=1437)).max_iter == 14


def test_fewer_epochs_keep_the_schedules_form() -> None:
    solver = solver_of("bua", "mnist", epochs=6)
    epoch = 938
    assert solver.max_iter == 6 * epoch
    assert list(solver.stepvalue) == [3 * epoch, 4 * epoch + epoch // 2]
    assert solver.test_interval == epoch


def test_a_run_may_have_all_in_one_folder() -> None:
    folder = Path("runs/here")
    generated = generate(find_variant("bua"), find_dataset("digits"), Options(), run=folder)
    solver = parse_text(generated.texts["solver.prototxt"], pb.SolverParameter(), "solver")
    assert generated.folder == folder
    assert (solver.net, solver.snapshot_prefix) == ("runs/here/net.prototxt", "runs/here/bua")


def test_zero_is_a_value_and_not_the_default() -> None:
    solver = solver_of("bua", random_seed=0, weight_decay=0.0)
    assert solver.HasField("random_seed")
    assert solver.random_seed == solver.weight_decay == 0
    for layer in layers(net_of("bua", moving_average_fraction=0.0), "BatchNorm"):
        assert layer.batch_norm_param.moving_average_fraction == 0


def test_numbers_are_those_of_a_float32() -> None:
    value = 104.00698793
    for layer in data_layers(net_of("bua", mean=str(value))):
        assert list(layer.transform_param.mean_value) == [np.float32(value)]
    assert solver_of("bua", weight_decay=1 / 3).weight_decay == np.float32(1 / 3)


def test_nets_and_snapshots_have_the_variants_name() -> None:
    for name in VARIANTS:
        generated = made(name, "mnist", width=0.5)
        assert generated.deploy.name == net_of(name).name == name
        solver = solver_of(name, "mnist", width=0.5)
        assert solver.snapshot_prefix == f"runs/{name}_mnist_w0.5/{name}"
        # As Caffe's own examples: --device and a machine without a GPU choose otherwise.
        assert solver.solver_mode == pb.SolverParameter.GPU


@pytest.mark.parametrize(
    "arguments",
    [
        ["bub", "--dataset", "digits", "--reading", "table", "--width", "0.5", "--bias"],
        ["bua", "--dropout", "0", "--random-seed", "0", "--mean", "1,2,3.5", "--weight-decay", "0"],
        ["baseline", "--dataset", "svhn", "--unit-groups", "4", "--filler", "xavier"],
        ["bua", "--mean", "my mean.binaryproto"],
    ],
    ids=" ".join,
)
def test_the_command_of_the_header_writes_the_same_files(arguments: Sequence[str]) -> None:
    mean_file("mnist", 1.0, 2.0, 3.0).rename("my mean.binaryproto")
    assert main(arguments) == 0
    (folder,) = Path("prototxt").iterdir()
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    for name, text in texts.items():
        command = text.splitlines()[1].removeprefix("# python -m prototxt_gen ")
        assert main(shlex.split(command)) == 0
        assert (folder / name).read_text() == text
        assert list(Path("prototxt").iterdir()) == [folder]


def test_group_options_leave_ungrouped_parts_alone() -> None:
    net = net_of("bua_no_groups", adaption_groups=2)
    groups = {c.name: c.convolution_param.group for c in layers(net, "Convolution")}
    assert {name: group for name, group in groups.items() if group == 2} == {"au/conv3x3": 2}
    net = net_of("bua", unit_groups=4)
    groups = {c.name: c.convolution_param.group for c in layers(net, "Convolution")}
    assert {name.split("/")[0] for name, group in groups.items() if group == 4} >= {"bu_i", "bu_e"}
    assert groups["bu_f/unit1/conv3x3"] == 1
    assert groups["bu_s/unit1/conv3x3"] == 256


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "options", "says"),
    [
        ("bua", {"width": 0.3}, r"bua: width 0\.3: .*19\.2.* work: 0\.25, 0\.375$"),
        ("bua", {"width": 0.01}, r"work: 0\.125$"),
        ("bua", {"unit_groups": 5}, r'"bu_i/unit1/conv3x3": 64 .*group 5; .*0\.9375, 1\.09375$'),
        ("bua", {"unit_groups": 10**6}, "no width up to 64 works with these groups"),
        ("bua", {"width": 0.0}, "--width 0.0: use a number above 0"),
        ("bua", {"width": float("nan")}, "--width nan: use"),
        ("bua", {"width": float("inf")}, "--width inf: use"),
        ("bua", {"reading": "prose"}, "--reading prose: use one of text, table"),
        ("bua", {"bu_s": "unit"}, "--bu-s unit: use one of table, units"),
        ("bua", {"filler": "he"}, "--filler he: use one of msra, xavier"),
        ("bua", {"dropout": 1.0}, "--dropout 1.0: use a number from 0 to below 1"),
        ("bua", {"moving_average_fraction": -0.1}, "--moving-average-fraction -0.1"),
        ("bua", {"batch": 0}, "--batch 0: use a whole number from 1"),
        ("bua", {"adaption_groups": 0}, "--adaption-groups 0: use"),
        ("bua", {"weight_decay": -1.0}, "--weight-decay -1.0: use a number from 0"),
        ("bua", {"random_seed": -1}, "--random-seed -1: use"),
        ("bua", {"mean": "1,2"}, "--mean 1,2: cifar10 has 3 channels"),
        ("bua", {"mean": "nan"}, "--mean nan: .*finite"),
        ("bua", {"mean": "absent.binaryproto"}, "absent.binaryproto: .*use auto, none, values"),
        ("bua_no_groups", {"unit_groups": 4}, "bua_no_groups: has no grouped units"),
        ("bua_concat", {"unit_groups": 4}, "bua_concat: has no grouped units"),
        ("baseline", {"bu_s": "units"}, "baseline: has no BU_s"),
    ],
)
def test_options_that_do_not_fit(variant: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(GeneratorError, match=says):
        made(variant, **options)


def test_listed_widths_work_and_none_lies_between() -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("bua", {}),
        ("bua", NARROW),
        ("baseline_8_4_16_8", {}),
        ("bua_no_groups", {}),
    ]
    for name, options in cases:
        refused = Options(**{**options, "width": 0.3})
        with pytest.raises(GeneratorError) as caught:
            build_model(find_variant(name), 3, refused)
        below, above = map(float, str(caught.value).split("work: ")[1].split(", "))
        assert below < 0.3 < above
        for steps in range(int(below * 64), int(above * 64) + 1):
            width = steps / 64
            options_now = Options(**{**options, "width": width})
            if width in (below, above):
                build_model(find_variant(name), 3, options_now)
            else:
                with pytest.raises(GeneratorError):
                    build_model(find_variant(name), 3, options_now)


def test_a_mean_file_of_other_channels_is_an_error() -> None:
    mean_file("cifar10", 40.0)
    with pytest.raises(GeneratorError, match="a mean of 1 channels, cifar10 has 3"):
        made("bua")


def test_unknown_names_name_what_may_be_meant() -> None:
    with pytest.raises(GeneratorError, match="unknown variant 'buc'; did you mean 'bub' or"):
        find_variant("buc")
    with pytest.raises(GeneratorError, match=r"'BUA'; did you mean 'bua'\?$"):
        find_variant("BUA")
    with pytest.raises(GeneratorError, match=r"'resnet'; known are .* and 5 more"):
        find_variant("resnet")
    with pytest.raises(
        GeneratorError, match=r"'cifar'; did you mean 'cifar10' .* known are cifar10, .*mnist"
    ):
        find_dataset("cifar")


def test_a_file_in_the_way_is_an_error_and_stays() -> None:
    Path("taken").write_text("mine")
    generated = generate(find_variant("bua"), find_dataset("mnist"), Options(), Path("taken"))
    with pytest.raises(OutputError, match="taken/bua_mnist"):
        write(generated)
    assert Path("taken").read_text() == "mine"


# --- Command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["bua"], "prototxt/bua_cifar10"),
        (["bub", "--dataset", "mnist", "--reading", "table"], "prototxt/bub_mnist_table"),
        (["bua", "--dataset", "digits", "--width", "0.25"], "prototxt/bua_digits_w0.25"),
        (
            ["baseline", "--reading", "table", "--width", "0.5", "--out", "else"],
            "else/baseline_cifar10_table_w0.5",
        ),
        (["bua", "--width", "1.0", "--bias", "--batch", "32"], "prototxt/bua_cifar10"),
        (["bua", "--out", 'a "b" \\ c'], 'a "b" \\ c/bua_cifar10'),
    ],
)
def test_command_line_writes_the_folder(
    arguments: Sequence[str], folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    names = {"net.prototxt", "deploy.prototxt", "solver.prototxt"}
    assert {path.name for path in Path(folder).iterdir()} == names
    printed = capsys.readouterr().out
    assert all(f"{folder}/{name}" in printed for name in names)
    assert read_solver(f"{folder}/solver.prototxt").net == f"{folder}/net.prototxt"
    read_net(f"{folder}/net.prototxt")


def test_paths_stay_readable() -> None:
    assert main(["bua", "--out", "größe"]) == 0
    text = Path("größe/bua_cifar10/solver.prototxt").read_text(encoding="utf-8")
    assert 'net: "größe/bua_cifar10/net.prototxt"' in text


def test_command_line_prints_the_cost_beside_the_papers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["bua"])
    assert (
        "bua, reading text: 1,737,290 parameters (paper: 1.5M), depth 27 (paper: 29), "
        "415.0M multiply-adds an image (paper: not given)" in capsys.readouterr().out
    )


def test_command_line_makes_the_demos_net() -> None:
    command = "bua --dataset digits --width 0.25 --dropout 0 --moving-average-fraction 0.9"
    assert main([*command.split(), "--random-seed", "1"]) == 0
    folder = Path("prototxt/bua_digits_w0.25")
    assert read_solver(folder / "solver.prototxt").random_seed == 1
    net = read_net(folder / "net.prototxt")
    assert layers(net, "Dropout") == []
    assert layers(net, "BatchNorm")[0].batch_norm_param.moving_average_fraction == pytest.approx(
        0.9
    )


@pytest.mark.parametrize("arguments", [["buc"], ["bua", "--width", "0.3"], ["bua", "--mean", "x"]])
def test_command_line_errors_are_one_line(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: .+\n", captured.err)
    assert captured.out == ""
    assert not Path("prototxt").exists()


def test_list_describes_variants_and_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first_words = {line.split()[0] for line in lines if line.startswith("  ")}
    assert first_words == {*VARIANTS, *DATASETS}


def test_the_same_command_writes_the_same_bytes() -> None:
    """In processes whose sets have other orders."""
    texts = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "prototxt_gen", "bua", "--width", "0.25", "--out", seed]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        subprocess.run(command, env=environment, capture_output=True, check=True)
        folder = Path(seed) / "bua_cifar10_w0.25"
        written = [(folder / name).read_text() for name in ("net.prototxt", "solver.prototxt")]
        texts.add("".join(written).replace(f'"{seed}/', '"'))
    assert len(texts) == 1


def test_files_of_other_options_are_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bua", "--dropout", "0"]) == 0
    folder = Path("prototxt/bua_cifar10")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    for arguments in (["bua"], ["bua", "--bias"], ["bua", "--keep"], ["bua", "--batch", "32"]):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        for part in ("bua --dataset cifar10 --dropout 0.0`", "cifar10", "--force", "--out DIR"):
            assert part in error
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert main(["bua", "--dropout", "0"]) == 0
    assert main(["bua", "--bias", "--out", "else"]) == 0
    assert main(["bua", "--bias", "--force"]) == 0
    assert "replaced what python -m prototxt_gen bua --dataset cifar10 --dropout 0.0 had made" in (
        capsys.readouterr().err
    )
    assert layers(read_net(folder / "net.prototxt"), "Convolution")[0].convolution_param.bias_term


def test_a_file_made_by_hand_is_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    solver = Path("prototxt/bua_mnist/solver.prototxt")
    solver.parent.mkdir(parents=True)
    solver.write_text("base_lr: 1\nmax_iter: 3\n")
    assert main(["bua", "--dataset", "mnist"]) == 1
    assert "solver.prototxt: is there already, made by hand" in capsys.readouterr().err
    assert [path.name for path in solver.parent.iterdir()] == ["solver.prototxt"]
    assert main(["bua", "--dataset", "mnist", "--keep"]) == 1
    assert solver.read_text() == "base_lr: 1\nmax_iter: 3\n"


def test_kept_files_of_the_same_command_stay_as_they_were_edited() -> None:
    assert main(["bua", "--keep"]) == 0
    solver = Path("prototxt/bua_cifar10/solver.prototxt")
    solver.write_text(solver.read_text().replace("display: 100", "display: 7"))
    assert main(["bua", "--keep"]) == 0
    assert read_solver(solver).display == 7
    assert main(["bua"]) == 0
    assert read_solver(solver).display == 100


def test_kept_files_of_other_options_are_replaced_by_force(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bua", "--bias"]) == main(["bua", "--keep", "--force"]) == 0
    assert "replaced what python -m prototxt_gen bua --dataset cifar10 --bias had made" in (
        capsys.readouterr().err
    )
    assert "--bias" not in Path("prototxt/bua_cifar10/net.prototxt").read_text()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_train_refuses_a_net_of_other_options(tmp_path: Path) -> None:
    """Its recipe, run with this Python: the net that lies in the folder has another dropout."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / ".installed").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS", "MODEL", "DATASET", "WIDTH"):
        environment.pop(name, None)  # of the `make test ARGS=…` that may run this

    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--silent", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert make("prototxt", "ARGS=--dropout 0").returncode == 0
    refused = make("train", "ARGS=--max-iter 1")
    assert refused.returncode == 2
    assert "is there already, made by `python -m prototxt_gen bua --dataset cifar10 --dropout" in (
        refused.stderr
    )
    assert make("prototxt").returncode == 2
    assert make("prototxt", "ARGS=--force").returncode == 0
    # The right net is taken, and then misses its database.
    assert "database lmdb/cifar10_train does not exist" in make("train").stderr


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from prototxt_gen.__main__ import main\n"
        "for arguments in (['bua'], ['list'], ['audit']): main(arguments)\n"
        "heavy = {'torch', 'cv2', 'scipy', 'matplotlib', 'h5py', 'lmdb'}\n"
        "print('heavy:', *(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_texts_are_laid_out_as_by_hand() -> None:
    for name in VARIANTS:
        text = net_text(find_variant(name), find_dataset("cifar10"), Options(), NO_MEAN)
        assert text.startswith("# ")
        assert text.endswith("}\n")
        assert "\n\n\n" not in text
        assert max(map(len, text.splitlines())) <= 100
        for line in text.splitlines():
            assert line == line.rstrip()
            assert not line or re.match(r"( {2})*\S", line)
        for part in ("BU_i", "BU_e", "head"):
            assert f"\n\n# Table 1, {part}" in text
