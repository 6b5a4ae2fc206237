"""A net as an SVG picture: a box a layer, in-place layers stacked in it, blobs with their shapes.

Boxes are placed in rows by their distance from the inputs and ordered by the place of what they
read. `python -m converters draw NET OUT.svg` is its command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from converters.layers.registry import Shape
from converters.plan import LayerPlan, NetPlan

# Fill colours by the family that registers a type.
COLOURS = {
    "data": "#d9d9d9",
    "vision": "#9ecae1",
    "normalization": "#c7e9c0",
    "activation": "#fdd0a2",
    "common": "#dadaeb",
    "loss": "#fc9272",
    "recurrent": "#9edae5",
    "python_layer": "#f7b6d2",
}
LINE, PADDING, ROW_GAP, COLUMN_GAP, CHARACTER = 15, 5, 34, 26, 6.4


@dataclass
class Box:
    """A layer and the in-place layers that follow it, with its place in the picture."""

    layers: list[LayerPlan]
    reads: list[tuple[int, str]] = field(default_factory=list)
    row: int = 0
    x: float = 0.0
    y: float = 0.0

    def lines(self) -> list[str]:
        """The text of the box, a line a layer."""
        return [_label(plan) for plan in self.layers]

    @property
    def width(self) -> float:
        """The box's width in pixels."""
        return max(len(line) for line in self.lines()) * CHARACTER + 2 * PADDING

    @property
    def height(self) -> float:
        """The box's height in pixels."""
        return len(self.layers) * LINE + 2 * PADDING


def to_svg(plan: NetPlan) -> str:
    """The picture of a planned net as SVG text."""
    boxes = _boxes(plan)
    rows = _rows(boxes)
    width, height = _place(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="DejaVu Sans, Arial, sans-serif" '
        'font-size="11">',
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" '
        'markerHeight="6" orient="auto"><path d="M0 0L6 3L0 6z" fill="#666"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="18" font-size="14">{escape(plan.net.name)} ({plan.phase})</text>',
    ]
    parts += [_edge(boxes[source], box, text) for box in boxes for source, text in box.reads]
    parts += [_draw_box(box) for box in boxes]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _boxes(plan: NetPlan) -> list[Box]:
    """Group in-place layers with the layer whose top they change; note what each box reads."""
    boxes: list[Box] = []
    made_by: dict[int, int] = {}
    shapes: dict[int, Shape] = {}
    readers = [value for layer in plan.layers for value in layer.bottoms]
    for layer in plan.layers:
        shapes.update(zip(layer.tops, layer.top_shapes))
        param = layer.layer.param
        follows = (
            len(layer.bottoms) == 1
            and list(param.bottom) == list(param.top)
            and readers.count(layer.bottoms[0]) == 1
        )
        if follows:
            home = made_by[layer.bottoms[0]]
            boxes[home].layers.append(layer)
        else:
            home = len(boxes)
            reads = [
                (made_by[value], f"{name} {_shape(shapes[value])}")
                for value, name in zip(layer.bottoms, param.bottom)
            ]
            boxes.append(Box([layer], reads))
        made_by.update(dict.fromkeys(layer.tops, home))
    return boxes


def _rows(boxes: list[Box]) -> list[list[Box]]:
    rows: list[list[Box]] = []
    for box in boxes:
        box.row = max((boxes[source].row + 1 for source, _ in box.reads), default=0)
        rows += [[] for _ in range(box.row + 1 - len(rows))]
        rows[box.row].append(box)
    position: dict[int, float] = {}
    for row in rows:
        row.sort(key=lambda box: _mean([position[id(boxes[source])] for source, _ in box.reads]))
        for index, box in enumerate(row):
            position[id(box)] = (index + 0.5) / len(row)
    return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.5


def _place(rows: list[list[Box]]) -> tuple[float, float]:
    widths = [sum(box.width for box in row) + COLUMN_GAP * (len(row) - 1) for row in rows]
    total = max([*widths, 300.0]) + 40
    y = 34.0
    for row, width in zip(rows, widths):
        x = (total - width) / 2
        for box in row:
            box.x, box.y = x, y
            x += box.width + COLUMN_GAP
        y += max(box.height for box in row) + ROW_GAP
    return total, y


def _label(plan: LayerPlan) -> str:
    param = plan.layer.param
    detail = ""
    if param.HasField("convolution_param"):
        conv = param.convolution_param
        kernel = "×".join(map(str, conv.kernel_size)) or f"{conv.kernel_h}×{conv.kernel_w}"
        detail = f" {kernel}, {conv.num_output}" + (f", g={conv.group}" if conv.group > 1 else "")
    return f"{plan.name}: {plan.layer.type}{detail}"


def _shape(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _edge(source: Box, target: Box, text: str) -> str:
    x1, y1 = source.x + source.width / 2, source.y + source.height
    x2, y2 = target.x + target.width / 2, target.y
    bend = max(20.0, (y2 - y1) / 2)
    # An edge that passes other rows swings out to the side of them.
    aside = 0.0 if target.row == source.row + 1 else 0.35 * source.width + 40
    path = (
        f"M{x1:.0f} {y1:.0f}C{x1 + aside:.0f} {y1 + bend:.0f} "
        f"{x2 + aside:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
    )
    label = (
        f'<text x="{x2 + 4:.0f}" y="{y2 - 8:.0f}" font-size="9" fill="#444">{escape(text)}</text>'
        if not aside
        else ""
    )
    return f'<path d="{path}" fill="none" stroke="#888" marker-end="url(#tip)"/>{label}'


def _draw_box(box: Box) -> str:
    parts = []
    for index, (plan, line) in enumerate(zip(box.layers, box.lines())):
        top = box.y + (0 if index == 0 else PADDING + index * LINE)
        last = index == len(box.layers) - 1
        height = box.y + box.height - top if last else LINE + (PADDING if index == 0 else 0)
        family = type(plan.layer).__module__.rsplit(".", 1)[-1]
        parts.append(
            f'<rect x="{box.x:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{height:.1f}" '
            f'fill="{COLOURS.get(family, "#ffffff")}"/>'
            f'<text x="{box.x + PADDING:.1f}" y="{box.y + PADDING + (index + 0.75) * LINE:.1f}">'
            f"{escape(line)}</text>"
        )
    parts.append(
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" fill="none" stroke="#555" rx="3"/>'
    )
    return "".join(parts)
