"""A layer as a line of torch: the registry of those who write it, and what they are given.

Who writes a type's line is a function in a file of `converters.export.lines`, under the type's name
in `LAYERS`; each file there is found by its being there. What a line cannot say in torch's own
words is a function of `converters.export.arithmetic`, which the exported module then holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from converters.layers import LAYERS
from converters.layers.registry import Layer, Shape
from converters.net.plan import LayerPlan
from converters.registry import Registry


class NoLineError(Exception):
    """No line says what a layer computes; the message says why, to go on from its name."""


@dataclass
class Call:
    """One layer, and the Python expressions of its bottoms and blobs.

    `constants` collects tensors that the line names (`constant`), `notes` what a user should know.
    """

    position: LayerPlan
    bottoms: tuple[str, ...]
    blobs: tuple[str, ...]
    constants: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def x(self) -> str:
        """The first bottom."""
        return self.bottoms[0]

    @property
    def shape(self) -> Shape:
        """The first bottom's shape as planned."""
        return self.position.bottom_shapes[0]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All bottoms' shapes as planned."""
        return self.position.bottom_shapes

    def constant(self, name: str, value: Tensor) -> str:
        """The expression of a tensor that is kept with the layer's blobs, as `LAYER.name`."""
        self.constants[name] = value
        return BLOB.format(name=f"{self.blob_key}.{name}")

    blob_key: str = ""


BLOB = 'self["{name}"]'
"""How a line names a tensor of the file."""

Writer = Callable[[Any, Call], str]
LINES: Registry[Writer] = Registry("line", "converters.export.lines")
"""By layer type: the expression of the top, or of all tops with commas between them."""
line = LINES.add
_KEYS: dict[type[Layer], str] = {}


def key_of(layer: Layer) -> str:
    """The name of a layer's class in `LAYERS`: `BN of SegNet` where its type has more meanings."""
    if not _KEYS:
        _KEYS.update({kind: key for key, kind in LAYERS.items()})
    return _KEYS[type(layer)]


def write_line(call: Call) -> str:
    """The expression of a layer's tops.

    Raises:
        NoLineError: the type, or this use of it, has none.
    """
    layer = call.position.layer
    if (key := key_of(layer)) not in LINES:
        raise NoLineError("this type has no line in torch")
    return LINES[key](layer, call)


# How values are written --------------------------------------------------------------------------


def number(value: float) -> str:
    """A float of a message, in the fewest digits that are it in float32: 0.0001."""
    if isinstance(value, int):
        return str(value)
    if not np.isfinite(value):
        return f'float("{value}")'
    narrow = np.float32(value)
    text = str(narrow) if float(narrow) == value else repr(float(value))
    return repr(float(text))


def sizes(values: Iterable[int]) -> str:
    """One number where all are equal, else a tuple."""
    found = tuple(values)
    return str(found[0]) if len(set(found)) == 1 else str(found)


def settings(**given: tuple[Any, Any]) -> str:
    """`, stride=2, padding=(1, 0)` of values (each beside its default) that are not the default."""
    return "".join(
        f", {name}={sizes(value) if isinstance(value, tuple) else value}"
        for name, (value, default) in given.items()
        if value != default and not (isinstance(value, tuple) and set(value) <= {default})
    )


def spread(expression: str, blob: Shape, start: int, axes: int) -> str:
    """A tensor of shape `blob` with axes of 1 behind it, to lie on `axes` axes from `start` on."""
    behind = axes - start - len(blob)
    if not blob or not behind:
        return expression
    return f"{expression}[{', '.join([':'] * len(blob) + ['None'] * behind)}]"
