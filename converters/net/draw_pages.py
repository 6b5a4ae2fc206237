"""A net's picture (`converters.net.draw`) on a page: PNG and PDF, which matplotlib draws."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

from converters.errors import import_extra
from converters.net.draw import (
    EDGE,
    FONT,
    INK,
    OUTLINE,
    PADDING,
    TITLE_FONT,
    Edge,
    Picture,
    Point,
)

_POINTS = 72
_SHARP = 2
"""Pixels of a PNG for one of the picture's, as long as that leaves at most `_MOST_PIXELS`."""
_MOST_PIXELS = 1 << 26
_TIP = 6
_LONGEST_SIDE = 14400
"""Points: a PDF has no longer page."""


def write_page(picture: Picture, path: Path, form: str) -> None:
    """Draw to a file; `form` is "png" or "pdf". Big nets are drawn smaller, down to what fits.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figures = import_extra("matplotlib.figure", "matplotlib", "plots", f"drawing a net as {form}")
    scale = min(1.0, _LONGEST_SIDE / max(picture.width, picture.height))
    size = (picture.width * scale / _POINTS, picture.height * scale / _POINTS)
    figure = figures.Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.set_axis_off()
    _draw(axes, picture, scale)
    sharp = min(_SHARP, (_MOST_PIXELS / (picture.width * picture.height)) ** 0.5 / scale)
    with warnings.catch_warnings(action="ignore"):  # of characters that the font lacks
        figure.savefig(path, format=form, dpi=_POINTS * sharp)


def _draw(axes: Any, picture: Picture, scale: float) -> None:
    """Edges, then boxes; lines and letters shrink with the rest."""
    patches = import_extra("matplotlib.patches", "matplotlib", "plots", "drawing a net")
    line = {"linewidth": scale, "fill": False}

    def write(x: float, baseline: float, text: str, size: float) -> None:
        axes.text(
            x,
            baseline,
            text,
            fontsize=size * scale,
            fontfamily="DejaVu Sans",
            color=INK,
            va="baseline",
            parse_math=False,
        )

    for edge in picture.edges:
        axes.add_artist(patches.PathPatch(_path(edge), edgecolor=EDGE, **line))
        x, y = edge[-1]
        tip = ((x, y), (x - _TIP / 2, y - _TIP), (x + _TIP / 2, y - _TIP))
        axes.add_artist(patches.Polygon(tip, facecolor=EDGE, linewidth=0))
    for box in picture.boxes:
        for index, (stripe, top, height) in enumerate(box.stripes()):
            place = ((box.x, top), box.width, height)
            axes.add_artist(patches.Rectangle(*place, facecolor=stripe.colour, linewidth=0))
            write(box.x + PADDING, box.baseline(index), stripe.text, FONT)
        place = ((box.x, box.y), box.width, box.height)
        axes.add_artist(patches.Rectangle(*place, edgecolor=OUTLINE, **line))
    write(10, 18, picture.title, TITLE_FONT)


def _path(edge: Edge) -> Any:
    path = import_extra("matplotlib.path", "matplotlib", "plots", "drawing a net").Path
    points, codes = [edge[0]], [path.MOVETO]
    for index, (start, end) in enumerate(pairwise(edge)):
        if index % 2:
            points.append(end)
            codes.append(path.LINETO)
        else:
            middle = (start.y + end.y) / 2
            points += [Point(start.x, middle), Point(end.x, middle), end]
            codes += [path.CURVE4] * 3
    return path(points, codes)
