"""The schema against the table of Caffe's wire format: the generated classes and the .proto text.

The table (`golden/caffe_schema.json`) has a row per field: number, label, type, name, and options.
What forks add (`forks.proto`) is left out here; tests/test_forks_schema.py compares it.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from converters.proto import caffe_pb2 as pb
from converters.proto.forks import fork_of, fork_of_message, fork_of_value

TABLE = json.loads((Path(__file__).parent / "golden" / "caffe_schema.json").read_text())
PROTO = Path(pb.__file__).with_name("caffe.proto")

SCALARS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_") and name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}

Row = list[Any]


def as_float32(value: float) -> float:
    """The nearest float32: a descriptor holds 0.2 of a `float` field rounded so."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def local_name(full_name: str) -> str:
    return full_name.removeprefix("caffe.")


def default_of(field: FieldDescriptor) -> object:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    return field.default_value


def descriptor_row(field: FieldDescriptor) -> Row:
    """A field of the generated classes as the table writes it."""
    label = "repeated" if field.is_repeated else "required" if field.is_required else "optional"
    composite = field.message_type or field.enum_type
    kind = local_name(composite.full_name) if composite is not None else SCALARS[field.type]
    row: Row = [field.number, label, kind, field.name]
    options: dict[str, object] = {}
    if field.has_default_value:
        options["default"] = default_of(field)
    if field.is_packed:
        options["packed"] = True
    return [*row, options] if options else row


def table_row(row: Row) -> Row:
    """A row of the table, its float defaults rounded to what a `float` field can hold."""
    if len(row) == 5 and row[2] == "float" and "default" in row[4]:
        return [*row[:4], {**row[4], "default": as_float32(row[4]["default"])}]
    return row


def described_messages() -> dict[str, Descriptor]:
    """Caffe's own messages."""
    found = pb.DESCRIPTOR.message_types_by_name
    return {name: message for name, message in found.items() if not fork_of_message(message)}


def described_enums() -> dict[str, EnumDescriptor]:
    """Caffe's own enums: those with a value of its own."""
    inner = {
        f"{name}.{enum.name}": enum
        for name, message in described_messages().items()
        for enum in message.enum_types
    }
    found = {**inner, **pb.DESCRIPTOR.enum_types_by_name}
    return {
        name: enum
        for name, enum in found.items()
        if not all(fork_of_value(value) for value in enum.values)
    }


def test_package_and_syntax() -> None:
    text = PROTO.read_text()
    assert pb.DESCRIPTOR.package == TABLE["package"]
    assert f'syntax = "{TABLE["syntax"]}";' in text


def test_there_are_63_messages_and_26_enums() -> None:
    assert len(TABLE["messages"]) == 63
    assert len(TABLE["enums"]) == 26
    assert set(described_messages()) == set(TABLE["messages"])
    assert set(described_enums()) == set(TABLE["enums"])
    assert not any(message.nested_types for message in described_messages().values())


@pytest.mark.parametrize("name", TABLE["messages"])
def test_message_has_the_rows_of_the_table(name: str) -> None:
    message = pb.DESCRIPTOR.message_types_by_name[name]
    described = sorted(descriptor_row(field) for field in message.fields if not fork_of(field))
    assert described == sorted(table_row(row) for row in TABLE["messages"][name])


@pytest.mark.parametrize("name", TABLE["enums"])
def test_enum_has_the_values_of_the_table(name: str) -> None:
    values = [value for value in described_enums()[name].values if not fork_of_value(value)]
    assert {value.name: value.number for value in values} == TABLE["enums"][name]


FIELD = re.compile(
    r"(?P<label>optional|required|repeated)\s+(?P<type>[\w.]+)\s+(?P<name>\w+)\s*="
    r"\s*(?P<number>\d+)\s*(?:\[(?P<options>[^\]]*)\])?\s*;"
)


def text_messages() -> dict[str, dict[str, tuple[int, str, str, dict[str, str]]]]:
    """The messages as caffe.proto spells them: field → number, label, type, options."""
    text = re.sub(r"//[^\n]*", "", PROTO.read_text())
    starts = [*re.finditer(r"^message (\w+) \{", text, re.MULTILINE)]
    ends = [*(start.start() for start in starts[1:]), len(text)]
    messages = {}
    for start, end in zip(starts, ends, strict=True):
        fields = {}
        for field in FIELD.finditer(text, start.end(), end):
            pairs = (option.split("=") for option in (field["options"] or "").split(",") if option)
            options = {key.strip(): value.strip().strip('"') for key, value in pairs}
            fields[field["name"]] = (int(field["number"]), field["label"], field["type"], options)
        messages[start[1]] = fields
    return messages


def test_text_and_generated_classes_have_the_same_rows() -> None:
    """A caffe.proto edited without `make proto` is caught: every row is in the text as well."""
    messages = text_messages()
    assert set(messages) == set(TABLE["messages"])
    for message, rows in TABLE["messages"].items():
        assert set(messages[message]) == {row[3] for row in rows}
        for number, label, kind, name, *rest in rows:
            options = dict(rest[0]) if rest else {}
            got_number, got_label, got_type, got_options = messages[message][name]
            where = f"{message}.{name}"
            assert (got_number, got_label) == (number, label), where
            assert got_type in (kind, kind.removeprefix(f"{message}.")), where
            assert set(got_options) - {"deprecated"} == set(options), where
            assert (got_options.get("packed") == "true") == options.get("packed", False), where
            if "default" in options:
                assert spelled_as(got_options["default"], options["default"]), where


def spelled_as(text: str, value: object) -> bool:
    """Whether a default in the .proto text means the table's value."""
    if isinstance(value, bool):
        return text == str(value).lower()
    if isinstance(value, int | float):
        return as_float32(float(text)) == as_float32(value)
    return text == value


def test_text_has_the_enum_values_of_the_table() -> None:
    text = re.sub(r"//[^\n]*", "", PROTO.read_text())
    found: dict[str, list[dict[str, int]]] = {}
    for enum in re.finditer(r"enum (\w+) \{([^}]*)\}", text):
        values = {m[1]: int(m[2]) for m in re.finditer(r"(\w+)\s*=\s*(\d+)\s*;", enum[2])}
        found.setdefault(enum[1], []).append(values)
    assert sum(map(len, found.values())) == 26
    for name, values in TABLE["enums"].items():
        assert values in found[name.rpartition(".")[2]], name
