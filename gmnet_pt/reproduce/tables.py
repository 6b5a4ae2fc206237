"""The report's tables as values: what stands in each cell, and which marks it carries.

`report.html.j2` lays any of them out; numbers become text here. Errors in %, differences in points.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from gmnet_pt.reproduce.exhibits import Cell, Column, Shown, ShownRow
from gmnet_pt.reproduce.experiments import Method
from gmnet_pt.reproduce.results import MapNumbers, Result
from gmnet_pt.reproduce.runs import Run
from gmnet_pt.reproduce.timing import span
from gmnet_pt.reproduce.work import Status
from prototxt_gen.audit import Cost, Counted, count_readings
from prototxt_gen.variants import Variant, find_variant

NONE = "–"


class Entry(NamedTuple):
    """A cell: its text, small lines below it, marks, the whole of what was shortened, commands.

    `kind` is its look: number, text, missing or rowhead.
    """

    text: str
    notes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    title: str = ""
    code: tuple[str, ...] = ()
    kind: str = "number"


class Heading(NamedTuple):
    """A cell of the head, and how many columns and rows it covers."""

    text: str
    columns: int = 1
    rows: int = 1
    kind: str = "number"


class Lines(NamedTuple):
    """Rows that belong together; each begins with its head. `apart`: they are not ours."""

    heading: str
    rows: tuple[tuple[Entry, ...], ...]
    apart: bool = False


class Table(NamedTuple):
    """A table, and what has to be said below it."""

    caption: str
    head: tuple[tuple[Heading, ...], ...]
    groups: tuple[Lines, ...]
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of columns."""
        return sum(heading.columns for heading in self.head[0])


def points(value: float) -> str:
    """A difference in points with its sign: `+0.75`, `−0.40`, `0.00`."""
    text = f"{value:+.2f}"
    return text[1:] if text[1:] == "0.00" else text.replace("-", "−")


def millions(number: int) -> str:
    """`415.0M`."""
    return f"{number / 1e6:.1f}M"


def _head(text: str, *notes: str, tags: Sequence[str] = (), title: str = "") -> Entry:
    return Entry(text, tuple(filter(None, notes)), tuple(tags), title, kind="rowhead")


def _text(text: str, *notes: str, tags: Sequence[str] = (), title: str = "") -> Entry:
    return Entry(text, tuple(filter(None, notes)), tuple(tags), title, kind="text")


# --- Table 1 ---

# BU_B joins the same convolutions otherwise: it costs the same.
_TABLE_1 = {"bua": "GM-Net (BU_A or BU_B)", "baseline": "Baseline"}


def _reading(counted: Counted, two_paths: bool) -> str:
    grouped = {"text": "1×1 not grouped", "table": "1×1 grouped"}[counted.reading]
    form = {"table": "BU_s with one 1×1", "units": "BU_s of three units"}[counted.bu_s]
    return f"{grouped}, {form}" if two_paths else grouped


@cache
def table_1() -> Table:
    """Parameters and depth of each reading beside the paper's."""
    groups = []
    for name, label in _TABLE_1.items():
        variant = find_variant(name)
        paper = variant.paper
        rows = []
        for counted in count_readings(variant):
            cost = counted.cost.total
            fits = paper is not None and paper.parameters == millions(cost.parameters)
            deep = paper is not None and paper.depth == cost.depth
            rows.append(
                (
                    _head(_reading(counted, variant.two_paths)),
                    Entry(paper.parameters if paper else NONE, kind="paper"),
                    Entry(f"{cost.parameters:,}", ("as in the paper",) if fits else ()),
                    Entry(str(paper.depth) if paper else NONE, kind="paper"),
                    Entry(str(cost.depth), ("as in the paper",) if deep else ()),
                    Entry(millions(cost.multiply_adds)),
                )
            )
        groups.append(Lines(label, tuple(rows)))
    head = (
        (
            Heading("Reading of the paper", rows=2, kind="rowhead"),
            Heading("Parameters", columns=2),
            Heading("Depth", columns=2),
            Heading("Multiply-adds", rows=2),
        ),
        tuple(Heading(text, kind=text) for _ in range(2) for text in ("paper", "ours")),
    )
    notes = (
        "Counted from the generated deploy.prototxt for CIFAR-10 at full width: parameters with "
        "BatchNorm's scale and shift, depth as convolution and fc layers, multiply-adds of an "
        "image (the paper gives none).",
        "The parameters fit with the 1×1 grouped, the depth of 29 with a BU_s of three units; no "
        "reading gives both.",
    )
    return Table("Table 1, reported and counted", head, tuple(groups), notes)


@cache
def table_1_parts() -> tuple[Table, ...]:
    """Table 1's parts, a table a net."""
    return tuple(_parts(find_variant(name), label) for name, label in _TABLE_1.items())


def _parts(variant: Variant, label: str) -> Table:
    readings = count_readings(variant)
    head = (
        (
            Heading("Part", rows=2, kind="rowhead"),
            Heading("Output", rows=2),
            *(Heading(_reading(counted, variant.two_paths), columns=3) for counted in readings),
        ),
        tuple(Heading(text) for _ in readings for text in ("parameters", "depth", "multiply-adds")),
    )
    rows = [
        (
            _head(parts[0].name),
            Entry(f"{parts[0].height}×{parts[0].width}"),
            *(entry for part in parts for entry in _cost(part.cost)),
        )
        for parts in zip(*(counted.cost.parts for counted in readings), strict=True)
    ]
    total = tuple(entry for counted in readings for entry in _cost(counted.cost.total))
    rows.append((_head("Total"), Entry(""), *total))
    return Table(f"{label} by its parts", head, (Lines("", tuple(rows)),))


def _cost(cost: Cost) -> tuple[Entry, ...]:
    return (
        Entry(f"{cost.parameters:,}"),
        Entry(str(cost.depth)),
        Entry(millions(cost.multiply_adds)),
    )


# --- the exhibits ---

_READINGS = "Other readings of the paper, which it reports no errors of"
_METHODS = "Other authors' nets, as the paper prints them"


def exhibit_table(shown: Shown) -> Table:
    """An exhibit: what the paper reports beside what our runs gave.

    With several data sets a column each, the paper's number below ours; with one more room for
    both, and for the rises.
    """
    layout = _Layout(
        wide=len(shown.exhibit.datasets) > 1,
        rises=any(row.row.beside is not None for row in shown.rows),
    )
    papers = [row for row in shown.rows if not row.row.is_reading]
    readings = [row for row in shown.rows if row.row.is_reading]
    groups = [Lines("", tuple(_row(row, layout) for row in papers))]
    if readings:
        groups.append(Lines(_READINGS, tuple(_row(row, layout) for row in readings)))
    methods = tuple(_method(method, shown.columns) for method in shown.methods)
    if any(entry.text != NONE for row in methods for entry in row[1:]):
        groups.append(Lines(_METHODS, methods, apart=True))
    return Table(
        f"{shown.exhibit.name}, test error in %",
        _exhibit_head(shown, layout),
        tuple(groups),
        tuple(_exhibit_notes(shown, layout)),
    )


class _Layout(NamedTuple):
    """Whether a data set has one column alone, and else whether two of its columns are rises."""

    wide: bool
    rises: bool


def _exhibit_head(shown: Shown, layout: _Layout) -> tuple[tuple[Heading, ...], ...]:
    if layout.wide or not shown.columns:
        columns = (Heading(column.label, kind="group") for column in shown.columns)
        return ((Heading("Net", kind="rowhead"), *columns),)
    names = ["paper", "ours"] + (["rise, paper", "rise, ours"] if layout.rises else [])
    first = [Heading(column.label, columns=len(names), kind="group") for column in shown.columns]
    second = [Heading(name, kind=name.split(", ")[-1]) for _ in shown.columns for name in names]
    return ((Heading("Net", rows=2, kind="rowhead"), *first), tuple(second))


def _row(row: ShownRow, layout: _Layout) -> tuple[Entry, ...]:
    found = [cell.marks for cell in row.cells if cell.last is not None]
    marks = [mark for mark in found[0] if all(mark in other for other in found)] if found else []
    size = ""
    if row.parameters is not None:
        size = f"{_short_count(row.parameters)} parameters"
        size += f" ({', '.join(marks)})" if marks else ""
    source = row.row.source if row.row.is_reading else ""
    beside = f"compared with {row.beside}" if row.beside and not layout.wide else ""
    head = _head(row.row.label, source, beside, size)
    entries = _stacked if layout.wide else _side_by_side
    return (head, *(entry for cell in row.cells for entry in entries(row, cell, layout)))


def _stacked(row: ShownRow, cell: Cell, layout: _Layout) -> Iterator[Entry]:
    paper = "" if cell.reported is None else f"paper {cell.reported:.2f}"
    if cell.last is None:
        yield _missing(cell, paper)
        return
    if cell.difference is not None:
        beside = f"{paper}, {points(cell.difference)}"
    else:
        beside = "" if cell.rise is None else f"{points(cell.rise)} to {row.beside}"
    yield _ours(str(cell.last), beside, _best_and_seeds(cell), tags=cell.marks)


def _side_by_side(row: ShownRow, cell: Cell, layout: _Layout) -> Iterator[Entry]:
    yield Entry(NONE if cell.reported is None else f"{cell.reported:.2f}", kind="paper")
    if cell.last is None:
        yield _missing(cell)
    else:
        away = "" if cell.difference is None else f"{points(cell.difference)} to paper"
        yield _ours(str(cell.last), away, _best_and_seeds(cell), tags=cell.marks)
    if not layout.rises:
        return
    yield Entry(NONE if cell.reported_rise is None else points(cell.reported_rise), kind="paper")
    if cell.rise is not None:
        yield _ours(points(cell.rise), tags=cell.marks)
    elif row.row.beside is None:
        yield Entry(NONE, kind="paper")
    elif cell.last is None:
        yield _missing(cell)
    else:
        yield Entry("missing", title=f"{row.beside} has no result", kind="missing")


def _ours(text: str, *notes: str, tags: tuple[str, ...]) -> Entry:
    return Entry(text, tuple(filter(None, notes)), tags)


def _best_and_seeds(cell: Cell) -> str:
    best = "" if cell.best is None else f"best {cell.best.value:.2f}, "
    return f"{best}{cell.seeds} seed" + ("s" if cell.seeds > 1 else "")


def _short_count(number: int) -> str:
    """`1.74M`, `30k`."""
    return f"{number / 1e6:.2f}M" if number >= 1e6 else f"{number / 1e3:.0f}k"


_STATES = ("missing", "failed", "running", "stopped", "to do", "not done")


def _short(state: str) -> str:
    return next((word for word in _STATES if state.startswith(word)), "missing")


def _missing(cell: Cell, *notes: str) -> Entry:
    return Entry(_short(cell.state), tuple(filter(None, notes)), (), cell.state, kind="missing")


def _method(method: Method, columns: Sequence[Column]) -> tuple[Entry, ...]:
    size = [
        f"{method.depth} layers" if method.depth != "-" else "",
        method.parameters if method.parameters != "-" else "",
    ]
    cells: list[Entry] = []
    for column in columns:
        single = column.papers[0] if len(column.papers) == 1 else ""
        error = method.errors.get(single, "-")
        cells.append(Entry(NONE if error == "-" else error, kind="paper"))
    return (_head(method.name, ", ".join(filter(None, size))), *cells)


def _exhibit_notes(shown: Shown, layout: _Layout) -> Iterator[str]:
    if not shown.columns:
        yield "None of its data sets was asked for."
        return
    yield (
        "Ours is the error after the last iteration, as mean ± standard deviation where there are "
        "several seeds; below it the difference in points, and the mean of each training’s best "
        "test."
    )
    if layout.rises and not layout.wide:
        yield "A rise is the distance in points from the net that the row is compared with."
    if shown.exhibit.name == "Table 3":
        yield "The paper prints accuracies here; shown are errors, 100 minus the accuracy."
    yield from _reasons(shown)


def _reasons(shown: Shown) -> Iterator[str]:
    """Each reason for missing results once, with where it holds."""
    places: dict[str, list[tuple[int, str]]] = {}
    for row in shown.rows:
        for place, cell in enumerate(row.cells):
            # A state of one word is in the cell already.
            if cell.last is None and cell.state not in ("", *_STATES):
                places.setdefault(cell.state, []).append((place, row.row.label))
    for state, found in places.items():
        words = []
        for place, column in enumerate(shown.columns):
            labels = [label for at, label in found if at == place]
            if len(labels) == len(shown.rows):
                words.append(f"on {column.label}")
            elif labels:
                words.append(f"of {' · '.join(labels)} on {column.label}")
        yield f"No result {'; '.join(words)} – {state}"


# --- runs and feature maps ---


def runs_table(statuses: Sequence[Status], results: Sequence[Result]) -> Table:
    """A line a run: how far it is, and of a finished one what it took and what it was made by."""
    head = (
        Heading("Run", kind="rowhead"),
        Heading("State", kind="text"),
        *(Heading(text) for text in ("Epochs", "Error, %", "Time")),
        *(Heading(text, kind="text") for text in ("Finished", "Device", "Code", "Commands")),
    )
    rows = []
    for status in statuses:
        run = status.folder.run
        result = next((one for one in reversed(results) if one.belongs_to(run)), None)
        rows.append((*_state(status), *_made(result, len(head) - 2, _run_marks(run))))
    return Table("State, result and origin of each run", (head,), (Lines("", tuple(rows)),))


def _run_marks(run: Run) -> tuple[str, ...]:
    """What keeps the run from being the paper's; its data set is in its name."""
    return tuple(mark for mark in (run.budget.name, run.precision) if mark not in ("full", "fp32"))


def _state(status: Status) -> tuple[Entry, Entry]:
    run = status.folder.run
    left = f"about {span(status.left)} left" if status.is_open and status.left is not None else ""
    kind = "text" if status.state in ("done", "running") else "text missing"
    state = Entry(status.state, tuple(filter(None, (status.reason, left))), kind=kind)
    return _head(str(run), tags=_run_marks(run)), state


def _made(result: Result | None, width: int, marks: tuple[str, ...]) -> tuple[Entry, ...]:
    if result is None:
        return tuple(Entry("") for _ in range(width))
    best = (f"best {result.best.error:.2f}", f"at epoch {result.best.epoch:g}")
    return (
        Entry(str(result.epochs), tags=marks),
        Entry(f"{result.last.error:.2f}", best, marks),
        Entry(span(result.seconds), _sessions(result)),
        Entry(*_moment(result.finished), kind="text moment"),
        _text(str(result.hardware.get("device", NONE)), *_machine(result.hardware)),
        _commits(result),
        Entry("show", code=result.commands, kind="text"),
    )


def _sessions(result: Result) -> tuple[str, ...]:
    return (f"in {result.sessions} parts",) if result.sessions > 1 else ()


def _machine(hardware: Mapping[str, object]) -> Iterator[str]:
    if processor := hardware.get("processor"):
        yield str(processor)
    if threads := hardware.get("threads"):
        yield f"{threads} thread" + ("s" if threads != 1 else "")


def _commits(result: Result) -> Entry:
    names = [commit.removesuffix("-dirty")[:10] for commit in result.commits]
    tags = ("uncommitted changes",) if result.dirty else ()
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return _text(", ".join(names) or NONE, versions, tags=tags, title=", ".join(result.commits))


def _moment(text: str) -> tuple[str, tuple[str, ...]]:
    """`2026-01-31T10:20:30Z` as a date, and the time below it."""
    day, _, time = text.partition("T")
    return day, (f"{time.removesuffix('Z')} UTC",) if time else ()


def maps_table(caption: str, numbers: Iterable[MapNumbers], marks: Sequence[str] = ()) -> Table:
    """The numbers of feature maps: how many activations are zero, and how large they are."""
    head = (
        Heading("Maps", kind="rowhead"),
        Heading("Blob", kind="text"),
        Heading("Image", kind="text"),
        Heading("Zeros"),
        Heading("Mean"),
    )
    rows = tuple(
        (
            _head(one.about),
            _text(one.blob),
            _text(one.image),
            Entry(f"{100 * one.zeros:.1f} %", tags=tuple(marks)),
            Entry(f"{one.mean:.4g}", tags=tuple(marks)),
        )
        for one in numbers
    )
    return Table(caption, (head,), (Lines("", rows),))
