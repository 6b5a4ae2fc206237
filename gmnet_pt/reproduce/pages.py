"""The exhibits as text: for a terminal, and as Markdown for docs/reproduction.md.

The page's prose is its own; what stands between two marks is written from the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from converters.command_line.table import aligned
from converters.errors import DataError
from converters.formats.whole_files import written_beside
from gmnet_pt.reproduce.budgets import BUDGETS
from gmnet_pt.reproduce.exhibits import Cell, Shown, show, widened
from gmnet_pt.reproduce.experiments import EXHIBITS
from gmnet_pt.reproduce.results import Result
from gmnet_pt.reproduce.runs import Selection
from gmnet_pt.reproduce.timing import span

_BEGIN, _END = "<!-- from results/ -->", "<!-- end -->"
_NOTHING = "–"


def text_tables(shown: Iterable[Shown]) -> Iterator[str]:
    """The exhibits as aligned columns."""
    for one in shown:
        yield f"\n{one.exhibit.name}: {one.exhibit.title}. {_HEADING}."
        yield from aligned(rows_of(one), ruled=True)


_HEADING = "Test error in %, ours / reported"


def rows_of(shown: Shown) -> list[list[str]]:
    """A heading, then the rows: label, a cell a data set, and the rise where there is one set."""
    single = len(shown.columns) == 1
    head = ["", *(column.label for column in shown.columns)]
    rows = [head + (["points above, ours / reported"] if single else [])]
    for row in shown.rows:
        cells = [_cell(cell) for cell in row.cells]
        if single:
            cells.append(_rise(row.cells[0], row.beside))
        rows.append([row.row.label, *cells])
    return rows


def _cell(cell: Cell) -> str:
    reported = _NOTHING if cell.reported is None else f"{cell.reported:.2f}"
    if cell.last is None:
        return f"{_NOTHING} / {reported}"
    marks = f" [{', '.join(cell.marks)}]" if cell.marks else ""
    return f"{cell.last}{marks} / {reported}"


def _rise(cell: Cell, beside: str) -> str:
    if not beside:
        return ""
    ours, theirs = (
        _NOTHING if value is None else f"{value:+.2f}" for value in (cell.rise, cell.reported_rise)
    )
    return f"{ours} / {theirs} ({beside})"


def markdown(results: Sequence[Result]) -> str:
    """What the results amount to: a part for each budget that has any, its exhibits and runs."""
    parts = []
    for budget in BUDGETS.values():
        mine = [result for result in results if result.budget == budget.name and not result.dirty]
        if budget.kept and mine:
            selection = widened(Selection(budget, EXHIBITS), mine)
            parts.append(f"## Budget `{budget.name}`: {budget.about}")
            parts.append(_progress(selection, mine))
            parts += [_exhibit(show(selection, exhibit, mine, {})) for exhibit in EXHIBITS]
            parts.append(_runs(mine))
    return "\n\n".join(filter(None, parts)) or "Nothing has been run yet."


def _progress(selection: Selection, results: Sequence[Result]) -> str:
    runs = selection.runs()
    left = [run for run in runs if not any(result.belongs_to(run) for result in results)]
    hours = sum(result.seconds for result in results) / 3600
    return (
        f"{len(runs) - len(left)} of {len(runs)} runs are done, in {hours:.1f} hours; "
        f"{len(left)} are left."
    )


def _exhibit(shown: Shown) -> str:
    """A table, its rows without any result left out; nothing where there is none."""
    head, *rows = rows_of(shown)
    done = [
        cells
        for row, cells in zip(shown.rows, rows, strict=True)
        if any(cell.last is not None for cell in row.cells)
    ]
    if not done:
        return ""
    missing = [row.row.label for row, cells in zip(shown.rows, rows) if cells not in done]
    lines = [f"### {shown.exhibit.name}: {shown.exhibit.title}", "", f"{_HEADING}.", ""]
    lines += _table([head, *done])
    if missing:
        lines += ["", f"Not run yet: {'; '.join(missing)}."]
    return "\n".join([*lines, "", f"`{shown.command}`"])


def _runs(results: Sequence[Result]) -> str:
    head = ["run", "epochs", "last error", "best", "time", "on", "commit"]
    rows = [
        [
            result.id.split("_", 1)[1].rsplit("_", 1)[0],
            str(result.epochs),
            f"{result.last.error:.2f}",
            f"{result.best.error:.2f}",
            span(result.seconds),
            _hardware(result),
            ", ".join(commit[:7] for commit in result.commits),
        ]
        for result in sorted(results, key=lambda result: result.finished)
    ]
    return "\n".join(["### Runs", "", *_table([head, *rows])])


def _hardware(result: Result) -> str:
    found = result.hardware
    if found["device"] != "cpu":
        return str(found["device"])
    threads = found["threads"]
    return f"{found['processor']}, {threads} thread{'s' if threads != 1 else ''}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]
    return [lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]


def update_page(path: Path, results: Sequence[Result]) -> None:
    """Write the results into a page, between its two marks; the rest stays.

    Raises:
        DataError: the page cannot be read, or has not the marks.
        OutputError: it cannot be written.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise DataError(f"{path}: has not the marks {_BEGIN} and {_END}")
    new = f"{before}{_BEGIN}\n\n{markdown(results)}\n\n{_END}{after}"
    with written_beside(path) as partial:
        partial.write_text(new, encoding="utf-8")
