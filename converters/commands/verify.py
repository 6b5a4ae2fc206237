"""`python -m converters verify LMDB`: read every record and say what is in the database."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.command_line.progress import progress
from converters.errors import DataError
from converters.records.datum import decode_datum, describe
from converters.records.lmdb_reader import LmdbReader, key_text
from converters.records.mean import MeanImage

SHOWN = 20  # bad records that are listed, at most
_BLOCK = 1000


class BadRecord(NamedTuple):
    """A record that training would trip over."""

    key: str
    reason: str


class Contents(NamedTuple):
    """What a walk over a database found; `means` is None when shapes differ."""

    records: int
    bad_count: int
    bad: tuple[BadRecord, ...]
    shapes: tuple[tuple[str, int], ...]
    classes: tuple[tuple[int, int], ...]
    encoded: int
    bytes: int
    means: tuple[float, ...] | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("lmdb", type=Path, metavar="LMDB")
    parser.add_argument(
        "--classes", type=int, metavar="N", help="refuse labels of N and more (default: any)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the database's contents; bad records make it fail."""
    contents = verify(args.lmdb, args.classes)
    for record in contents.bad:
        print(f"{args.lmdb}: record {record.key!r} {record.reason}")
    encoded = f", {contents.encoded} compressed" if contents.encoded else ""
    print(f"{args.lmdb}: {contents.records} records, {contents.bytes} bytes{encoded}")
    shapes = ", ".join(f"{shape} ({count})" for shape, count in contents.shapes)
    print(f"shape: {shapes or 'none'}")
    for label, count in contents.classes:
        print(f"class {label}: {count}")
    if contents.means is not None:
        print(f"channel means: {', '.join(f'{mean:.3f}' for mean in contents.means)}")
    if contents.bad_count:
        raise DataError(
            f"{args.lmdb}: {contents.bad_count} of {contents.records} records are bad, the first "
            f"is {contents.bad[0].key!r}: {contents.bad[0].reason}"
        )
    return 0


def verify(path: Path, classes: int | None = None) -> Contents:
    """Read every record and report what was found.

    A record is bad if it does not parse, its values do not fill its shape, its shape is not that of
    most records, or its label is negative or not below `classes`.

    Raises:
        DataError: not an LMDB, truncated, or a page is damaged; names the last key before it.
    """
    bad: list[BadRecord] = []
    shapes: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    examples: dict[str, list[str]] = {}
    mean, block = MeanImage(), list[NDArray[Any]]()
    encoded = size = records = bad_count = 0
    with LmdbReader(path) as reader:
        for key, value in progress(_records(reader), str(path), len(reader)):
            records += 1
            size += len(value)
            try:
                datum = decode_datum(value)
                image = datum.image()
                encoded += datum.encoded
                if datum.label < 0 or (classes is not None and datum.label >= classes):
                    raise DataError(f"has label {datum.label}, expected {_range(classes)}")
            except DataError as error:
                bad_count += 1
                bad += [BadRecord(key_text(key), str(error))] * (len(bad) < SHOWN)
            else:
                shape = describe(image)
                shapes[shape] += 1
                labels[datum.label] += 1
                if shapes[shape] <= SHOWN:
                    examples.setdefault(shape, []).append(key_text(key))
                if len(shapes) == 1:
                    block.append(image)
                if len(block) == _BLOCK:
                    mean.add(np.stack(block))
                    block.clear()
    if block:
        mean.add(np.stack(block))
    common = shapes.most_common()
    for shape, count in common[1:]:
        bad_count += count
        reason = f"has shape {shape}, most records {common[0][0]}"
        bad += [BadRecord(key, reason) for key in examples[shape]][: SHOWN - len(bad)]
    return Contents(
        records,
        bad_count,
        tuple(bad),
        tuple(common),
        tuple(sorted(labels.items())),
        encoded,
        size,
        tuple(mean.channels().tolist()) if len(shapes) == 1 else None,
    )


def _records(reader: LmdbReader) -> Iterator[tuple[bytes, memoryview]]:
    """The records; an error of the database says after which."""
    place = "no record"
    try:
        for key, value in reader:
            place = f"record {key_text(key)!r}"
            yield key, value
    except DataError as error:
        raise DataError(f"{error} (after {place})") from error


def _range(classes: int | None) -> str:
    return "0 or more" if classes is None else f"0 to {classes - 1}"
