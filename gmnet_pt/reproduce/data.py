"""The databases that runs train on: there already, built from what the user gave, or missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converters.datasets.build import build
from converters.datasets.registry import Dataset
from converters.datasets.source import Source
from converters.errors import CaffeError
from converters.formats.locks import inherited_lock
from converters.reporting import Reporter
from prototxt_gen.recipes import DATABASES

_PATIENCE = 3600.0  # while another process builds the same set


def missing(dataset: Dataset, sources: Mapping[str, Path]) -> str | None:
    """What to give for a set that is neither there nor can be built; None for one that can be had.

    Nothing is downloaded here: that is for `make lmdb`, where the user asks for it by name.
    """
    if _is_there(dataset) or dataset.bundled or _source(dataset, sources):
        return None
    by_hand = f"make lmdb DATASET={dataset.name}" if dataset.archives else ""
    return f"give --source {dataset.name}=PATH" + (f", or {by_hand}" if by_hand else "")


def provide(dataset: Dataset, sources: Mapping[str, Path], reporter: Reporter) -> None:
    """Build the databases of a set if they are not there; two processes build it once.

    Raises:
        CaffeError: the source is absent or damaged, or the databases cannot be written.
    """
    if _is_there(dataset):
        return
    out = Path(DATABASES)
    with inherited_lock(out / f".{dataset.name}.lock", _PATIENCE) as handle:
        if handle is None:
            raise CaffeError(f"{out}/{dataset.train_database}: another process is building it")
        if _is_there(dataset):
            return
        source = Source(_source(dataset, sources), out / "archives", reporter)
        report = build(dataset, source, out)
    for built in report.databases:
        reporter.note(f"{built.path}: {built.records} records of {built.shape}")
    for note in report.notes:
        reporter.note(f"note: {note}")


def _source(dataset: Dataset, sources: Mapping[str, Path]) -> Path | None:
    """An augmented set is made of the plain set's files."""
    return sources.get(dataset.name) or sources.get(dataset.test_of or "")


def _is_there(dataset: Dataset) -> bool:
    databases = (dataset.train_database, dataset.test_database)
    return all((Path(DATABASES) / name / "data.mdb").is_file() for name in databases)
