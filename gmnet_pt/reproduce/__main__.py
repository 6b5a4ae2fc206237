"""`gmnet reproduce`, `python -m gmnet_pt.reproduce`: the paper's tables and figures.

`gmnet_pt.reproduce.options` has the options, `gmnet_pt.reproduce.work` does it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from converters.command_line.program import run_program
from converters.command_line.progress import TerminalReporter
from converters.command_line.table import aligned
from converters.errors import SolverError
from converters.proto import caffe_pb2 as pb
from gmnet_pt.reproduce import options
from gmnet_pt.reproduce.budgets import find_budget
from gmnet_pt.reproduce.collect import collect
from gmnet_pt.reproduce.experiments import EXHIBITS, Exhibit
from gmnet_pt.reproduce.pages import text_tables, update_page
from gmnet_pt.reproduce.report import write_report
from gmnet_pt.reproduce.results import RESULTS, read_results
from gmnet_pt.reproduce.runs import Selection
from gmnet_pt.reproduce.timing import span
from gmnet_pt.reproduce.training import Trainer
from gmnet_pt.reproduce.work import Outcome, Status, Work
from gmnet_pt.solver.choices import Request
from gmnet_pt.solver.device import named_device, solver_device
from gmnet_pt.train import Signals
from prototxt_gen.audit import audit
from prototxt_gen.recipes import find_dataset


def _exhibits(args: argparse.Namespace) -> tuple[bool, tuple[Exhibit, ...]]:
    """Whether Table 1 is wanted, and the exhibits that need training; all if none is named.

    Raises:
        SolverError: the paper has no such table or figure here.
    """
    wanted = [("table", n) for n in args.table] + [("figure", n) for n in args.figure]
    if not wanted:
        return True, EXHIBITS
    known = {(exhibit.kind, exhibit.number): exhibit for exhibit in EXHIBITS}
    for kind, number in wanted:
        if (kind, number) not in known and (kind, number) != ("table", 1):
            raise SolverError(
                f"--{kind} {number}: the tables are 1, 2, 3, and the figures with results 3, 4, 5"
            )
    return ("table", 1) in wanted, tuple(known[key] for key in known if key in wanted)


def run(args: argparse.Namespace) -> int:
    """Do what is asked for."""
    signals, start = Signals(Request.STOP, Request.STOP), time.monotonic()
    with_table_1, exhibits = _exhibits(args)
    selection = Selection(
        find_budget(args.budget),
        exhibits,
        args.datasets,
        args.seeds,
        dict(args.substitute),
        args.precision,
    )
    device = named_device(args.device) if args.device else solver_device(pb.SolverParameter())
    deadline = None if args.minutes is None else start + 60 * args.minutes
    trainer = Trainer(
        str(device), TerminalReporter(), deadline, lambda: signals.received is not None
    )
    sources = {name: Path(path) for name, path in args.source}
    for name in sources:
        find_dataset(name)
    work = Work(selection, trainer, sources, args.retry, args.repeat)
    if args.page:
        update_page(args.page, list(read_results(RESULTS)))
        print(args.page)
        return 0
    if args.list:
        print("\n".join(list_lines(work.statuses())))
        return 0
    page = work.place / "report.html"
    work.changed = lambda: write_report(collect(work, with_table_1), page)
    outcome = Outcome()
    if exhibits and not args.report:
        _show("\n".join(_begin_lines(work.begin())))
        outcome = work.do()
    report = collect(work, with_table_1)
    write_report(report, page)
    if 1 in args.table:
        print(audit())
    print("\n".join([*text_tables(report.shown), "", *_end_lines(outcome), f"Report: {page}"]))
    if signals.received is not None:
        return 128 + signals.received
    return 1 if outcome.failures else 0


def _begin_lines(statuses: Sequence[Status]) -> Iterator[str]:
    """The open runs, and in a line each what is missing or failed."""
    yield from list_lines([status for status in statuses if status.is_open])
    missing = dict.fromkeys(
        f"missing {status.folder.run.dataset}: {status.reason}"
        for status in statuses
        if status.state == "missing"
    )
    failed = [f"failed {s.folder.run}: {s.reason}" for s in statuses if s.state == "failed"]
    yield from (*missing, *failed)


def _end_lines(outcome: Outcome) -> Iterator[str]:
    yield f"{len(outcome.finished)} runs done now" + (", stopped" if outcome.stopped else "")
    for run in outcome.elsewhere:
        yield f"{run}: another process has it"
    yield from (f"failed: {reason}" for reason in outcome.failures)


def _show(text: str) -> None:
    """Print before the work: that nobody reads it is no reason not to do it."""
    with suppress(BrokenPipeError):
        print(text, flush=True)


def list_lines(statuses: Sequence[Status]) -> Iterator[str]:
    """A line a run: its state, the time left, what it lacks; then the sums."""
    if not statuses:
        yield "nothing is left to do"
        return
    rows = [("run", "state", "left", "")]
    for status in statuses:
        left = "" if not status.is_open else "?" if status.left is None else span(status.left)
        rows.append((str(status.folder.run), status.state, left, status.reason))
    yield from aligned(rows, right={2}, ruled=True)
    counts = Counter(status.state for status in statuses)
    known = [status.left for status in statuses if status.is_open and status.left is not None]
    unknown = sum(status.is_open and status.left is None for status in statuses)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    about = [f"about {span(sum(known))} left"] if known or not unknown else []
    yield "; ".join([states, *about, *([f"{unknown} not timed yet"] if unknown else [])])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and do it."""
    return run_program(
        "gmnet_pt.reproduce", options.__doc__, options.configure, run, argv, options.EXIT_STATUS
    )


if __name__ == "__main__":
    sys.exit(main())
