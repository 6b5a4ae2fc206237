"""Which fields of a prototxt each layer type honours, refuses, or accepts without effect.

The registry's classes say so themselves; here it becomes the table of `docs/layers.md`
(`python -m converters layers`). A test walks the same fields and has each of them shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from converters.layers import LAYERS
from converters.layers.registry import Layer
from converters.proto import caffe_pb2 as pb

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


def field_paths(layer: type[Layer]) -> Iterator[str]:
    """The fields of the messages that a type reads, as `convolution_param.kernel_size`."""
    empty = pb.LayerParameter()
    for name in layer.params:
        yield from (f"{name}.{field.name}" for field in getattr(empty, name).DESCRIPTOR.fields)


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
    return "\n".join(parts) + "\n"


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
