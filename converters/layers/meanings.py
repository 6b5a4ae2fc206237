"""One name, several layers: what a type means in this net (BN, Normalize, Upsample …).

Forks gave the same type name to different layers. The prototxt decides: fields that only one of
them has, or the number of bottoms; the layer's own first, then those of the net's other layers of
the type. Where it says nothing the blobs in the caffemodel decide, and else the type means what
`docs/layers.md` lists without "of".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

from converters.layers.registry import MEANINGS, Layer, Shape
from converters.proto import caffe_pb2 as pb

log = logging.getLogger(__name__)

StoredShapes = Callable[[str], Sequence[Shape] | None]
"""The shapes of the blobs that a layer of this name has in the weight files, None for no layer."""


class Meanings:
    """What the types with several meanings mean in one net."""

    def __init__(self, net: pb.NetParameter, source: str, stored: StoredShapes) -> None:
        self._source = source
        self._stored = stored
        self._layers: dict[str, list[pb.LayerParameter]] = {}
        for layer in net.layer:
            if layer.type in MEANINGS:
                self._layers.setdefault(layer.type, []).append(layer)

    def of(self, param: pb.LayerParameter) -> type[Layer] | None:
        """The class of a layer whose type has several meanings, None where it has one."""
        meanings = MEANINGS.get(param.type)
        if meanings is None:
            return None
        for layer in (param, *self._layers.get(param.type, ())):
            for meaning in meanings:
                if reason := meaning.told_by(layer):
                    return self._told(param, meaning, reason)
        for layer in (param, *self._layers.get(param.type, ())):
            shapes = self._stored(layer.name)
            for meaning in meanings if shapes is not None else ():
                if meaning.fits_blobs(shapes or ()):
                    blobs = ", ".join(map(str, shapes or ())) or "none"
                    return self._told(param, meaning, f"by its blobs in the weights: {blobs}")
        return self._told(param, meanings[0], "nothing says another")

    def _told(self, param: pb.LayerParameter, meaning: type[Layer], reason: str) -> type[Layer]:
        _tell(self._source, param.type, meaning.origin, reason)
        return meaning


@cache
def _tell(source: str, kind: str, origin: str, reason: str) -> None:
    """One line for all layers of a net that are decided for one reason."""
    log.warning("%s: type %s is that of %s (%s)", source, kind, origin, reason)
