"""A net as a table: layers, blob shapes, parameters and multiply-adds, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from converters.layers.registry import Shape
from converters.net.plan import NetPlan


@dataclass(frozen=True)
class SummaryRow:
    """One layer: its blobs' shapes, its parameter count, its multiply-adds per batch."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    top_shapes: tuple[Shape, ...]
    blob_shapes: tuple[Shape, ...]
    learnable_parameters: int
    statistics: int
    multiply_adds: int


@dataclass(frozen=True)
class NetSummary:
    """All layers of a net in one phase; totals count a shared parameter once."""

    name: str
    phase: str
    rows: tuple[SummaryRow, ...]
    parameters: int
    multiply_adds: int

    def multiply_adds_per_item(self) -> int:
        """Multiply-adds for one item of the batch (the first axis of the first top)."""
        first = next((shape for row in self.rows for shape in row.top_shapes if shape), (1,))
        return self.multiply_adds // max(1, first[0])


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
            )
        )
    parameters = sum(math.prod(entry.spec.shape) for entry in plan.learnables if entry.spec.trained)
    total = sum(row.multiply_adds for row in rows)
    return NetSummary(plan.net.name, plan.phase, tuple(rows), parameters, total)
