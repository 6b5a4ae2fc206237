"""Which runs the exhibits need, where each lies, and how far it is.

A run is one net trained on one data set from one seed with one budget. Several rows may need the
same run. Its folder says all about it: `result.json` of a finished run, `failed.txt` with the
reason of a failed one, snapshots of one that was stopped, and a lock held by whoever trains it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path

from converters.datasets.registry import Dataset
from converters.errors import SolverError
from converters.formats.locks import inherited_lock, is_locked
from gmnet_pt.reproduce.budgets import Budget
from gmnet_pt.reproduce.experiments import BASELINE, BUA, BUB, DATASETS, Exhibit, Net, Row
from prototxt_gen.options import Options
from prototxt_gen.recipes import Schedule, find_dataset, schedule
from prototxt_gen.render import Generated, generate
from prototxt_gen.variants import find_variant

RESULT, FAILED, LOCK, RECORD = "result.json", "failed.txt", "lock", "train.jsonl"
# Of memory: fixed, so that a run can be repeated bit for bit; GM-Net is faster so on every machine
# that was tried.
LAYOUT = "channels_last"
# How long a run that somebody only looks at may seem to be taken.
_PATIENCE = 1.0


class State(Enum):
    """How far a run is."""

    DONE = "done"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    WAITING = "to do"


@dataclass(frozen=True)
class Run:
    """A net, a data set, a seed and a budget: all that decides the numbers of a training."""

    budget: Budget
    net: Net
    dataset: str
    seed: int
    precision: str = "fp32"

    @property
    def name(self) -> str:
        """VARIANT_DATASET[_table][_units][_w0.25]_seedN[_bf16], the name of its folder."""
        parts = [
            self.net.variant,
            self.dataset,
            "table" if self.net.reading == "table" else "",
            "units" if self.net.bu_s == "units" else "",
            f"w{self.budget.width:g}" if self.budget.width != 1 else "",
            f"seed{self.seed}",
            self.precision if self.precision != "fp32" else "",
        ]
        return "_".join(filter(None, parts))

    def __str__(self) -> str:
        reading = " (1×1 grouped)" if self.net.reading == "table" else ""
        units = " (BU_s of units)" if self.net.bu_s == "units" else ""
        return f"{self.net.variant}{reading}{units} on {self.dataset}, seed {self.seed}"

    @property
    def set(self) -> Dataset:
        """The data set that it trains on."""
        return find_dataset(self.dataset)

    @property
    def options(self) -> Options:
        """What the generator is told."""
        return Options(
            reading=self.net.reading,
            bu_s=self.net.bu_s,
            width=self.budget.width,
            moving_average_fraction=self.budget.fraction,
            epochs=self.budget.epochs.get(self.dataset),
            random_seed=self.seed,
        )

    @property
    def schedule(self) -> Schedule:
        """Its iterations."""
        return schedule(self.set, self.options)

    def generate(self, folder: Path) -> Generated:
        """Its prototxts, all for `folder`; nothing is written."""
        return generate(find_variant(self.net.variant), self.set, self.options, run=folder)


@dataclass(frozen=True)
class Selection:
    """What is asked for: exhibits, data sets (None: all), seeds, and what stands in for a set."""

    budget: Budget
    exhibits: tuple[Exhibit, ...]
    datasets: frozenset[str] | None = None
    seeds: tuple[int, ...] = (1,)
    substitutes: Mapping[str, str] = field(default_factory=dict)
    precision: str = "fp32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "substitutes", {**self.budget.instead, **self.substitutes})
        for name in (*self.substitutes.values(), *(self.datasets or ())):
            find_dataset(name)
        for name in self.substitutes:
            if name not in DATASETS:
                raise SolverError(
                    f"--substitute {name}={self.substitutes[name]}: the paper has no data set "
                    f"{name}; it has {', '.join(DATASETS)}"
                )
        if self.datasets and not any(self._wanted(name) for name in DATASETS):
            raise SolverError(
                f"--datasets {','.join(sorted(self.datasets))}: no table or figure has them; use "
                f"{', '.join(DATASETS)}, or what --substitute puts in their place"
            )

    def trained(self, dataset: str) -> str:
        """The set that is trained on where the paper has `dataset`."""
        return self.substitutes.get(dataset, dataset)

    def _wanted(self, dataset: str) -> bool:
        return self.datasets is None or bool({dataset, self.trained(dataset)} & self.datasets)

    def wanted_sets(self, exhibit: Exhibit) -> list[str]:
        """The exhibit's data sets, by the paper's names, that were asked for."""
        return [name for name in exhibit.datasets if self._wanted(name)]

    def runs_of(self, net: Net, dataset: str) -> list[Run]:
        """A net's runs on what stands for the paper's `dataset`, one a seed."""
        trained = self.trained(dataset)
        return [Run(self.budget, net, trained, seed, self.precision) for seed in self.seeds]

    def runs(self) -> list[Run]:
        """All runs, each once, the most telling first: MNIST, then CIFAR-10, then the rest."""
        needed = [
            (run.seed, _urgency(row, dataset), place, run)
            for place, (row, dataset) in enumerate(self._cells())
            for net in filter(None, (row.net, row.beside))
            for run in self.runs_of(net, dataset)
        ]
        needed.sort(key=lambda entry: entry[:3])
        return list(dict.fromkeys(run for *_, run in needed))

    def _cells(self) -> Iterator[tuple[Row, str]]:
        for exhibit in self.exhibits:
            for dataset in self.wanted_sets(exhibit):
                yield from ((row, dataset) for row in exhibit.rows)


_FIRST = (BUA, BASELINE, BUB, Net("bua", "table"), Net("bua_concat"))


def _urgency(row: Row, dataset: str) -> tuple[int, int]:
    """Which runs come first where there is not time for all."""
    place = _FIRST.index(row.net) if row.net in _FIRST else len(_FIRST)
    if dataset == "mnist" and not row.is_reading:
        return 0, place
    if dataset == "cifar10":
        return 1, place
    return (3 if row.is_reading else 2), place


class RunFolder:
    """The folder of a run below `root`, and what lies in it."""

    def __init__(self, root: Path, run: Run) -> None:
        self.run = run
        self.path = root / run.name

    @property
    def solver(self) -> Path:
        """The solver that trains it."""
        return self.path / "solver.prototxt"

    @property
    def net(self) -> Path:
        """Its net."""
        return self.path / "net.prototxt"

    @property
    def record(self) -> Path:
        """What happened in training (`gmnet_pt.log.run_record`)."""
        return self.path / RECORD

    @property
    def result(self) -> Path:
        """What came out; there once it is finished."""
        return self.path / RESULT

    def snapshots(self) -> list[tuple[int, Path]]:
        """Iterations and solver states of its whole snapshots, the newest last."""
        pattern = re.compile(rf"{re.escape(self.run.net.variant)}_iter_(\d+)\.solverstate")
        found = []
        with suppress(OSError):
            for path in self.path.iterdir():
                match = pattern.fullmatch(path.name)
                if match and path.with_suffix(".caffemodel").exists():
                    found.append((int(match[1]), path))
        return sorted(found)

    @property
    def iteration(self) -> int:
        """How far the newest snapshot is; 0 without one."""
        return max((iteration for iteration, _ in self.snapshots()), default=0)

    def drop_older_snapshots(self) -> None:
        """Keep the newest snapshot alone: the others are of no use to anybody."""
        for _, state in self.snapshots()[:-1]:
            for suffix in (".solverstate", ".state.npz", ".caffemodel"):
                state.with_suffix(suffix).unlink(missing_ok=True)

    @property
    def failure(self) -> str | None:
        """Why it failed, if it did."""
        try:
            return (self.path / FAILED).read_text(encoding="utf-8").strip()
        except OSError:
            return None

    def state(self) -> State:
        """How far it is, as its files say."""
        if self.result.exists():
            return State.DONE
        if is_locked(self.path / LOCK):
            return State.RUNNING
        if self.failure is not None:
            return State.FAILED
        return State.STOPPED if self.snapshots() else State.WAITING

    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """Take the run for this process and the children that get the yielded handle.

        Yields None where somebody else has it.
        """
        with inherited_lock(self.path / LOCK, _PATIENCE) as handle:
            yield handle

    @cached_property
    def iterations(self) -> int:
        """Of the whole training."""
        return self.run.schedule.max_iter
