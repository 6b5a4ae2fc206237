"""report.html: the paper's tables and figures beside ours, in one file that needs no network.

What it says is computed here, in `tables` and in `charts`; `report.html.j2` lays it out, with
`report.css` and `report.js` inside it.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from converters.formats.whole_files import written_beside
from converters.net.choice import NetChoice
from converters.net.draw import to_svg
from converters.net.plan import plan_net
from gmnet_pt.reproduce import charts, tables
from gmnet_pt.reproduce.budgets import Budget
from gmnet_pt.reproduce.exhibits import Shown
from gmnet_pt.reproduce.experiments import BASELINE, BUA, DATASETS, FIGURE_3, Net
from gmnet_pt.reproduce.results import MapNumbers, Result
from gmnet_pt.reproduce.runs import Run
from gmnet_pt.reproduce.timing import span
from gmnet_pt.reproduce.work import Status
from prototxt_gen.variants import find_variant

_LAYOUTS = (charts.WIDE, charts.NARROW)
_PNG = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """A PNG of feature maps, and the numbers of its rows."""

    caption: str
    path: Path
    numbers: tuple[MapNumbers, ...]


@dataclass(frozen=True)
class Report:
    """All that a report says.

    `results` are the selection's, the latest last; `written` is a time in UTC; `commit` that of the
    code which wrote it, "" if unknown; `substitutes` are the sets trained on by the paper's names.
    """

    budget: Budget
    shown: tuple[Shown, ...]
    with_table_1: bool
    statuses: tuple[Status, ...]
    results: tuple[Result, ...]
    pictures: tuple[Picture, ...]
    written: str
    commit: str
    substitutes: Mapping[str, str]


def write_report(report: Report, path: Path) -> None:
    """Write `path`, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    text = _environment().get_template("report.html.j2").render(_values(report))
    with written_beside(path) as partial:
        partial.write_text(text, encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("gmnet_pt.reproduce", ""),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _Fact(NamedTuple):
    """A line of the header; `title` is the whole of what was shortened."""

    name: str
    text: str
    title: str = ""


class _Exhibit(NamedTuple):
    """An exhibit's table, and the command that makes its runs."""

    id: str
    name: str
    heading: str
    table: tables.Table
    command: str


class _Figure(NamedTuple):
    """A chart in each layout, and the values that a pointer shows."""

    id: str
    chart: charts.Chart
    drawn: tuple[str, ...]
    hover: Mapping[str, Any]


class _Maps(NamedTuple):
    """Feature maps: the picture as a data URI, or why there is none, and their numbers."""

    caption: str
    source: str
    lack: str
    table: tables.Table | None


class _NetPicture(NamedTuple):
    """A net's picture as a data URI."""

    name: str
    about: str
    source: str


def _values(report: Report) -> dict[str, Any]:
    exhibits = [_exhibit(shown) for shown in report.shown if shown.exhibit is not FIGURE_3]
    feature_maps = [_exhibit(shown) for shown in report.shown if shown.exhibit is FIGURE_3]
    return {
        "budget": report.budget,
        "warnings": list(_warnings(report)),
        "facts": list(_facts(report)),
        "table_1": tables.table_1() if report.with_table_1 else None,
        "table_1_parts": tables.table_1_parts() if report.with_table_1 else (),
        "exhibits": exhibits,
        "figures": list(_figures(report)),
        "feature_maps": feature_maps,
        "maps": list(_maps(report)),
        "marks": _marks(report),
        "nets": [_net_picture(report, net, dataset) for net, dataset in _nets(report).items()],
        "runs": tables.runs_table(report.statuses, report.results) if report.statuses else None,
        "hues": charts.HUES,
    }


def _warnings(report: Report) -> Iterator[str]:
    """What keeps the numbers from being those of the paper's experiments."""
    if report.budget.name != "full":
        yield f"Budget {report.budget.name}: {report.budget.about}."
    instead: dict[str, list[str]] = {}
    for paper, trained in report.substitutes.items():
        if trained != paper:
            instead.setdefault(trained, []).append(DATASETS.get(paper, paper))
    for trained, papers in instead.items():
        yield f"Trained and tested on {trained} where the paper has {', '.join(papers)}."


def _marks(report: Report) -> list[str]:
    """Of what the paper shows on CIFAR-10, as `exhibits` marks a cell."""
    trained = report.substitutes.get("cifar10", "cifar10")
    precisions = dict.fromkeys(result.precision for result in report.results)
    papers = ("full", "cifar10", "fp32")
    return [mark for mark in (report.budget.name, trained, *precisions) if mark not in papers]


def _facts(report: Report) -> Iterator[_Fact]:
    yield _Fact("Budget", f"{report.budget.name}: {report.budget.about}")
    if report.statuses:
        counts = Counter(status.state for status in report.statuses)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        yield _Fact("Runs", f"{states}; {len(report.statuses)} in all")
        if any(status.is_open for status in report.statuses):
            yield _Fact("Time left", _left(report))
    yield _Fact("Written", report.written.replace("T", " ").replace("Z", " UTC"))
    yield _commit("Code", (report.commit,) if report.commit else ())
    commits = tuple(dict.fromkeys(c for result in report.results for c in result.commits))
    if commits and commits != (report.commit,):
        yield _commit("Results from", commits)


def _left(report: Report) -> str:
    lefts = [status.left for status in report.statuses if status.is_open]
    known = [left for left in lefts if left is not None]
    unknown = len(lefts) - len(known)
    about = f"about {span(sum(known))}" if known else "not known yet"
    return about + (f", {unknown} not timed yet" if known and unknown else "")


def _commit(name: str, commits: tuple[str, ...]) -> _Fact:
    shown = []
    for commit in commits:
        dirty = " with uncommitted changes" if commit.endswith("-dirty") else ""
        shown.append(commit.removesuffix("-dirty")[:10] + dirty)
    return _Fact(name, ", ".join(shown) or "commit unknown", ", ".join(commits))


def _exhibit(shown: Shown) -> _Exhibit:
    name = shown.exhibit.name
    return _Exhibit(
        name.lower().replace(" ", "-"),
        name,
        f"{name}: {shown.exhibit.title}",
        tables.exhibit_table(shown),
        shown.command,
    )


def _figures(report: Report) -> Iterator[_Figure]:
    for number, chart in enumerate(charts.charts(report.shown), 1):
        name = f"chart-{number}"
        drawn = tuple(charts.to_svg(chart, layout, f"{name}-{layout.name}") for layout in _LAYOUTS)
        yield _Figure(name, chart, drawn, charts.hover(chart))


def _maps(report: Report) -> Iterator[_Maps]:
    """The pictures with their numbers, then the numbers that no picture is of."""
    marks = _marks(report)
    for picture in report.pictures:
        source, lack = _png(picture.path)
        caption = f"Numbers of: {picture.caption}"
        table = tables.maps_table(caption, picture.numbers, marks) if picture.numbers else None
        yield _Maps(picture.caption, source, lack, table)
    pictured = {numbers for picture in report.pictures for numbers in picture.numbers}
    for result in report.results:
        if rest := [numbers for numbers in result.maps if numbers not in pictured]:
            caption = f"{_net_name(result.net)} on {result.dataset}, seed {result.seed}"
            yield _Maps(caption, "", "", tables.maps_table(f"Numbers of: {caption}", rest, marks))


def _png(path: Path) -> tuple[str, str]:
    """A picture as a data URI and "", or "" and why it cannot be shown."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", f"{path.name} cannot be read: {error.strerror}"
    if not data.startswith(_PNG):
        return "", f"{path.name} is no PNG picture"
    return _data_uri("image/png", data), ""


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _nets(report: Report) -> dict[Net, str]:
    """The nets of all rows, GM-Net and the baseline first, and what each is trained on."""
    cifar10 = report.substitutes.get("cifar10", "cifar10")
    nets = {BUA: cifar10, BASELINE: cifar10}
    for shown in report.shown:
        trained = [column.trained for column in shown.columns]
        dataset = cifar10 if cifar10 in trained or not trained else trained[0]
        for row in shown.rows:
            nets.setdefault(row.row.net, dataset)
    return nets


def _net_name(net: Net) -> str:
    grouped = ", 1×1 grouped" if net.reading == "table" else ""
    units = ", BU_s of units" if net.bu_s == "units" else ""
    return f"{net.variant}{grouped}{units}"


def _net_picture(report: Report, net: Net, dataset: str) -> _NetPicture:
    variant = find_variant(net.variant)
    width = f", width {report.budget.width:g}" if report.budget.width != 1 else ""
    about = f"{variant.summary} ({variant.source}); deploy net for {dataset}{width}"
    return _NetPicture(_net_name(net), about, _drawn(report.budget, net, dataset))


@cache
def _drawn(budget: Budget, net: Net, dataset: str) -> str:
    """A net's picture; the report is written after each run, the nets stay the same."""
    deploy = Run(budget, net, dataset, seed=1).generate(Path("deploy")).deploy
    picture = to_svg(plan_net(NetChoice(net.variant, deploy)))
    return _data_uri("image/svg+xml", picture.encode())
