"""Which net: everything that decides what is built from a prototxt, as one value.

The command line, the solver file and `load_net` each make one; `converters.net.plan` plans it and
`converters.net.caffe_net` builds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from converters.environment import Environment
from converters.errors import NetError
from converters.formats.caffemodel import stored_layers
from converters.layers.registry import Shape
from converters.proto import caffe_pb2 as pb
from converters.prototxt.net_rules import filter_net
from converters.prototxt.text import read_net

PHASES = ("TRAIN", "TEST")
Weights = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True, eq=False)
class NetChoice:
    """A net in one phase and state.

    `source` is the prototxt: it is read unless `message` holds the (upgraded) net, it names the net
    in errors, and relative paths are tried from its folder too. `weights` are loaded in turn by
    layer name; with `strict` a layer that none of them has is an error. `input_shapes` win over
    what the prototxt says, and stand in for absent data files. Without `may_write` the layers that
    write files (HDF5Output) write none.
    """

    source: str
    message: pb.NetParameter | None = None
    phase: str = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    strict: bool = False
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    allow_python_layers: bool = False
    may_write: bool = True

    def __post_init__(self) -> None:
        """Take a phase in small letters, as PyTorch's users write it.

        Raises:
            NetError: another phase.
        """
        phase = str(self.phase).upper()
        if phase not in PHASES:
            raise NetError(f"{self.source}: phase {self.phase!r} is neither 'TRAIN' nor 'TEST'")
        object.__setattr__(self, "phase", phase)

    def read(self) -> pb.NetParameter:
        """The net in today's form, all its layers.

        Raises:
            PrototxtError: the file cannot be read or parsed.
        """
        return read_net(self.source) if self.message is None else self.message

    def filtered(self) -> pb.NetParameter:
        """The net with the layers of this phase and state alone; raises as `filter_net`."""
        return filter_net(self.read(), self.phase, self.level, self.stages, self.source)

    @cached_property
    def _stored_shapes(self) -> dict[str, tuple[Shape, ...]]:
        return {
            layer.name: tuple(blob.shape for blob in layer.blobs)
            for path in self.weights
            for layer in stored_layers(path)
        }

    def stored_shapes(self, layer: str) -> tuple[Shape, ...] | None:
        """The shapes of the blobs that `weights` hold for a layer, None if they lack it.

        Raises:
            WeightsError: as `stored_layers`.
        """
        return self._stored_shapes.get(layer)

    @property
    def environment(self) -> Environment:
        """What the net's layers may know of it."""
        folder = str(Path(self.source).parent)
        allowed = self.allow_python_layers
        return Environment(self.source, self.phase, folder, allowed, self.may_write)


def weight_files(weights: Weights) -> tuple[str, ...]:
    """One file, several with commas between them, or a sequence of files, as a tuple."""
    if weights is None:
        return ()
    if isinstance(weights, str):
        return tuple(name.strip() for name in weights.split(",") if name.strip())
    return (str(weights),) if isinstance(weights, Path) else tuple(map(str, weights))
