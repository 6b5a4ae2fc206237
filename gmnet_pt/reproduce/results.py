"""What came out of a run: a small JSON file each, written once and never changed.

Those of the budgets that count lie under results/ and are kept in the repository, so that runs made
on different days and machines add up. Errors are in %, times in UTC.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from converters.errors import DataError
from converters.formats.whole_files import written_beside
from gmnet_pt.reproduce.experiments import Net
from gmnet_pt.reproduce.runs import Run

FORMAT = 1
RESULTS = Path("results")


class Test(NamedTuple):
    """One test on the whole test set; `train_loss` is the smoothed loss shown before it."""

    epoch: float
    iteration: int
    error: float
    loss: float | None = None
    train_loss: float | None = None


class MapNumbers(NamedTuple):
    """Of a row of feature maps: the share of zeros, and the mean activation."""

    figure: int
    image: str
    about: str
    blob: str
    zeros: float
    mean: float


@dataclass(frozen=True)
class Result:
    """A finished run. `options` are the generator's that differ from its defaults."""

    id: str
    budget: str
    variant: str
    reading: str
    bu_s: str
    dataset: str
    seed: int
    precision: str
    options: Mapping[str, Any]
    epochs: int
    iterations: int
    parameters: int
    depth: int
    multiply_adds: int
    tests: tuple[Test, ...]
    started: str
    finished: str
    seconds: float
    sessions: int
    commands: tuple[str, ...]
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    commits: tuple[str, ...]
    maps: tuple[MapNumbers, ...] = ()
    format: int = field(default=FORMAT)

    @property
    def net(self) -> Net:
        """The net that was trained."""
        return Net(self.variant, self.reading, self.bu_s)

    @property
    def last(self) -> Test:
        """The test after the last iteration."""
        return self.tests[-1]

    @property
    def best(self) -> Test:
        """The test with the smallest error, the first of equals."""
        return min(self.tests, key=lambda test: test.error)

    @property
    def dirty(self) -> bool:
        """Whether a part of it ran from a tree with uncommitted changes."""
        return any(commit.endswith("-dirty") for commit in self.commits)

    def belongs_to(self, run: Run) -> bool:
        """Whether it is what `run` gives: the numbers depend on nothing else."""
        return (
            (self.budget, self.net, self.dataset, self.seed, self.precision)
            == (run.budget.name, run.net, run.dataset, run.seed, run.precision)
        ) and dict(self.options) == options_of(run)


def options_of(run: Run) -> dict[str, Any]:
    """The generator's options that differ from its defaults."""
    defaults = type(run.options)()
    return {
        name: value
        for name, value in asdict(run.options).items()
        if value != getattr(defaults, name)
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def result_id(run: Run, finished: str) -> str:
    """BUDGET_NAME_TIME: no two results have the same."""
    return f"{run.budget.name}_{run.name}_{finished.replace('-', '').replace(':', '')}"


def write_result(result: Result, path: Path) -> None:
    """Write `path`, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    text = json.dumps(asdict(result), indent=1, ensure_ascii=False, allow_nan=False)
    with written_beside(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def keep(result: Result, folder: Path) -> Path:
    """Add a result to `folder` under its id; one that is there already is left as it is.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder / f"{result.id}.json"
    if not path.exists():
        write_result(result, path)
    return path


def read_result(path: Path) -> Result:
    """The result in a file.

    Raises:
        DataError: it cannot be read, or is no result of a format that we know.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{path}: is no result of format {FORMAT}")
    try:
        values["tests"] = tuple(_test(test) for test in values["tests"])
        values["maps"] = tuple(MapNumbers(*row) for row in values["maps"])
        for name in ("commands", "commits"):
            values[name] = tuple(map(str, values[name]))
        result = Result(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is no result: {error}") from error
    if not result.tests:
        raise DataError(f"{path}: has no test")
    return result


def _test(row: list[Any]) -> Test:
    test = Test(*row)
    if not 0 <= test.error <= 100 or not math.isfinite(test.epoch):
        raise ValueError(f"a test error of {test.error} %")
    return test


def read_results(folder: Path) -> Iterator[Result]:
    """All results below `folder`, by name; none where there is no such folder.

    Raises:
        DataError: one of them is damaged.
    """
    for path in sorted(folder.glob("*.json")):
        yield read_result(path)
