"""A row of the bench's table, and timing of two things in alternation.

A module of this package that measures has `rows() -> Iterable[Row]`; `bench.__main__` lists it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from converters.command_line.table import aligned


class Measure(NamedTuple):
    """Median of several runs, and half the distance between their quartiles, in the row's unit."""

    median: float
    spread: float


class Row(NamedTuple):
    """Ours beside a yardstick; less is better, and `ratio` must not exceed `bound`.

    A demand like "four times as fast" is a bound of 0.25; rates and sizes go into `note`.
    """

    name: str
    ours: Measure
    yardstick: Measure
    bound: float
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours divided by the yardstick, of the medians."""
        return self.ours.median / self.yardstick.median

    @property
    def ok(self) -> bool:
        """Whether the row keeps its bound."""
        return self.ratio <= self.bound

    @property
    def steady(self) -> bool:
        """Whether both spreads are below a tenth of their medians; else other work disturbed."""
        return all(side.spread < side.median / 10 for side in (self.ours, self.yardstick))


def summarize(values: Sequence[float]) -> Measure:
    """Median and half the interquartile range of at least one value."""
    if len(values) == 1:
        return Measure(values[0], 0.0)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Measure(statistics.median(values), (high - low) / 2)


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, the garbage collector kept out of it."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start
    finally:
        gc.enable()


def alternate(
    ours: Callable[[], object],
    yardstick: Callable[[], object],
    repeats: int = 11,
    warmup: int = 1,
) -> tuple[Measure, Measure]:
    """Time both `repeats` times, one after the other; who goes first changes every round.

    So a machine that slows down or speeds up during the run does it to both sides alike.
    """
    for _ in range(warmup):
        ours()
        yardstick()
    taken: tuple[list[float], list[float]] = ([], [])
    sides = ((ours, taken[0]), (yardstick, taken[1]))
    for round_ in range(repeats):
        for action, values in sides if round_ % 2 == 0 else reversed(sides):
            values.append(seconds(action))
    return summarize(taken[0]), summarize(taken[1])


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, columns aligned."""
    cells = [
        ("", "name", "ours", "yardstick", "unit", "ratio", "bound", "ok", "note", ""),
        *(
            (
                "",
                row.name,
                _measure(row.ours),
                _measure(row.yardstick),
                row.unit,
                f"{row.ratio:.3f}",
                f"{row.bound:g}",
                ("yes" if row.ok else "NO") + ("" if row.steady else "?"),
                row.note,
                "",
            )
            for row in rows
        ),
    ]
    return "".join(f"{line.strip()}\n" for line in aligned(cells, gap=" | ", ruled=True))


def _measure(value: Measure) -> str:
    return f"{value.median:.4g} ± {value.spread:.2g}"
