"""`gmnet demo`, `make demo`: digits to an LMDB, a small GM-Net, its training, and what came of it.

The last words are from the record that `gmnet_pt.train` keeps (`gmnet_pt.log.run_record`).
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from converters.command_line.program import run_program
from converters.datasets.registry import DATASETS
from converters.errors import CaffeError
from gmnet_pt.commands import COMMANDS
from gmnet_pt.log.events import Scores, Snapshot
from gmnet_pt.log.run_record import parse_record
from gmnet_pt.options import demo as options
from prototxt_gen.recipes import DATABASES
from prototxt_gen.render import OUTPUTS, RUNS

DATASET = DATASETS["digits"]
FOLDER = "bua_digits_w0.25"
# An average over ten batches rather than Caffe's thousand: the run is too short for the latter.
VARIANT = ["bua", "--dataset", DATASET.name, "--width", "0.25", "--dropout", "0"]
VARIANT += ["--moving-average-fraction", "0.9", "--random-seed", "1", "--force"]

LEAST = 0.97
"""The accuracy that the demo's net reaches on scikit-learn's digits; less means a broken build."""


def report(record: Path, whole: bool = True) -> str:
    """What to print about the run in `record` (train.jsonl); its last test and snapshot count.

    Of a run that is not the `whole` demo, by options of the user's, nothing is expected.

    Raises:
        CaffeError: there is no such run; a whole one has no test, or its accuracy is below `LEAST`.
    """
    try:
        events = parse_record(record.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaffeError(f"{record}: cannot be read: {error.strerror}") from error
    tests = [event for event in events if isinstance(event, Scores)]
    scores = {output.name: output.value for output in tests[-1].outputs} if tests else {}
    if "accuracy" in scores:
        accuracy, iteration = scores["accuracy"], tests[-1].iteration
        if whole and not accuracy >= LEAST:
            raise CaffeError(f"{record}: test accuracy {accuracy:.2%}, at least {LEAST:.0%} is due")
        lines = [f"Test accuracy {accuracy:.2%} after {iteration} iterations."]
    elif whole:
        raise CaffeError(f"{record}: the run has no test accuracy")
    else:
        lines = ["No test was due in so short a run."]
    snapshots = [event for event in events if isinstance(event, Snapshot)]
    if snapshots:
        lines.append(f"Weights: {snapshots[-1].model}; to go on from: {snapshots[-1].state}")
    lines.append(f"Log: {record.with_suffix('.log')}; record: {record}")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Build, generate, train and report; what fails ends it with its status."""
    databases = [Path(DATABASES) / DATASET.train_database, Path(DATABASES) / DATASET.test_database]
    absent = not all(database.is_dir() for database in databases)
    steps = [(COMMANDS["lmdb"], [DATASET.name])] if absent else []
    for command, words in [*steps, (COMMANDS["generate"], VARIANT)]:
        if status := command.run("gmnet", words):
            return status
    sys.stdout.flush()  # before the training's lines on stderr
    args.path, args.solver = f"{OUTPUTS / FOLDER}/net.prototxt", None
    from gmnet_pt import train

    if status := train.run(args):
        return status
    whole = args.max_iter is None and args.epochs is None and not args.set
    print(report(Path(RUNS) / FOLDER / "train.jsonl", whole))
    print(f"Data: {', '.join(map(str, databases))}; net and solver: {OUTPUTS / FOLDER}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the demo."""
    return run_program(
        "gmnet_pt.demo", options.__doc__, options.configure, run, argv, options.EXIT_STATUS
    )


if __name__ == "__main__":
    sys.exit(main())
