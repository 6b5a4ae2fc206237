"""A net as an SVG picture: a box a layer, in-place layers stacked in it, its tops at the bottom.

Boxes are placed in rows by their distance from the inputs and ordered by the place of what they
read; an edge that passes rows goes down between their boxes. Its command line is
`python -m converters draw NET OUT.svg`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from converters.layers.registry import Shape
from converters.net.plan import LayerPlan, NetPlan

LINE, PADDING, ROW_GAP, COLUMN_GAP, CHARACTER = 15, 5, 26, 26, 7.0


@dataclass
class Box:
    """A layer and the in-place layers that follow it, with its place in the picture."""

    layers: list[LayerPlan]
    reads: list[int] = field(default_factory=list)
    row: int = 0
    x: float = 0.0
    y: float = 0.0

    def lines(self) -> list[str]:
        """The text of the box: a line a layer, then a line a top."""
        last = self.layers[-1]
        tops = [f"{name} {_shape(shape)}" for name, shape in zip(last.top_names, last.top_shapes)]
        return [_label(plan) for plan in self.layers] + tops

    @property
    def centre(self) -> float:
        """The middle of the box, in pixels from the left."""
        return self.x + self.width / 2

    @property
    def width(self) -> float:
        """The box's width in pixels."""
        return max(len(line) for line in self.lines()) * CHARACTER + 2 * PADDING

    @property
    def height(self) -> float:
        """The box's height in pixels."""
        return len(self.lines()) * LINE + 2 * PADDING


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
    parts += [_edge(boxes[source], box, rows) for box in boxes for source in box.reads]
    parts += [_draw_box(box) for box in boxes]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _boxes(plan: NetPlan) -> list[Box]:
    """Group in-place layers with the layer whose top they change; note what each box reads."""
    boxes: list[Box] = []
    made_by: dict[int, int] = {}
    for layer in plan.layers:
        param = layer.layer.param
        # A plan has no blob that is overwritten in place and read by another layer.
        if len(layer.bottoms) == 1 and list(param.bottom) == list(param.top):
            home = made_by[layer.bottoms[0]]
            boxes[home].layers.append(layer)
        else:
            home = len(boxes)
            boxes.append(Box([layer], [made_by[value] for value in layer.bottoms]))
        made_by.update(dict.fromkeys(layer.tops, home))
    return boxes


def _rows(boxes: list[Box]) -> list[list[Box]]:
    rows: list[list[Box]] = []
    for box in boxes:
        box.row = max((boxes[source].row + 1 for source in box.reads), default=0)
        rows += [[] for _ in range(box.row + 1 - len(rows))]
        rows[box.row].append(box)
    position: dict[int, float] = {}
    for row in rows:
        row.sort(key=lambda box: _mean([position[id(boxes[source])] for source in box.reads]))
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


def _edge(source: Box, target: Box, rows: list[list[Box]]) -> str:
    """A curve from the source's bottom to the target's top, straight down past rows between."""
    passed = rows[source.row + 1 : target.row]
    x1, y1, x2, y2 = source.centre, source.y + source.height, target.centre, target.y
    path = f"M{x1:.0f} {y1:.0f}"
    if passed:
        x = _lane(x1, [box for row in passed for box in row])
        top = passed[0][0].y
        bottom = max(box.y + box.height for box in passed[-1])
        path += f"{_curve(x1, y1, x, top)}V{bottom:.0f}"
        x1, y1 = x, bottom
    path += _curve(x1, y1, x2, y2)
    return f'<path d="{path}" fill="none" stroke="#888" marker-end="url(#tip)"/>'


def _lane(x: float, boxes: list[Box]) -> float:
    """The place nearest to `x` where a vertical line meets none of the boxes."""
    margin = COLUMN_GAP / 3
    sides = [side for b in boxes for side in (b.x - margin, b.x + b.width + margin)]
    free = [
        side for side in (x, *sides) if not any(box.x < side < box.x + box.width for box in boxes)
    ]
    return min(free, key=lambda side: abs(side - x))


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (y1 + y2) / 2
    return f"C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2:.0f}"


def _draw_box(box: Box) -> str:
    parts = []
    lines = box.lines()
    for index, line in enumerate(lines):
        top = box.y + (0 if index == 0 else PADDING + index * LINE)
        last = index == len(lines) - 1
        height = box.y + box.height - top if last else LINE + (PADDING if index == 0 else 0)
        parts.append(
            f'<rect x="{box.x:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{height:.1f}" '
            f'fill="{_colour(box, index)}"/>'
            f'<text x="{box.x + PADDING:.1f}" y="{box.y + PADDING + (index + 0.75) * LINE:.1f}">'
            f"{escape(line)}</text>"
        )
    parts.append(
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" fill="none" stroke="#555" rx="3"/>'
    )
    return "".join(parts)


def _colour(box: Box, line: int) -> str:
    """A layer's line has the colour of its family, a top's is white."""
    if line >= len(box.layers):
        return "#ffffff"
    return box.layers[line].layer.colour
