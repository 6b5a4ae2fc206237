"""`python -m converters.proto.merge IN OUT`: caffe.proto and forks.proto as one file.

A step of `make proto`: IN is protoc's descriptor set of forks.proto and all that it imports, OUT
the set from which protoc writes the classes. A message of forks.proto is merged into Caffe's
message of the same name, an enum into its enum.
"""

from __future__ import annotations

import sys
from collections.abc import MutableSequence
from pathlib import Path
from typing import TypeVar

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)

Named = TypeVar("Named", DescriptorProto, EnumDescriptorProto)
Numbered = TypeVar("Numbered", FieldDescriptorProto, EnumValueDescriptorProto)


def merged(files: FileDescriptorSet) -> FileDescriptorSet:
    """The set with Caffe's file and the forks' as one, Caffe's by name and package.

    Raises:
        ValueError: two fields of a message, or two values of an enum, have one number or one name.
    """
    by_package = {file.package: file for file in files.file}
    caffe, forks = by_package.pop("caffe"), by_package.pop("caffe.forks")
    inner = f".{forks.package}."
    for message in forks.message_type:
        _rename(message, inner, f".{caffe.package}.")
    for extension in forks.extension:
        caffe.extension.add().CopyFrom(extension)
    caffe.dependency.extend(name for name in forks.dependency if name != caffe.name)
    _merge_all(caffe.message_type, forks.message_type)
    _merge_all(caffe.enum_type, forks.enum_type)
    return FileDescriptorSet(file=[*by_package.values(), caffe])


def _rename(message: DescriptorProto, before: str, after: str) -> None:
    for field in message.field:
        if field.type_name.startswith(before):
            field.type_name = after + field.type_name.removeprefix(before)
    for nested in message.nested_type:
        _rename(nested, before, after)


def _merge_all(into: MutableSequence[Named], added: MutableSequence[Named]) -> None:
    by_name = {entry.name: entry for entry in into}
    for entry in added:
        if entry.name not in by_name:
            into.append(entry)
        elif isinstance(entry, EnumDescriptorProto):
            _extend(entry.name, by_name[entry.name].value, entry.value)
        else:
            known = by_name[entry.name]
            _extend(entry.name, known.field, entry.field)
            _merge_all(known.nested_type, entry.nested_type)
            _merge_all(known.enum_type, entry.enum_type)


def _extend(name: str, into: MutableSequence[Numbered], added: MutableSequence[Numbered]) -> None:
    into.extend(added)
    for what in ("name", "number"):
        keys = [getattr(entry, what) for entry in into]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"{name}: the {what} {twice.pop()} is given twice")


def main() -> None:
    """Read IN, write OUT."""
    source, target = map(Path, sys.argv[1:])
    target.write_bytes(
        merged(FileDescriptorSet.FromString(source.read_bytes())).SerializeToString()
    )


if __name__ == "__main__":
    main()
