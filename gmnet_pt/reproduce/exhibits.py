"""The paper's figures beside ours: what `report`, `pages` and the terminal lay out.

Errors are in %, differences in points. A number of a shorter budget or of another data set than the
paper's carries that as a mark wherever it is shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from gmnet_pt.reproduce.experiments import (
    DATASETS,
    METHODS,
    STAND_INS,
    TABLE_2,
    Exhibit,
    Method,
    Net,
    Row,
)
from gmnet_pt.reproduce.results import Result
from gmnet_pt.reproduce.runs import Run, Selection


class Mean(NamedTuple):
    """The mean over seeds and, from two on, their standard deviation."""

    value: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")


def mean(values: Sequence[float]) -> Mean:
    """The mean and the sample's standard deviation of at least one value."""
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


class Cell(NamedTuple):
    """A row on one data set: what the paper reports, and what our runs gave.

    `last` and `best` are test errors, None where there is no result; then `state` says why.
    `reported_rise` and `rise` are the distances from the error of the row's `beside`. `marks` are
    what keeps `last` from being the paper's experiment: a budget, a data set.
    """

    reported: float | None
    last: Mean | None
    best: Mean | None
    reported_rise: float | None
    rise: float | None
    seeds: int
    marks: tuple[str, ...]
    state: str

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.reported is None or self.last is None:
            return None
        return self.last.value - self.reported


class Column(NamedTuple):
    """A data set: the paper's that it stands for (by their labels), and what is trained on."""

    label: str
    papers: tuple[str, ...]
    trained: str


class ShownRow(NamedTuple):
    """A row with a cell for each column; `beside` is the label of what it is compared with."""

    row: Row
    beside: str
    cells: tuple[Cell, ...]
    parameters: int | None


class Curve(NamedTuple):
    """Test errors of one run by epoch."""

    label: str
    net: Net
    dataset: str
    seed: int
    points: tuple[tuple[float, float], ...]


class Shown(NamedTuple):
    """An exhibit, filled in; `methods` are the other authors' rows of Table 2."""

    exhibit: Exhibit
    columns: tuple[Column, ...]
    rows: tuple[ShownRow, ...]
    curves: tuple[Curve, ...]
    methods: tuple[Method, ...]
    command: str


def widened(selection: Selection, results: Iterable[Result]) -> Selection:
    """The selection with all seeds that have results, and stand-ins for sets without any."""
    results = list(results)
    trained = {result.dataset for result in results}
    stand_ins = {
        name: other
        for name, other in STAND_INS.items()
        if other in trained and selection.trained(name) not in trained
    }
    seeds = dict.fromkeys((*selection.seeds, *sorted({result.seed for result in results})))
    return replace(
        selection, seeds=tuple(seeds), substitutes={**selection.substitutes, **stand_ins}
    )


def columns(selection: Selection, exhibit: Exhibit) -> tuple[Column, ...]:
    """One for each data set that is trained on; one set may stand for several of the paper's."""
    found: dict[str, list[str]] = {}
    for name in selection.wanted_sets(exhibit):
        found.setdefault(selection.trained(name), []).append(name)
    return tuple(
        Column(_column_label(trained, names), tuple(names), trained)
        for trained, names in found.items()
    )


def _column_label(trained: str, papers: Sequence[str]) -> str:
    labels = ", ".join(DATASETS[name] for name in papers)
    if list(papers) == [trained]:
        return labels
    return f"{trained} (for {labels if len(papers) < len(DATASETS) else 'all six'})"


def show(
    selection: Selection,
    exhibit: Exhibit,
    results: Iterable[Result],
    states: Mapping[Run, str],
) -> Shown:
    """Fill in an exhibit from `results`, the latest last; `states` say why a run has none."""
    shown_columns = columns(selection, exhibit)
    found = _by_run(selection, results)
    rows = tuple(
        _row(selection, exhibit, row, shown_columns, found, states) for row in exhibit.rows
    )
    curves = tuple(
        Curve(
            row.label,
            row.net,
            column.label,
            run.seed,
            tuple((test.epoch, test.error) for test in found[run].tests),
        )
        for column in shown_columns
        for row in exhibit.rows
        for run in selection.runs_of(row.net, column.papers[0])
        if run in found
    )
    methods = METHODS if exhibit is TABLE_2 else ()
    return Shown(exhibit, shown_columns, rows, curves, methods, _command(selection, exhibit))


def _by_run(selection: Selection, results: Iterable[Result]) -> dict[Run, Result]:
    runs = selection.runs()
    found: dict[Run, Result] = {}
    for result in results:
        found.update({run: result for run in runs if result.belongs_to(run)})
    return found


def _row(
    selection: Selection,
    exhibit: Exhibit,
    row: Row,
    shown_columns: Sequence[Column],
    found: Mapping[Run, Result],
    states: Mapping[Run, str],
) -> ShownRow:
    beside = next((other for other in exhibit.rows if other.net == row.beside), None)
    cells = []
    parameters = None
    for column in shown_columns:
        runs = selection.runs_of(row.net, column.papers[0])
        results = [found[run] for run in runs if run in found]
        others = [
            found[run]
            for run in (selection.runs_of(row.beside, column.papers[0]) if row.beside else ())
            if run in found
        ]
        parameters = next((result.parameters for result in results), parameters)
        cells.append(_cell(selection, row, beside, column, results, others, states, runs))
    return ShownRow(row, beside.label if beside else "", tuple(cells), parameters)


def _cell(
    selection: Selection,
    row: Row,
    beside: Row | None,
    column: Column,
    results: Sequence[Result],
    others: Sequence[Result],
    states: Mapping[Run, str],
    runs: Sequence[Run],
) -> Cell:
    single = column.papers[0] if len(column.papers) == 1 else ""
    reported = row.reported.get(single)
    reported_rise = row.rise if single else None
    if reported is not None and beside is not None and single in beside.reported:
        reported_rise = round(reported - beside.reported[single], 2)
    last = mean([result.last.error for result in results]) if results else None
    best = mean([result.best.error for result in results]) if results else None
    rise = None
    if last is not None and others:
        rise = last.value - mean([result.last.error for result in others]).value
    missing = [states.get(run, "not done") for run in runs]
    marks = () if last is None else tuple(_marks(selection, column))
    return Cell(
        reported,
        last,
        best,
        reported_rise,
        rise,
        len(results),
        marks,
        "" if last is not None else "; ".join(dict.fromkeys(missing)),
    )


def _marks(selection: Selection, column: Column) -> Iterable[str]:
    if selection.budget.name != "full":
        yield selection.budget.name
    if column.papers != (column.trained,):
        yield column.trained
    if selection.precision != "fp32":
        yield selection.precision


def _command(selection: Selection, exhibit: Exhibit) -> str:
    """What makes the exhibit's runs, in one line."""
    given = {
        name: trained
        for name, trained in selection.substitutes.items()
        if selection.budget.instead.get(name) != trained
    }
    words = [
        f"make reproduce {exhibit.kind.upper()}={exhibit.number} BUDGET={selection.budget.name}"
    ]
    options = [f"--substitute {name}={trained}" for name, trained in given.items()]
    if selection.datasets:
        options.append(f"--datasets {','.join(sorted(selection.datasets))}")
    if selection.seeds != (1,):
        options.append(f"--seeds {','.join(map(str, selection.seeds))}")
    if selection.precision != "fp32":
        options.append(f"--precision {selection.precision}")
    if options:
        words.append(f"ARGS='{' '.join(options)}'")
    return " ".join(words)
