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
        if param.type not in MEANINGS:
            return None
        meaning, _ = self._decided(param)
        return meaning

    def tell(self, param: pb.LayerParameter) -> None:
        """Say what the layer's type means here, in one line for all layers of which that is so."""
        if param.type in MEANINGS:
            meaning, reason = self._decided(param)
            _tell(self._source, param.type, meaning.origin, reason)

    def _decided(self, param: pb.LayerParameter) -> tuple[type[Layer], str]:
        meanings = MEANINGS[param.type]
        alike = (param, *self._layers.get(param.type, ()))
        for layer in alike:
            for meaning in meanings:
                if reason := meaning.told_by(layer):
                    return meaning, reason
        for layer in alike:
            shapes = self._stored(layer.name)
            for meaning in () if shapes is None else meanings:
                if meaning.fits_blobs(shapes or ()):
                    blobs = ", ".join(map(str, shapes or ())) or "none"
                    return meaning, f"by its blobs in the weights: {blobs}"
        return meanings[0], "nothing says another"


@cache
def _tell(source: str, kind: str, origin: str, reason: str) -> None:
    log.warning("%s: type %s is that of %s (%s)", source, kind, origin, reason)
