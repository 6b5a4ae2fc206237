"""Error curves as SVG: the test error by epoch, a line a net, its name where the line ends.

A chart is computed once and drawn twice, for a wide page and for a phone, so that its text is never
scaled. `report.js` adds the values under a pointer; `report.css` has the lines' look.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from gmnet_pt.reproduce.exhibits import Curve, Mean, Shown, mean
from gmnet_pt.reproduce.experiments import BASELINE, BASELINE_GROUPED, BUA, BUB, Net

HUES: Mapping[str, tuple[str, str]] = {
    "blue": ("#0b62b8", "#5aa9f0"),
    "vermilion": ("#c44a00", "#f08a4b"),
    "green": ("#00805e", "#3fc49a"),
    "purple": ("#7d3fb0", "#c29af0"),
    "ochre": ("#8a6a00", "#dcb83f"),
    "pink": ("#c2337b", "#f58fbd"),
    "cyan": ("#0a7f9e", "#66d3ea"),
    "grey": ("#5d646d", "#aab2bc"),
}
"""Colours on a light page and on a dark one, told apart by the colour-blind by their lightness."""


class Stroke(NamedTuple):
    """How a net's line looks: a hue's name, and a dash pattern ("" for none)."""

    hue: str
    dash: str = ""


_DASHED, _DOTTED, _DASH_DOTTED = "7 4", "1.5 4", "8 3 1.5 3"
STROKES: Mapping[Net, Stroke] = {
    BUA: Stroke("blue"),
    BUB: Stroke("green"),
    BASELINE: Stroke("vermilion"),
    # Another reading has its net's hue, broken.
    BASELINE_GROUPED: Stroke("vermilion", _DASHED),
    Net("bua", "table"): Stroke("blue", _DASHED),
    Net("bub", "table"): Stroke("green", _DASHED),
    Net("bua", bu_s="units"): Stroke("blue", _DOTTED),
    Net("bua", "table", "units"): Stroke("blue", _DASH_DOTTED),
    Net("bua_no_groups"): Stroke("pink"),
    Net("bua_groups_block1"): Stroke("purple"),
    Net("bua_groups_block3"): Stroke("cyan"),
    Net("baseline_8_2"): Stroke("ochre"),
    Net("baseline_8_4_16_8"): Stroke("grey"),
    Net("baseline_4_4_4_4"): Stroke("ochre", _DASHED),
    Net("baseline_no_unit_merge"): Stroke("purple", _DASHED),
    Net("bua_concat"): Stroke("pink", _DASHED),
}
"""A net's line, the same in every chart."""


def stroke(net: Net) -> Stroke:
    """The look of a net's line; nets that are in no exhibit share one."""
    return STROKES.get(net, Stroke("grey", _DOTTED))


Points = tuple[tuple[float, float], ...]


class Line(NamedTuple):
    """A net: the points of each seed, and the mean wherever all seeds have a test."""

    label: str
    net: Net
    seeds: tuple[Points, ...]
    means: tuple[tuple[float, Mean], ...]

    @property
    def end(self) -> tuple[float, float]:
        """The last epoch and the mean error there."""
        epoch, error = self.means[-1]
        return epoch, error.value


class Chart(NamedTuple):
    """The curves of an exhibit on a data set, the highest end first.

    `last` is the last epoch; the axis goes from 0 to `ceiling` %, and `cut` says that some tests
    lie above. `marks` as in `exhibits.Cell`.
    """

    exhibit: str
    column: str
    lines: tuple[Line, ...]
    last: float
    ceiling: float
    cut: bool
    marks: tuple[str, ...]

    @property
    def title(self) -> str:
        """`Table 2: test error on C10`."""
        return f"{self.exhibit}: test error on {self.column}"


def charts(shown: Sequence[Shown]) -> list[Chart]:
    """One for each exhibit and data set with curves; one whose lines another has is left out."""
    found = [
        chart
        for exhibit in shown
        for place in range(len(exhibit.columns))
        if (chart := _chart(exhibit, place)) is not None
    ]
    kept: list[Chart] = []
    for chart in sorted(found, key=lambda chart: -len(chart.lines)):
        nets = {line.net for line in chart.lines}
        if not any(
            nets <= {line.net for line in other.lines} and chart.column == other.column
            for other in kept
        ):
            kept.append(chart)
    return [chart for chart in found if chart in kept]


def _chart(shown: Shown, place: int) -> Chart | None:
    column = shown.columns[place].label
    grouped: dict[tuple[str, Net], list[Curve]] = {}
    for curve in shown.curves:
        if curve.dataset == column and curve.points:
            grouped.setdefault((curve.label, curve.net), []).append(curve)
    lines = [
        Line(label, net, tuple(curve.points for curve in curves), means)
        for (label, net), curves in grouped.items()
        if (means := _means([curve.points for curve in curves]))
    ]
    if not lines:
        return None
    points = [point for line in lines for seed in line.seeds for point in seed]
    last = max(epoch for epoch, _ in points)
    # The first tests of a long training would press all that follows to the axis.
    telling = max(error for epoch, error in points if epoch >= last / 4)
    step = tick_step(telling, 6)
    ceiling = max(1, math.ceil(round(telling / step, 6))) * step
    return Chart(
        shown.exhibit.name,
        column,
        tuple(sorted(lines, key=lambda line: -line.end[1])),
        last,
        ceiling,
        any(error > ceiling for _, error in points),
        next((row.cells[place].marks for row in shown.rows if row.cells[place].marks), ()),
    )


def _means(seeds: Sequence[Points]) -> tuple[tuple[float, Mean], ...]:
    by_epoch: dict[float, list[float]] = {}
    for points in seeds:
        for epoch, error in dict(points).items():
            by_epoch.setdefault(epoch, []).append(error)
    return tuple(
        (epoch, mean(errors))
        for epoch, errors in sorted(by_epoch.items())
        if len(errors) == len(seeds)
    )


def hover(chart: Chart) -> dict[str, Any]:
    """What a pointer shows, as JSON values: the epochs, and each net's errors there as text."""
    epochs = sorted({epoch for line in chart.lines for epoch, _ in line.means})
    lines = []
    for line in chart.lines:
        errors = {epoch: str(error) for epoch, error in line.means}
        look = stroke(line.net)
        lines.append(
            {
                "label": line.label,
                "hue": look.hue,
                "dash": look.dash,
                "errors": [errors.get(epoch, "") for epoch in epochs],
            }
        )
    return {"last": chart.last, "epochs": epochs, "lines": lines}


@dataclass(frozen=True)
class Layout:
    """A size to draw in, in pixels: the whole, the plot's margins, and the text.

    A label has at most two lines of `wrap` characters. `values`: the last error is beside it.
    """

    name: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    font: int
    wrap: int
    ticks: int
    values: bool

    @property
    def span(self) -> int:
        """The plot's width."""
        return self.width - self.left - self.right

    @property
    def floor(self) -> int:
        """Where 0 % is."""
        return self.height - self.bottom


WIDE = Layout("wide", 580, 340, 38, 208, 22, 40, 12, 23, 6, True)
NARROW = Layout("narrow", 350, 320, 32, 102, 22, 40, 11, 14, 3, False)


def tick_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5, 10, 20 … that divides `span` into at most `most` steps."""
    if span <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(span / most))
    return next(
        (step for factor in (1, 2, 5) if span / (step := factor * size) <= most + 1e-9), 10 * size
    )


def spread(
    wanted: Sequence[float], heights: Sequence[float], low: float, high: float
) -> list[float]:
    """Centres nearest to the `wanted` ones, in their order, so that no two boxes overlap.

    All boxes lie between `low` and `high` if they fit there.
    """
    if not wanted:
        return []
    gaps = [(above + below) / 2 for above, below in pairwise(heights)]
    offsets = list(accumulate(gaps, initial=0.0))
    # Without the gaps it is the nearest rising sequence: neighbours out of order share their mean.
    pools: list[list[float]] = []
    for place, offset in zip(wanted, offsets):
        pools.append([place - offset])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [_mean(pool) for pool in pools for _ in pool]
    most = high - heights[-1] / 2 - offsets[-1]
    least = low + heights[0] / 2
    return [max(least, min(most, place)) + offset for place, offset in zip(level, offsets)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def to_svg(chart: Chart, layout: Layout, name: str) -> str:
    """The chart as SVG text; `name` begins its ids."""
    parts = [
        f'<svg class="chart {layout.name}" viewBox="0 0 {layout.width} {layout.height}" '
        f'role="img" aria-label="{escape(_spoken(chart))}" tabindex="0" '
        f'data-left="{layout.left}" data-span="{layout.span}" data-top="{layout.top}" '
        f'data-floor="{layout.floor}" font-size="{layout.font}">',
        f'<clipPath id="{name}-plot"><rect x="{layout.left}" y="{layout.top - 2}" '
        f'width="{layout.span + 4}" height="{layout.floor - layout.top + 4}"/></clipPath>',
        *_axes(chart, layout),
        f'<line class="cross" x1="0" x2="0" y1="{layout.top}" y2="{layout.floor}"/>',
        f'<g clip-path="url(#{name}-plot)">',
        *(_curves(chart, layout, line) for line in chart.lines),
        "</g>",
        *_labels(chart, layout),
        "</svg>",
    ]
    return "\n".join(parts)


def _spoken(chart: Chart) -> str:
    ends = ", ".join(f"{line.label} {line.means[-1][1]} %" for line in chart.lines)
    return f"{chart.title} in % by epoch. At the end: {ends}"


def _x(chart: Chart, layout: Layout, epoch: float) -> float:
    return layout.left + layout.span * epoch / chart.last


def _y(chart: Chart, layout: Layout, error: float) -> float:
    return layout.floor - (layout.floor - layout.top) * error / chart.ceiling


def _axes(chart: Chart, layout: Layout) -> Iterator[str]:
    right = layout.left + layout.span
    for error in _ticks(chart.ceiling, 6):
        y = _y(chart, layout, error)
        yield f'<line class="grid" x1="{layout.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield (
            f'<text class="tick" x="{layout.left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{error:g}</text>"
        )
    for epoch in _ticks(chart.last, layout.ticks, least=1):
        x = _x(chart, layout, epoch)
        yield (
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{layout.floor}" '
            f'y2="{layout.floor + 4}"/>'
            f'<text class="tick" x="{x:.1f}" y="{layout.floor + 17}" text-anchor="middle">'
            f"{epoch:g}</text>"
        )
    yield (
        f'<text class="tick" x="{layout.left - 6}" y="{layout.top - 9}" text-anchor="end">%</text>'
    )
    yield (
        f'<text class="tick" x="{layout.left + layout.span / 2:.1f}" y="{layout.height - 5}" '
        'text-anchor="middle">epoch</text>'
    )
    for share in (0.5, 0.75):
        x = _x(chart, layout, share * chart.last)
        yield (
            f'<line class="drop" x1="{x:.1f}" x2="{x:.1f}" y1="{layout.top}" y2="{layout.floor}"/>'
            f'<text class="drop" x="{x:.1f}" y="{layout.top - 6}" text-anchor="middle">÷10</text>'
        )


def _ticks(end: float, most: int, least: float = 0) -> list[float]:
    step = max(tick_step(end, most), least)
    return [round(count * step, 6) for count in range(math.floor(end / step + 1e-9) + 1)]


def _style(net: Net) -> str:
    look = stroke(net)
    return f'style="--line:var(--{look.hue})" stroke-dasharray="{look.dash or "none"}"'


def _curves(chart: Chart, layout: Layout, line: Line) -> str:
    def path(points: Sequence[tuple[float, float]]) -> str:
        places = (
            f"{_x(chart, layout, epoch):.1f} {_y(chart, layout, error):.1f}"
            for epoch, error in points
        )
        return "M" + "L".join(places)

    means = [(epoch, error.value) for epoch, error in line.means]
    thin = (
        [] if len(line.seeds) == 1 else [f'<path class="seed" d="{path(s)}"/>' for s in line.seeds]
    )
    many = f", mean of {len(line.seeds)} seeds" if thin else ""
    title = f"{line.label}{many}: {line.means[-1][1]} % at epoch {line.end[0]:g}"
    x, y = _x(chart, layout, line.end[0]), _y(chart, layout, line.end[1])
    return (
        f"<g {_style(line.net)}><title>{escape(title)}</title>{''.join(thin)}"
        f'<path class="mean" d="{path(means)}"/>'
        f'<circle class="end" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/></g>'
    )


def _labels(chart: Chart, layout: Layout) -> Iterator[str]:
    """The nets' names beside the lines' ends, pushed apart, each joined with its line."""
    texts = [
        textwrap.wrap(line.label, layout.wrap, max_lines=2, placeholder="…") or [""]
        for line in chart.lines
    ]
    leading = layout.font + 2
    ends = [_y(chart, layout, min(line.end[1], chart.ceiling)) for line in chart.lines]
    heights = [leading * len(text) + 3 for text in texts]
    places = spread(ends, heights, layout.top - 8, layout.floor + 8)
    for line, text, end, y in zip(chart.lines, texts, ends, places):
        x = _x(chart, layout, line.end[0])
        left = layout.left + layout.span + 16
        first = y - leading * (len(text) - 1) / 2 + layout.font * 0.36
        value = f' <tspan class="value">{line.end[1]:.2f}</tspan>' if layout.values else ""
        rows = "".join(
            f'<tspan x="{left}" y="{first + leading * number:.1f}">{escape(row)}'
            f"{value if number == len(text) - 1 else ''}</tspan>"
            for number, row in enumerate(text)
        )
        yield (
            f"<g {_style(line.net)}><title>{escape(line.label)}</title>"
            f'<path class="leader" d="M{x + 3:.1f} {end:.1f}L{left - 3} {y:.1f}"/>'
            f'<text class="label" x="{left}" y="{y:.1f}">{rows}</text></g>'
        )
