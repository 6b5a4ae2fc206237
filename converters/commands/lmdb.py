"""`python -m converters lmdb DATASET`: the train and test database of a data set, and its mean."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.command_line.parser import completed
from converters.command_line.progress import TerminalReporter
from converters.datasets.build import build
from converters.datasets.registry import DATASETS, Dataset
from converters.datasets.source import Source
from converters.errors import DataError


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments; each set's own option is listed with the set."""
    summaries = "\n".join(f"  {one.name:14} {one.summary}" for one in DATASETS.values())
    parser.epilog = f"data sets:\n{summaries}\n\n{parser.epilog}"
    dataset = parser.add_argument("dataset", metavar="DATASET", help="one of the data sets below")
    completed(dataset, DATASETS)
    parser.add_argument(
        "--source", type=Path, metavar="PATH", help="folder (or file) with the official archives"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("lmdb"), metavar="DIR", help="default: lmdb"
    )
    parser.add_argument("--force", action="store_true", help="replace existing databases")
    # Once each: an augmented set shares its plain set's option.
    for flag, text, choices in dict.fromkeys(d.option for d in DATASETS.values() if d.option):
        if choices:
            parser.add_argument(flag, choices=choices, help=text)
        else:
            parser.add_argument(flag, action="store_const", const="yes", help=text)


def run(args: argparse.Namespace) -> int:
    """Build, then print what was written where."""
    dataset = DATASETS.find(args.dataset, DataError)
    report = build(
        dataset,
        Source(args.source, args.out / "archives", TerminalReporter()),
        args.out,
        args.force,
        _chosen(args, dataset),
    )
    for built in report.databases:
        kept = " (kept: it was there)" if built.kept else ""
        print(f"{built.path}: {built.records} records of {built.shape}{kept}")
    means = ", ".join(f"{mean:.3f}" for mean in report.channel_means)
    print(f"{report.mean_file}: channel means {means} ({dataset.order})")
    for note in report.notes:
        print(f"note: {note}")
    return 0


def _chosen(args: argparse.Namespace, dataset: Dataset) -> str:
    """The value of the set's own option; an option of another set is an error."""
    for other in DATASETS.values():
        if other.option is None:
            continue
        value: str | None = getattr(args, other.option.flag.lstrip("-").replace("-", "_"))
        if value is None:
            continue
        if dataset.option is not None and dataset.option.flag == other.option.flag:
            return value
        raise DataError(f"{other.option.flag} is for {other.name}, not for {dataset.name}")
    return ""
