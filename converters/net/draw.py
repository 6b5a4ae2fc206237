"""A net as a picture: a box a layer, in-place layers stacked in it, its tops at the bottom.

Boxes are placed in rows by their distance from the inputs and ordered by the place of what they
read; an edge that passes rows goes down between their boxes. `to_svg` and `to_dot` (which leaves
the places to Graphviz) are text, `converters.net.draw_pages` draws PNG and PDF. The command line is
`python -m converters draw NET OUT.svg`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import NamedTuple

from converters.layers.registry import Shape
from converters.net.plan import LayerPlan, NetPlan
from converters.reporting import escaped

LINE, PADDING, ROW_GAP, COLUMN_GAP = 15, 5, 26, 26
FONT, TITLE_FONT = 11, 14
"""Pixels, of DejaVu Sans."""
WHITE, INK, OUTLINE, EDGE = "#ffffff", "#000000", "#555555", "#888888"
_ADVANCES = bytes.fromhex(
    "20282e54405f4e1b272732542024202240404040404040404040222254545435644445464d3f3a4d4b1d1d423856"
    "4b4f3c4f453f3d494463453d452722275432323d3f373f3e233f3f1c1c3a1c613f3d3f3f2934273f3b523b3b3440"
    "224054"
)
"""Of DejaVu Sans, in hundredths of its size: the characters from the blank to the tilde."""
_WIDE = 84
_IDEOGRAPHS = 0x1100


def text_width(text: str, size: float = FONT) -> float:
    """The width of a line in pixels; in other fonts, Arial say, it is less."""
    places = (ord(letter) - ord(" ") for letter in text)
    return (
        size
        / 100
        * sum(
            _ADVANCES[at] if at < len(_ADVANCES) else 100 if at >= _IDEOGRAPHS else _WIDE
            for at in places
        )
    )


class Line(NamedTuple):
    """A line of a box: its text and the colour behind it."""

    text: str
    colour: str


@dataclass
class Box:
    """A layer and the in-place layers that follow it, with its place in the picture."""

    layers: list[LayerPlan]
    reads: list[int] = field(default_factory=list)
    row: int = 0
    x: float = 0.0
    y: float = 0.0

    def lines(self) -> list[Line]:
        """A line a layer in the colour of its family, then a white one for each top."""
        last = self.layers[-1]
        tops = [f"{name} {_shape(shape)}" for name, shape in zip(last.top_names, last.top_shapes)]
        return [
            *(Line(_label(plan), plan.layer.colour) for plan in self.layers),
            *(Line(escaped(top), WHITE) for top in tops),
        ]

    @property
    def centre(self) -> float:
        """The middle of the box, in pixels from the left."""
        return self.x + self.width / 2

    @property
    def width(self) -> float:
        """The box's width in pixels."""
        # Renderers that round each letter to whole pixels need some more.
        return 1.06 * max(text_width(line.text) for line in self.lines()) + 2 * PADDING

    @property
    def height(self) -> float:
        """The box's height in pixels."""
        return len(self.lines()) * LINE + 2 * PADDING

    def stripes(self) -> list[tuple[Line, float, float]]:
        """Each line with the top and the height of its stripe of the box."""
        lines = self.lines()
        found = []
        for index, line in enumerate(lines):
            top = self.y + (0 if index == 0 else PADDING + index * LINE)
            last = index == len(lines) - 1
            height = LINE + (PADDING if index == 0 else 0)
            found.append((line, top, self.y + self.height - top if last else height))
        return found

    def baseline(self, index: int) -> float:
        """Where the text of a line stands."""
        return self.y + PADDING + (index + 0.75) * LINE


class Point(NamedTuple):
    """Pixels from the left and from the top."""

    x: float
    y: float


Edge = tuple[Point, ...]
"""From a bottom to a top: a curve to the second point, straight down to the third, a curve …"""


class Picture(NamedTuple):
    """A net's boxes in their places, and what joins them."""

    title: str
    width: float
    height: float
    boxes: list[Box]
    edges: list[Edge]


def draw_net(plan: NetPlan) -> Picture:
    """The picture of a planned net."""
    boxes = _boxes(plan)
    rows = _rows(boxes)
    title = _title(plan)
    width, height = _place(rows, text_width(title, TITLE_FONT))
    edges = [_edge(boxes[source], box, rows) for box in boxes for source in box.reads]
    return Picture(title, width, height, boxes, edges)


def to_svg(plan: NetPlan) -> str:
    """The picture of a planned net as SVG text."""
    picture = draw_net(plan)
    width, height = f"{picture.width:.0f}", f"{picture.height:.0f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="DejaVu Sans, Arial, sans-serif" '
        f'font-size="{FONT}">',
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" '
        f'markerHeight="6" orient="auto"><path d="M0 0L6 3L0 6z" fill="{EDGE}"/></marker></defs>',
        f'<rect width="100%" height="100%" fill="{WHITE}"/>',
        f'<text x="10" y="18" font-size="{TITLE_FONT}">{escape(picture.title)}</text>',
    ]
    parts += [_svg_edge(edge) for edge in picture.edges]
    parts += [_svg_box(box) for box in picture.boxes]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _svg_edge(edge: Edge) -> str:
    path = f"M{edge[0].x:.0f} {edge[0].y:.0f}"
    for index, (start, end) in enumerate(pairwise(edge)):
        middle = (start.y + end.y) / 2
        path += (
            f"V{end.y:.0f}"
            if index % 2
            else f"C{start.x:.0f} {middle:.0f} {end.x:.0f} {middle:.0f} {end.x:.0f} {end.y:.0f}"
        )
    return f'<path d="{path}" fill="none" stroke="{EDGE}" marker-end="url(#tip)"/>'


def _svg_box(box: Box) -> str:
    parts = [
        f'<rect x="{box.x:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{height:.1f}" '
        f'fill="{line.colour}"/>'
        f'<text x="{box.x + PADDING:.1f}" y="{box.baseline(index):.1f}">{escape(line.text)}</text>'
        for index, (line, top, height) in enumerate(box.stripes())
    ]
    parts.append(
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" fill="none" stroke="{OUTLINE}" rx="3"/>'
    )
    return "".join(parts)


def to_dot(plan: NetPlan) -> str:
    """The net as a graph in Graphviz's language: `dot -Tsvg net.dot`."""
    boxes = _boxes(plan)
    # The encoding by its name, the fonts of the SVG; dot draws each box as a table of its lines.
    parts = [
        "digraph net {",
        f'  graph [label=<{_dot_text(_title(plan))}>, labelloc=t, charset="UTF-8"];',
        f'  node [shape=plain, fontname="DejaVu Sans,Arial", fontsize={FONT}];',
        f'  edge [color="{EDGE}", arrowsize=0.6];',
    ]
    for index, box in enumerate(boxes):
        cells = "".join(
            f'<tr><td align="left" bgcolor="{line.colour}">{_dot_text(line.text)}</td></tr>'
            for line in box.lines()
        )
        table = f'<table border="1" cellborder="0" cellspacing="0" color="{OUTLINE}">{cells}'
        parts.append(f"  layer{index} [label=<{table}</table>>];")
    for index, box in enumerate(boxes):
        parts += [f"  layer{source} -> layer{index};" for source in box.reads]
    return "\n".join([*parts, "}"]) + "\n"


def _dot_text(text: str) -> str:
    return escape(text, quote=False) or " "


def _title(plan: NetPlan) -> str:
    return escaped(f"{plan.net.name or 'net'} ({plan.phase})")


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


def _place(rows: list[list[Box]], title: float) -> tuple[float, float]:
    """Give every box its place; the picture's width, at least that of the title, and height."""
    widths = [sum(box.width for box in row) + COLUMN_GAP * (len(row) - 1) for row in rows]
    total = max([*widths, title, 300.0]) + 40
    y = 34.0
    for row, width in zip(rows, widths):
        x = (total - width) / 2
        for box in row:
            box.x, box.y = x, y
            x += box.width + COLUMN_GAP
        y += max(box.height for box in row) + ROW_GAP
    return total, y


def _label(plan: LayerPlan) -> str:
    return escaped(f"{plan.name}: {plan.layer.type} {plan.layer.detail()}".rstrip())


def _shape(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _edge(source: Box, target: Box, rows: list[list[Box]]) -> Edge:
    """From the source's bottom to the target's top, straight down past rows between."""
    passed = rows[source.row + 1 : target.row]
    start = Point(source.centre, source.y + source.height)
    end = Point(target.centre, target.y)
    if not passed:
        return (start, end)
    x = _lane(start.x, [box for row in passed for box in row])
    top = passed[0][0].y
    bottom = max(box.y + box.height for box in passed[-1])
    return (start, Point(x, top), Point(x, bottom), end)


def _lane(x: float, boxes: list[Box]) -> float:
    """The place nearest to `x` where a vertical line meets none of the boxes."""
    margin = COLUMN_GAP / 3
    sides = [side for b in boxes for side in (b.x - margin, b.x + b.width + margin)]
    free = [
        side
        for side in (x, *sides)
        if not any(b.x - margin < side < b.x + b.width + margin for b in boxes)
    ]
    return min(free, key=lambda side: abs(side - x))
