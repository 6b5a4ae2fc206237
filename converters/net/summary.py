"""A net as a table: layers, blob shapes, parameters, multiply-adds and memory, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from converters.layers.registry import Shape
from converters.net.plan import LayerPlan, NetPlan

_FLOAT = 4


@dataclass(frozen=True)
class SummaryRow:
    """One layer: its blobs' shapes, its parameter count, its multiply-adds per batch.

    `activation_bytes` is the memory of its tops, as floats: none for those that it computes in
    place, or that only show its bottom's values (Split, Reshape, Slice). `weight_bytes` is that of
    all its blobs, its own statistics among them; blobs that layers share are each one's.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    top_shapes: tuple[Shape, ...]
    blob_shapes: tuple[Shape, ...]
    learnable_parameters: int
    statistics: int
    multiply_adds: int
    activation_bytes: int
    weight_bytes: int

    @property
    def bytes(self) -> int:
        """Activations and weights."""
        return self.activation_bytes + self.weight_bytes


@dataclass(frozen=True)
class NetSummary:
    """All layers of a net in one phase; totals count a shared parameter once."""

    name: str
    phase: str
    rows: tuple[SummaryRow, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int
    weight_bytes: int
    batch: int

    def multiply_adds_per_item(self) -> int:
        """Multiply-adds for one item of the batch (the first axis of the first top)."""
        return self.multiply_adds // self.batch


def summarize(plan: NetPlan) -> NetSummary:
    """The summary of a planned net.

    `statistics` are blobs that a layer keeps itself (BatchNorm's three); they are no parameters.
    """
    rows = []
    for position in plan.layers:
        layer = position.layer
        trained = [blob for blob in position.blobs if blob.trained]
        kept = [blob for blob in position.blobs if not blob.trained]
        rows.append(
            SummaryRow(
                layer.name,
                layer.type,
                tuple(layer.param.bottom),
                position.top_names,
                position.top_shapes,
                tuple(blob.shape for blob in position.blobs),
                sum(math.prod(blob.shape) for blob in trained),
                sum(math.prod(blob.shape) for blob in kept),
                layer.multiply_adds(position.bottom_shapes, position.top_shapes),
                _activation_bytes(position),
                _FLOAT * sum(math.prod(blob.shape) for blob in position.blobs),
            )
        )
    parameters = sum(math.prod(entry.spec.shape) for entry in plan.learnables if entry.spec.trained)
    first = next((shape for row in rows for shape in row.top_shapes if shape), (1,))
    return NetSummary(
        plan.net.name,
        plan.phase,
        tuple(rows),
        parameters,
        sum(row.multiply_adds for row in rows),
        sum(row.activation_bytes for row in rows),
        _FLOAT * sum(math.prod(entry.spec.shape) for entry in plan.learnables),
        max(1, first[0]),
    )


def _activation_bytes(position: LayerPlan) -> int:
    layer = position.layer
    sizes = [math.prod(shape) for shape in position.top_shapes]
    if layer.moves_values and len(position.bottoms) == 1:
        whole = math.prod(position.bottom_shapes[0])
        if all(size <= whole for size in sizes):
            return 0  # views of the one bottom
    new = (name not in layer.param.bottom for name in position.top_names)
    return _FLOAT * sum(size for size, is_new in zip(sizes, new) if is_new)
