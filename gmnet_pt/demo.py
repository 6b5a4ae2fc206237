"""The last words of `make demo`: the test accuracy that a run reached, and where its files are.

Reads the record that `gmnet_pt.train` keeps (`gmnet_pt.log.run_record`).
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import sys
from pathlib import Path

from converters.command_line.program import run_program
from converters.errors import CaffeError
from gmnet_pt.log.events import Scores, Snapshot
from gmnet_pt.log.run_record import parse_record

LEAST = 0.97
"""The accuracy that the demo's net reaches on scikit-learn's digits; less means a broken build."""


def report(record: Path) -> str:
    """What to print about the run in `record` (train.jsonl); its last test and snapshot count.

    Raises:
        CaffeError: there is no such run, it has no test, or its accuracy is below `LEAST`.
    """
    try:
        events = parse_record(record.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaffeError(f"{record}: cannot be read: {error.strerror}") from error
    tests = [event for event in events if isinstance(event, Scores)]
    scores = {output.name: output.value for output in tests[-1].outputs} if tests else {}
    if "accuracy" not in scores:
        raise CaffeError(f"{record}: the run has no test accuracy")
    accuracy, iteration = scores["accuracy"], tests[-1].iteration
    if not accuracy >= LEAST:
        raise CaffeError(f"{record}: test accuracy {accuracy:.2%}, at least {LEAST:.0%} is due")
    lines = [f"Test accuracy {accuracy:.2%} after {iteration} iterations."]
    snapshots = [event for event in events if isinstance(event, Snapshot)]
    if snapshots:
        lines.append(f"Weights: {snapshots[-1].model}; to go on from: {snapshots[-1].state}")
    lines.append(f"Log: {record.with_suffix('.log')}; record: {record}")
    return "\n".join(lines)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("record", type=Path, help="train.jsonl of the run")


def run(args: argparse.Namespace) -> int:
    """Print the report of the run whose record is given."""
    print(report(args.record))
    return 0


if __name__ == "__main__":
    sys.exit(run_program("gmnet_pt.demo", __doc__, configure, run))
