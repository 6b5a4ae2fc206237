"""What of the schema is forks': whose a field is, whether it is for text alone, what it changes.

`forks.proto` declares it, beside the fields, and says which number a field has. A layer claims the
forks' fields that it computes (`Layer.of_forks`); what nothing claims is `foreign`, and an error
when it is set to something.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, EnumValueDescriptor, FieldDescriptor
from google.protobuf.message import Message

from converters.proto import caffe_pb2 as pb

# Numbers above are no fork's: they stand for fields whose own number another field has.
TEXT_ALONE = 100_000_000


def fork_of(field: FieldDescriptor) -> str:
    """The fork that gave `field` to its message; "" if it is the message's own."""
    fork: str = field.GetOptions().Extensions[pb.fork]
    return fork


def fork_of_message(message: Descriptor) -> str:
    """The fork whose message this is; "" for Caffe's."""
    fork: str = message.GetOptions().Extensions[pb.message_of]
    return fork


def fork_of_value(value: EnumValueDescriptor) -> str:
    """The fork that gave `value` to an enum of Caffe; "" for Caffe's, and in a fork's own enum."""
    fork: str = value.GetOptions().Extensions[pb.value_of]
    return fork


def idle(field: FieldDescriptor) -> str:
    """Why a fork's field changes no result; "" if it may."""
    reason: str = field.GetOptions().Extensions[pb.idle]
    return reason


def in_text_alone(entry: FieldDescriptor | EnumValueDescriptor) -> bool:
    """Whether no fork's binary files hold the field or value: its number there is another's."""
    return bool(entry.number > TEXT_ALONE)


class Foreign(NamedTuple):
    """A fork's field, or an enum's value, that is set: `loss_param.normalization: PRE_FIXED`."""

    path: str
    fork: str


def foreign(
    message: Message, claimed: Collection[str] = (), prefix: str = "", deep: bool = True
) -> Iterator[Foreign]:
    """The forks' fields and enum values that are set in `message` and nobody computes.

    `claimed` are the paths of those that somebody does: `loss_param.pre_fixed_normalizer`, or
    `loss_param.normalization.PRE_FIXED` for a value. A field that says no more than its default
    asks for nothing, and one that is idle changes nothing. Unless `deep` the messages within are
    left out.
    """
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        fork = fork_of(field)
        if idle(field) or (path in claimed and field.message_type is None):
            continue
        if fork and path not in claimed:
            if field.is_repeated or value != _default(field, message):
                yield Foreign(path, fork)
        elif field.message_type is not None:
            for one in (value if field.is_repeated else [value]) if deep else ():
                yield from foreign(one, claimed, f"{path}.")
        elif field.enum_type is not None:
            for number in value if field.is_repeated else [value]:
                named = field.enum_type.values_by_number[number]
                if fork_of_value(named) and f"{path}.{named.name}" not in claimed:
                    yield Foreign(f"{path}: {named.name}", fork_of_value(named))


def _default(field: FieldDescriptor, message: Message) -> object:
    return getattr(type(message)(), field.name)


def every_message() -> Iterator[Descriptor]:
    """All messages of the schema, those within others too."""
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        yield message
        yield from message.nested_types
