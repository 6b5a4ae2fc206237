"""`gmnet report RUN…`: a table of runs: net, data, best and last scores, time, speed.

A RUN is a run's folder (`runs/*`), whose earlier runs are listed too, or a log: a train.jsonl, or a
text log of any year. The table is text; --csv and --html print it as such, and with --out the
suffix decides.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from converters.command_line.parser import CommandParser
from converters.command_line.program import run_program
from converters.command_line.progress import tell
from converters.command_line.suffix import form_of
from converters.command_line.table import aligned
from converters.errors import DataError
from converters.formats.whole_files import written_beside
from converters.reporting import readable
from gmnet_pt.curves import LoggedRun, Point, Score, logs_of, read_runs, scores, short_names
from gmnet_pt.log.open_log import LOG, RECORD


class Column(NamedTuple):
    """A column of the table; `is_runs` where all of a run's rows have one value."""

    title: str
    is_number: bool = False
    is_runs: bool = True


COLUMNS = (
    Column("run"),
    Column("net"),
    Column("data"),
    Column("iterations", True),
    Column("time", True),
    Column("iterations/s", True),
    Column("items/s", True),
    Column("score", is_runs=False),
    Column("best", True, False),
    Column("at", True, False),
    Column("last", True, False),
    Column("best error %", True, False),
    Column("last error %", True, False),
)

Row = tuple[str, ...]


def rows_of(runs: Sequence[LoggedRun]) -> list[list[Row]]:
    """The rows of each run, one a test score; of a run without tests, its train loss."""
    found = []
    for name, run in zip(short_names(runs), runs, strict=True):
        all_scores = scores(run)
        tests = [score for score in all_scores if score.curve.phase == "test"]
        facts = _facts(name, run)
        found.append([(*facts, *_score(score)) for score in tests or all_scores[-1:]])
    return found


def _facts(name: str, run: LoggedRun) -> Row:
    start, speed = run.start, run.speed
    done = max((i for points in run.curves.values() for i in points), default=0)
    if run.is_finished:
        done = max(done, start.max_iter)
    seconds = max(run.seconds.values(), default=None)
    return (
        name,
        start.net,
        start.data,
        f"{done:.0f}" + (f" of {start.max_iter}" if start.max_iter > done else ""),
        "" if seconds is None else _duration(seconds),
        "" if speed is None else f"{speed:.4g}",
        "" if speed is None or not start.items else f"{speed * start.items:.4g}",
    )


def _duration(seconds: float) -> str:
    """`1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _score(score: Score) -> Row:
    best, last = score.best, score.last
    return (
        str(score.curve),
        f"{best.value:g}" if best else "",
        f"{best.iteration:g}" if best else "",
        f"{last.value:g}",
        _error(best, score),
        _error(last, score),
    )


def _error(point: Point | None, score: Score) -> str:
    return f"{100 * (1 - point.value):.2f}" if point and score.is_accuracy else ""


def to_text(runs: Sequence[Sequence[Row]]) -> str:
    """Aligned columns; what a run's rows share stands in the first, empty columns are left out."""
    kept = [
        place
        for place, column in enumerate(COLUMNS)
        if any(row[place] for rows in runs for row in rows)
    ]
    header = [COLUMNS[place].title for place in kept]
    lines = [
        ["" if number and COLUMNS[place].is_runs else row[place] for place in kept]
        for rows in runs
        for number, row in enumerate(rows)
    ]
    right = [number for number, place in enumerate(kept) if COLUMNS[place].is_number]
    return "\n".join(aligned([header, *lines], right=right, ruled=True)) + "\n"


def to_csv(runs: Sequence[Sequence[Row]]) -> str:
    """Every row whole."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n")
    write.writerow([column.title for column in COLUMNS])
    write.writerows(row for rows in runs for row in rows)
    return text.getvalue()


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em; color-scheme: light dark; }
div { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25em .8em; text-align: left; vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 2px solid; }
tbody { border-bottom: 1px solid #8886; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def to_html(runs: Sequence[Sequence[Row]]) -> str:
    """A page of its own, which needs no network."""

    def cell(tag: str, column: Column, text: str, span: int = 1) -> str:
        kind = ' class="number"' if column.is_number else ""
        rows = f' rowspan="{span}"' if span > 1 else ""
        return f"<{tag}{kind}{rows}>{escape(text)}</{tag}>"

    titles = "".join(cell("th", column, column.title) for column in COLUMNS)
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Runs</title>',
        f"<style>{_STYLE}</style>\n<h1>Runs</h1>\n<div><table>",
        f"<thead><tr>{titles}</tr></thead>",
    ]
    for rows in runs:
        parts.append("<tbody>")
        for number, row in enumerate(rows):
            cells = [
                cell("td", column, text, len(rows) if column.is_runs else 1)
                for column, text in zip(COLUMNS, row, strict=True)
                if number == 0 or not column.is_runs
            ]
            parts.append(f"<tr>{''.join(cells)}</tr>")
        parts.append("</tbody>")
    return "\n".join([*parts, "</table></div>\n</html>\n"])


FORMS: Mapping[str, Callable[[Sequence[Sequence[Row]]], str]] = {
    ".txt": to_text,
    ".csv": to_csv,
    ".html": to_html,
}


def _logs_below(path: Path) -> list[Path]:
    """The logs that a path names; of a folder of runs, those of each folder in it."""
    logs = logs_of(path)
    if logs or not path.is_dir():
        return logs
    return [log for folder in sorted(path.iterdir()) if folder.is_dir() for log in logs_of(folder)]


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    parser.allow_scattered()
    runs = "a run's folder, a folder of such, a train.jsonl, or a log"
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help=runs)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print the table as CSV")
    form.add_argument("--html", action="store_true", help="print the table as a page")
    form.add_argument("--out", type=Path, help=f"write the table: a {', '.join(FORMS)} file")


def run(args: argparse.Namespace) -> int:
    """Print or write the table."""
    form = ".csv" if args.csv else ".html" if args.html else ".txt"
    if args.out is not None:
        form = form_of(args.out, FORMS)
    runs: list[LoggedRun] = []
    # Of `runs/*`, what is no run is told and left out; what is named alone is an error.
    logs = [log for path in args.runs for log in _logs_below(path) or [path]]
    for log in dict.fromkeys(logs):
        try:
            if log.is_dir():
                raise DataError(f"{log}: no {RECORD} and no {LOG} in this folder")
            runs += read_runs(log)
        except DataError as error:
            if len(logs) == 1:
                raise
            tell(readable(f"left out: {error}"))
    if not runs:
        raise DataError(f"{len(logs)} paths: no run in any of them")
    text = FORMS[form](rows_of(runs))
    if args.out is None:
        print(text, end="")
        return 0
    with written_beside(args.out) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"{args.out}: {len(runs)} run{'s' * (len(runs) > 1)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and report."""
    return run_program("gmnet_pt.report", __doc__, configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
