"""`python -m bench [NAME …] [--out FILE]`: measure, print the table, fail on a bound that broke."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path

from bench.rows import Row, table
from converters.command_line.program import run_guarded
from converters.formats.whole_files import written_beside

BENCHES = {
    "train_step": "bench.train_step",
    "lmdb": "bench.lmdb_bench",
    "files": "bench.files_bench",
    "reading": "bench.reading_bench",
}
"""Name on the command line → module with `rows()`, imported only when it is measured."""


def main() -> int:
    """Measure the chosen benches; 1 when a row exceeds its bound."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file as well")
    args = parser.parse_args()
    for name in args.names:
        if name not in BENCHES:
            parser.error(f"no bench {name!r}; there are {', '.join(BENCHES)}")
    rows: list[Row] = []
    for name in args.names or BENCHES:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        rows.extend(importlib.import_module(BENCHES[name]).rows())
    text = f"{_machine()}\n\n{table(rows)}"
    print(text, end="")
    if args.out:
        with written_beside(args.out) as path:
            path.write_text(text)
    return 0 if all(row.ok for row in rows) else 1


def _machine() -> str:
    return (
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; "
        "median ± half the interquartile range, less is better; "
        '"?": other work on the machine disturbed the row, measure it again'
    )


if __name__ == "__main__":
    sys.exit(run_guarded(main))
