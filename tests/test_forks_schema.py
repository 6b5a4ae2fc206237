"""What forks add to the schema: every field of eight forks' tables, under its number unless another
field has that, and an error where it is set and nobody computes it.

The tables (`golden/caffe_forks_schema.json`) have, for each fork, what its caffe.proto adds to
Caffe's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from test_proto import SCALARS, local_name

from converters.errors import CaffeError, PrototxtError
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.proto import caffe_pb2 as pb
from converters.proto.forks import (
    TEXT_ALONE,
    every_message,
    foreign,
    fork_of,
    fork_of_message,
    fork_of_value,
    idle,
    in_text_alone,
)
from converters.proto.merge import merged
from converters.prototxt.text import parse_net, parse_text

TABLES = json.loads((Path(__file__).parent / "golden" / "caffe_forks_schema.json").read_text())


class Entry(NamedTuple):
    """A field of a fork's table."""

    fork: str
    message: str
    name: str
    row: dict[str, Any]


ENTRIES = [
    Entry(fork, message, name, row)
    for fork, table in TABLES.items()
    for message, rows in table["messages"].items()
    for name, row in rows.items()
]


def message_called(name: str) -> Descriptor:
    """A message by its name, `Outer.Inner` for one within another."""
    first, *inner = name.split(".")
    message = pb.DESCRIPTOR.message_types_by_name[first]
    for part in inner:
        message = message.nested_types_by_name[part]
    return message


def field_of(entry: Entry) -> FieldDescriptor:
    return message_called(entry.message).fields_by_name[entry.name]


def kind_of(field: FieldDescriptor) -> str:
    composite = field.message_type or field.enum_type
    return SCALARS[field.type] if composite is None else local_name(composite.full_name)


# Fields whose type or label differs between forks, and which one is taken.
OTHERWISE = {
    ("mobilenet_yolo", "TransformationParameter", "resize_param"): "optional ResizeParameter",
    ("mobilenet_yolo", "UpsampleParameter", "scale"): "optional uint32",
}


@pytest.mark.parametrize("fork", TABLES)
def test_every_field_of_a_fork_is_there_with_its_type(fork: str) -> None:
    entries = [entry for entry in ENTRIES if entry.fork == fork]
    assert entries
    for entry in entries:
        field = field_of(entry)
        label = "repeated" if field.is_repeated else "required" if field.is_required else "optional"
        found = f"{label} {kind_of(field)}"
        wanted = OTHERWISE.get(entry[:3], f"{entry.row['label']} {entry.row['type']}")
        assert found == wanted, entry
        assert fork_of(field) or fork_of_message(field.containing_type), entry


@pytest.mark.parametrize("fork", TABLES)
def test_every_enum_value_of_a_fork_is_there(fork: str) -> None:
    for name, values in TABLES[fork]["enums"].items():
        outer, _, inner = name.rpartition(".")
        enums = (
            message_called(outer).enum_types_by_name if outer else pb.DESCRIPTOR.enum_types_by_name
        )
        for value, number in values.items():
            found = enums[inner].values_by_name[value]
            # A value that Caffe has too keeps Caffe's number (NONE: 3, in R-FCN 4).
            is_forks = fork_of_value(found) != ""
            taken = number in enums[inner].values_by_number
            assert found.number == number or not is_forks or (taken and in_text_alone(found)), value


def test_a_number_is_the_forks_or_stands_for_a_clash() -> None:
    """A field is for text alone only where another field has each number that forks give it."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for entry in ENTRIES:
        numbers.setdefault((entry.message, entry.name), set()).add(entry.row["number"])
    for (message, name), given in numbers.items():
        field = message_called(message).fields_by_name[name]
        if in_text_alone(field):
            taken = message_called(message).fields_by_number
            # The main fork's number decides; SSD's solver numbers are not those of its followers.
            free = {number for number in given if number not in taken}
            assert not free or name in ("eval_type", "ap_version", "center_loss_param"), (
                message,
                name,
                free,
            )
        else:
            assert field.number in given | EXTRA_NUMBERS.get((message, name), set()), (
                message,
                name,
            )


EXTRA_NUMBERS: dict[tuple[str, str], set[int]] = {
    ("LayerParameter", "dense_image_data_param"): {46},  # caffe-segnet-cudnn5's
    ("LossParameter", "label_smoothing"): {5},  # Intel's
}


def test_the_main_forks_numbers() -> None:
    """SSD's are those of its binary files, R-FCN's and PSPNet's likewise."""
    numbers = {
        "annotated_data_param": 200,
        "multibox_loss_param": 201,
        "permute_param": 202,
        "prior_box_param": 203,
        "detection_output_param": 204,
        "detection_evaluate_param": 205,
        "norm_param": 206,
        "roi_pooling_param": 8266711,
        "smooth_l1_loss_param": 8266712,
        "psroi_pooling_param": 10001,
        "box_annotator_ohem_param": 10000,
        "bn_param": 152,
        "shuffle_channel_param": 164,
    }
    fields = pb.LayerParameter.DESCRIPTOR.fields_by_name
    assert {name: fields[name].number for name in numbers} == numbers


def test_numbers_for_text_alone_are_no_forks() -> None:
    assert all(row["number"] < TEXT_ALONE for *_, row in ENTRIES)


def test_binary_files_of_a_fork_are_read_and_written_as_it_would() -> None:
    """`permute_param { order: 0 order: 2 }` as SSD's protobuf writes it, and what none knows."""
    written = bytes([0xD2, 0x0C, 4, 0x08, 0, 0x08, 2])  # field 202, a message of two varints
    layer = pb.LayerParameter.FromString(written)
    assert list(layer.permute_param.order) == [0, 2]
    assert layer.SerializeToString() == written
    unknown = bytes([0xF8, 0xFF, 0x07, 1])  # field 16383
    assert pb.LayerParameter.FromString(unknown).SerializeToString() == unknown


# What is set and not computed ---------------------------------------------------------------------


LAYER = 'layer {{ name: "l" type: "{}" bottom: "x" top: "y" {} }}'
INPUT = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 4 dim: 4 } } }
"""


def plan(kind: str, settings: str) -> None:
    text = INPUT + LAYER.format(kind, settings)
    plan_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt")))


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        (
            "Convolution",
            "convolution_param { num_output: 2 kernel_size: 1 relu: true }",
            '"l" .Convolution.: convolution_param.relu is a setting of the fork Intel',
        ),
        (
            "Convolution",
            "convolution_param { num_output: 2 kernel_size: 1 weight_filler { alpha: 0.5 } }",
            "convolution_param.weight_filler.alpha is a setting of the fork happynear",
        ),
        (
            "InnerProduct",
            "inner_product_param { num_output: 2 normalize: true }",
            "inner_product_param.normalize is a setting of the fork happynear",
        ),
        (
            "Eltwise",
            'bottom: "x" eltwise_param { operation: SORT }',
            "operation: SORT is a setting.*happynear",
        ),
        ("Pooling", "pooling_param { kernel_size: 2 pool: LOWRES }", "pool: LOWRES is a setting"),
    ],
)
def test_what_a_fork_computes_and_we_do_not_is_refused(kind: str, settings: str, says: str) -> None:
    with pytest.raises(CaffeError, match=says):
        plan(kind, settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Convolution", "convolution_param { num_output: 2 kernel_size: 1 relu: false }"),
        ("Convolution", "convolution_param { num_output: 2 kernel_size: 1 engine: MKL2017 }"),
        (
            "Convolution",
            "convolution_param { num_output: 2 kernel_size: 1 cudnn_convolution_algo_seeker: GET }",
        ),
        ("ReLU", "relu_param { engine: MKLDNN fuse: true } forward_type: FLOAT16 debug: true"),
        ("ReLU", "annotated_data_param { label_map_file: 'of another type' }"),
    ],
)
def test_what_changes_nothing_is_accepted(kind: str, settings: str) -> None:
    plan(kind, settings)


def test_a_setting_of_the_net_is_refused_or_idle() -> None:
    net = pb.NetParameter(bn_stats_batch_size=4, global_grad_scale=1000)
    assert [unknown.path for unknown in foreign(net, deep=False)] == ["bn_stats_batch_size"]
    text = f"bn_stats_batch_size: 4\n{INPUT}"
    with pytest.raises(CaffeError, match="bn_stats_batch_size is a setting of the fork"):
        plan_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt")))


def test_what_forks_give_a_layer_itself_is_a_message_or_idle() -> None:
    """Nobody looks at these one by one: each is the settings of a type, or changes nothing."""
    own = [f for f in pb.LayerParameter.DESCRIPTOR.fields if fork_of(f) and not idle(f)]
    assert all(field.message_type is not None for field in own)


def test_claimed_fields_and_values_are_no_more_foreign() -> None:
    message = text_format.Parse(
        "pre_fixed_normalizer: 4 normalization: PRE_FIXED", pb.LossParameter()
    )
    assert [unknown.path for unknown in foreign(message)] == [
        "normalization: PRE_FIXED",
        "pre_fixed_normalizer",
    ]
    claimed = ("pre_fixed_normalizer", "normalization.PRE_FIXED")
    assert list(foreign(message, claimed)) == []


def test_a_misspelt_field_is_still_an_error() -> None:
    with pytest.raises(PrototxtError, match='no field named "permut_param"'):
        parse_text("layer { permut_param { order: 0 } }", pb.NetParameter(), "net.prototxt")


# Merging ------------------------------------------------------------------------------------------


def two_files(number: int) -> FileDescriptorSet:
    """Caffe's `message A { optional int32 a = 1; }` and a fork's `b` with a number."""
    caffe = FileDescriptorProto(name="caffe.proto", package="caffe")
    forks = FileDescriptorProto(
        name="forks.proto", package="caffe.forks", dependency=["caffe.proto"]
    )
    for file, name, at in ((caffe, "a", 1), (forks, "b", number)):
        message = file.message_type.add(name="A")
        message.field.add(name=name, number=at, type=FieldDescriptor.TYPE_INT32, label=1)
    forks.message_type.add(name="B").field.add(
        name="of", number=1, type_name=".caffe.forks.A", type=FieldDescriptor.TYPE_MESSAGE, label=1
    )
    return FileDescriptorSet(file=[caffe, forks])


def test_messages_are_merged_by_name_and_types_renamed() -> None:
    (file,) = merged(two_files(2)).file
    assert [[field.name for field in message.field] for message in file.message_type] == [
        ["a", "b"],
        ["of"],
    ]
    assert file.message_type[1].field[0].type_name == ".caffe.A"
    assert list(file.dependency) == []


def test_a_number_given_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="A: the number 1 is given twice"):
        merged(two_files(1))


def test_every_field_of_forks_says_whose_it_is() -> None:
    for message in every_message():
        if message.name == "NetParameter":
            assert {fork_of(f) for f in message.fields} > {""}
        for field in message.fields:
            if in_text_alone(field):
                assert fork_of(field) or fork_of_message(message), field.full_name
        for enum in message.enum_types:
            assert all(v.number < TEXT_ALONE or fork_of_value(v) for v in enum.values)
