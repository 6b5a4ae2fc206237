"""Brings together what a report tells: exhibits with all seeds that were run, states, pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import gmnet_pt
from gmnet_pt.log.provenance import commit_of
from gmnet_pt.reproduce.exhibits import show, widened
from gmnet_pt.reproduce.report import Picture, Report
from gmnet_pt.reproduce.results import Result, now
from gmnet_pt.reproduce.work import Status, Work


def collect(work: Work, with_table_1: bool) -> Report:
    """All about a selection, as far as it is now.

    Raises:
        DataError: a result is damaged.
    """
    results = work.known_results()
    selection = widened(work.selection, results)
    statuses = replace(work, selection=selection).statuses()
    states = {
        status.folder.run: f"{status.state}: {status.reason}" if status.reason else status.state
        for status in statuses
    }
    return Report(
        budget=selection.budget,
        shown=tuple(show(selection, exhibit, results, states) for exhibit in selection.exhibits),
        with_table_1=with_table_1,
        statuses=tuple(statuses),
        results=tuple(r for r in results if any(r.belongs_to(s.folder.run) for s in statuses)),
        pictures=tuple(_pictures(statuses, results)),
        written=now(),
        commit=commit_of(Path(gmnet_pt.__file__)),
        substitutes=selection.substitutes,
    )


def _pictures(statuses: Iterable[Status], results: Iterable[Result]) -> Iterable[Picture]:
    for status in statuses:
        result = next((r for r in reversed(list(results)) if r.belongs_to(status.folder.run)), None)
        for figure in (3, 4):
            path = status.folder.path / f"figure{figure}.png"
            if result is not None and path.is_file():
                numbers = tuple(row for row in result.maps if row.figure == figure)
                yield Picture(f"Figure {figure}: {status.folder.run}", path, numbers)
