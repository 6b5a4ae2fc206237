"""Which fields of a prototxt each layer type honours, refuses, or accepts without effect.

The registry's classes say so themselves; here it becomes the table of `docs/layers.md`
(`python -m converters layers`). A test walks the same fields and has each of them shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from converters.layers import LAYERS
from converters.layers.registry import Layer
from converters.proto import caffe_pb2 as pb
from converters.proto.forks import every_message, fork_of, fork_of_value, idle, in_text_alone

HEADING = """# Layer types

Made from the registry by `python -m converters layers`; a test compares this file with it and shows
every field: that it is honoured, refused, or has no effect.

**For every type.** The net reads `name`, `type`, `bottom`, `top`, `loss_weight`, `param` (`name`,
`share_mode`, `lr_mult`, `decay_mult`), `blobs`, `include` and `exclude` (`phase`, `min_level`,
`max_level`, `stage`, `not_stage`), `phase` and `propagate_down`. A filler is `type`, `value`,
`min`, `max`, `mean`, `std`, `sparse` and `variance_norm`. Settings of another type
(`pooling_param` in a ReLU) have no effect, as in Caffe. What Caffe itself stops at, a shape that
does not fit or a value out of range, is an error that names file, layer and value.

**Whole nets.** Where a layer works in place, Caffe overwrites what an earlier layer's backward pass
reads, and some gradients are silently wrong there (ReLU, then Power on the same blob); here nothing
is overwritten and the gradient is the true one. A layer that reads its bottom while it writes its
top (InnerProduct, Convolution, LRN …) cannot work in place here; Caffe computes garbage. The tops
of Split, Flatten and Reshape share their bottom's memory in Caffe, so that a later layer in place
changes the others too; here it does not. A caffemodel that is empty, or lacks layers, loads
silently in Caffe; here the first is an error, and the second is named, or refused with `strict`.
"""


FORKS_HEADING = """
## Fields of forks

`converters/proto/forks.proto` has what forks add to Caffe's messages, and messages of their own,
each field with the number of its main fork: a binary file of that fork is read and written as it
would. Settings that a type honours are in its row above. Of the others those below change no
result, and one that would is an error when it is set to other than its default.
"""

TEXT_HEADING = """
**For text alone.** The number that the fork gives these is Caffe's or another fork's for something
else. They are read from prototxts; in binary files they have numbers above 100,000,000 that no fork
reads, and a fork's own binary file does not give them.
"""


def field_paths(layer: type[Layer]) -> Iterator[str]:
    """The fields of the messages that a type reads, as `convolution_param.kernel_size`.

    Of those that forks gave to a message, the ones that the type claims (`Layer.of_forks`).
    """
    empty = pb.LayerParameter()
    for name in layer.params:
        for field in getattr(empty, name).DESCRIPTOR.fields:
            path = f"{name}.{field.name}"
            if not fork_of(field) or path in layer.of_forks:
                yield path


def honoured(layer: type[Layer]) -> list[str]:
    """The fields that decide what a type computes."""
    return [path for path in field_paths(layer) if path not in {*layer.ignored, *layer.refused}]


def to_markdown() -> str:
    """The text of `docs/layers.md`."""
    header = (
        "| type | bottoms → tops | honoured | without effect | refused | differs from Caffe |\n"
        "|---|---|---|---|---|---|"
    )
    parts = [HEADING]
    for origin in dict.fromkeys(layer.origin for layer in LAYERS.values()):
        layers = [layer for _, layer in sorted(LAYERS.items()) if layer.origin == origin]
        parts += [f"{len(layers)} types of {origin}:\n", header, *map(_row, layers)]
    return "\n".join([*parts, FORKS_HEADING, *_idle_rows(), TEXT_HEADING, *_text_rows()]) + "\n"


def _idle_rows() -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for message in every_message():
        for field in message.fields:
            if reason := idle(field):
                by_reason.setdefault(reason, []).append(f"{message.name}: `{field.name}`")
    yield "| without effect | why |\n|---|---|"
    for reason, names in by_reason.items():
        yield f"| {', '.join(names)} | {reason} |"


def _text_rows() -> Iterator[str]:
    yield "| message | fields and values, by fork |\n|---|---|"
    for message in every_message():
        by_fork: dict[str, list[str]] = {}
        for field in filter(in_text_alone, message.fields):
            by_fork.setdefault(fork_of(field), []).append(f"`{field.name}`")
        for enum in message.enum_types:
            for value in filter(in_text_alone, enum.values):
                by_fork.setdefault(fork_of_value(value), []).append(f"`{enum.name}.{value.name}`")
        if by_fork:
            told = (f"{fork}: {', '.join(names)}" for fork, names in by_fork.items())
            yield f"| {message.name} | {'; '.join(told)} |"


def _row(layer: type[Layer]) -> str:
    cells = (
        layer.type,
        f"{layer.bottoms} → {layer.tops}",
        _grouped(honoured(layer)),
        _reasons(layer.ignored),
        _reasons(layer.refused),
        layer.differences,
    )
    return f"| {' | '.join(cell.replace('|', '¦') for cell in cells)} |"


def _grouped(paths: Iterable[str]) -> str:
    """`convolution_param`: num_output, pad; …"""
    groups: dict[str, list[str]] = {}
    for path in paths:
        message, _, name = path.partition(".")
        groups.setdefault(message, []).append(f"`{name}`")
    return "; ".join(f"{message}: {', '.join(names)}" for message, names in groups.items())


def _reasons(entries: Mapping[str, str]) -> str:
    """Fields that share a reason together: `a`, `b`: why; …"""
    by_reason: dict[str, list[str]] = {}
    for field, reason in entries.items():
        by_reason.setdefault(reason, []).append(field)
    return "; ".join(f"{', '.join(fields)}: {reason}" for reason, fields in by_reason.items())
