"""A row of the bench's table, and timing of two things in alternation."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from converters.command_line.table import aligned

Action = Callable[[], object]


@dataclass(frozen=True)
class Measure:
    """What was measured, once or several times, in the row's unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all values."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles."""
        if len(self.values) == 1:
            return 0.0
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return (high - low) / 2

    def __mul__(self, factor: float) -> Measure:
        return Measure(tuple(value * factor for value in self.values))


@dataclass(frozen=True)
class Row:
    """Ours beside a yardstick; less is better, and `ratio` must not exceed `bound`.

    A demand like "four times as fast" is a bound of 0.25; without a bound the row only informs.
    `tried` has what each way of running the yardstick took when the best was chosen, in `unit`.
    """

    name: str
    ours: Measure
    yardstick: Measure
    bound: float | None
    unit: str = "s"
    note: str = ""
    tried: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Ours divided by the yardstick, of the medians."""
        return self.ours.median / self.yardstick.median

    @property
    def ok(self) -> bool:
        """Whether the row keeps its bound."""
        return self.bound is None or self.ratio <= self.bound

    @property
    def steady(self) -> bool:
        """Whether both spreads are below a tenth of their medians; else other work disturbed."""
        return all(side.spread < side.median / 10 for side in (self.ours, self.yardstick))

    def in_milliseconds(self) -> Row:
        """The same row, its seconds in ms."""
        tried = {name: value * 1000 for name, value in self.tried.items()}
        return replace(
            self, ours=self.ours * 1000, yardstick=self.yardstick * 1000, unit="ms", tried=tried
        )


def seconds(action: Action, calls: int = 1) -> float:
    """Wall-clock seconds of one of `calls` calls, the garbage collector kept out of it."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            action()
        return (time.perf_counter() - start) / calls
    finally:
        gc.enable()


SETTLED = 0.02
"""Seconds before a sample, so that a reader that reads ahead is done: its work counts where it
belongs, in the samples of its own side, but for the first batch of each."""


def alternate(
    ours: Action, yardstick: Action, repeats: int = 11, warmup: int = 1
) -> tuple[Measure, Measure]:
    """Time both `repeats` times, one after the other; who goes first changes every round.

    So a machine that slows down or speeds up during the run does it to both sides alike.
    """
    for _ in range(warmup):
        ours()
        yardstick()
    return rounds((lambda: seconds(ours), lambda: seconds(yardstick)), repeats)


def alternate_for(
    budget: float, ours: Action, yardstick: Action, sample: float = 0.25, most: int = 21
) -> tuple[Measure, Measure]:
    """As `alternate`, in about `budget` seconds: samples of so many calls that each takes `sample`.

    At least 5 rounds and at most `most`; both sides have run once before.
    """
    calls, sizes = [], []
    for side in (ours, yardstick):
        taken = seconds(side, max(1, math.ceil(sample / 4 / seconds(side))))
        calls.append(max(1, math.ceil(sample / taken)))
        sizes.append(taken * calls[-1])
    repeats = max(5, min(most, int(budget / sum(sizes))))
    settled = (
        lambda: _settled(ours, calls[0]),
        lambda: _settled(yardstick, calls[1]),
    )
    return rounds(settled, repeats)


def _settled(action: Action, calls: int) -> float:
    time.sleep(SETTLED)
    return seconds(action, calls)


def rounds(
    sides: tuple[Callable[[], float], Callable[[], float]], repeats: int
) -> tuple[Measure, Measure]:
    """Samples of both sides in alternation; who goes first changes every round."""
    taken: tuple[list[float], list[float]] = ([], [])
    order = list(zip(sides, taken, strict=True))
    for round_ in range(repeats):
        for side, values in order if round_ % 2 == 0 else reversed(order):
            values.append(side())
    return Measure(tuple(taken[0])), Measure(tuple(taken[1]))


def fastest(ways: Mapping[str, Action], budget: float = 1.0) -> tuple[str, dict[str, float]]:
    """The name of the fastest way, and what each took in seconds: the best of some calls.

    Each has one call to warm up, then at least 2 calls, and more while its share of `budget` lasts.
    """
    taken: dict[str, float] = {}
    for name, way in ways.items():
        way()
        calls = max(2, min(20, int(budget / max(seconds(way), 1e-6))))
        taken[name] = min(seconds(way) for _ in range(calls))
    return min(taken, key=taken.__getitem__), taken


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
                "" if row.bound is None else f"{row.bound:g}",
                verdict(row),
                row.note,
                "",
            )
            for row in rows
        ),
    ]
    return "".join(f"{line.strip()}\n" for line in aligned(cells, gap=" | ", ruled=True))


def verdict(row: Row) -> str:
    """Whether the bound holds, "–" without one; "?" where other work disturbed the row."""
    kept = "–" if row.bound is None else "yes" if row.ok else "NO"
    return kept + ("" if row.steady else "?")


def _measure(value: Measure) -> str:
    return f"{value.median:.4g} ± {value.spread:.2g}"
