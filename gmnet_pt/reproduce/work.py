"""Goes through the runs of a selection: which are done, which can be, and does them in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gmnet_pt.reproduce.data import missing, provide
from gmnet_pt.reproduce.maps import draw_figures
from gmnet_pt.reproduce.results import RESULTS, Result, keep, read_result, read_results
from gmnet_pt.reproduce.runs import Run, RunFolder, Selection, State
from gmnet_pt.reproduce.timing import measure, seconds_left, span
from gmnet_pt.reproduce.training import FailedRunError, Trainer, finish, is_trained, train
from prototxt_gen.recipes import find_dataset

RUNS = Path("runs/reproduce")


class Status(NamedTuple):
    """A run, how far it is in words, what it lacks or why it failed, and the seconds left."""

    folder: RunFolder
    state: str
    reason: str
    left: float | None
    is_open: bool


@dataclass
class Outcome:
    """Runs finished now, why others failed, those that other processes have, and if it stopped."""

    finished: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    elsewhere: list[Run] = field(default_factory=list)
    stopped: bool = False


@dataclass
class Work:
    """A selection and how it is done; `changed` is called after each run, for the report.

    Results of a budget that counts go to `results`, others below the budget's own runs.
    """

    selection: Selection
    trainer: Trainer
    sources: Mapping[str, Path] = field(default_factory=dict)
    retry: bool = False
    repeat: bool = False
    changed: Callable[[], None] = lambda: None

    @property
    def place(self) -> Path:
        """Where the budget's runs and the report lie."""
        return RUNS / self.selection.budget.name

    @property
    def results(self) -> Path:
        """Where its results are kept."""
        return RESULTS if self.selection.budget.kept else self.place / RESULTS

    def known_results(self) -> list[Result]:
        """All results of this budget that count, one a run: the latest."""
        found = [
            result
            for result in read_results(self.results)
            if result.budget == self.selection.budget.name and self.counts(result)
        ]
        return sorted(found, key=lambda result: result.finished)

    def counts(self, result: Result) -> bool:
        """A result that is kept must be of a commit, so that others can run what it ran."""
        return not (self.selection.budget.kept and result.dirty)

    def statuses(self) -> list[Status]:
        """Each run's, in the order in which they are done."""
        results = self.known_results()
        return [self._status(RunFolder(self.place, run), results) for run in self.selection.runs()]

    def _status(self, folder: RunFolder, results: list[Result]) -> Status:
        state, run = folder.state(), folder.run
        if state is State.DONE:
            counts = self.counts(read_result(folder.result))
            reason = "" if counts else "with uncommitted changes, so its numbers are left out"
            return Status(folder, "done", reason, 0.0, False)
        if not self.repeat and any(result.belongs_to(run) for result in results):
            return Status(folder, "done", "before, in results/", 0.0, False)
        left = seconds_left(folder, self.trainer.device)
        if state is State.RUNNING:
            return Status(folder, "running", "in another process", left, True)
        if lacks := missing(run.set, self.sources):
            return Status(folder, "missing", lacks, None, False)
        if state is State.FAILED and not self.retry:
            reason = f"{folder.failure}; --retry tries again"
            return Status(folder, "failed", reason, left, False)
        reason = f"at iteration {folder.iteration} of {folder.iterations}"
        return Status(folder, state.value, reason if folder.iteration else "", left, True)

    def begin(self) -> list[Status]:
        """Bring the results up to date, build what data is needed, and time each net once.

        Raises:
            CaffeError: data that was given cannot be read, or nothing can be written.
        """
        for run in self.selection.runs():
            self._keep(RunFolder(self.place, run))
        todo = [status.folder for status in self.statuses() if status.is_open]
        for dataset in dict.fromkeys(folder.run.dataset for folder in todo):
            if self.trainer.over():
                break
            provide(find_dataset(dataset), self.sources, self.trainer.reporter)
        shown = self.trainer.reporter.progress(todo, "timing each net", len(todo), "nets")
        for folder in shown:
            if self.trainer.over():
                break
            if folder.state() is not State.RUNNING:
                measure(folder, self.trainer.device)
        return self.statuses()

    def do(self) -> Outcome:
        """Do the open runs in turn; a failed one does not stop the others.

        Raises:
            OutputError: the disk is full, or a folder cannot be written.
        """
        outcome = Outcome()
        for status in self.statuses():
            if not status.is_open:
                continue
            if self.trainer.over():
                outcome.stopped = True
                break
            with status.folder.locked() as lock:
                if lock is None:
                    outcome.elsewhere.append(status.folder.run)
                    continue
                # Somebody may have finished it since.
                if status.folder.result.exists():
                    continue
                try:
                    whole = self._train(status.folder, lock)
                except FailedRunError as error:
                    self.trainer.reporter.note(f"failed: {error}")
                    outcome.failures.append(str(error))
                    continue
            if not whole:
                outcome.stopped = True
                break
            outcome.finished.append(status.folder.run)
            self.changed()
        return outcome

    def _train(self, folder: RunFolder, lock: int) -> bool:
        if not is_trained(folder) and not train(folder, self.trainer, lock):
            return False
        device, reporter = self.trainer.device, self.trainer.reporter
        result = finish(folder, device, draw_figures(folder, device, reporter))
        self._keep(folder)
        reporter.note(
            f"{folder.run}: done, test error {result.last.error:.2f} % "
            f"(best {result.best.error:.2f} %) in {span(result.seconds)}"
        )
        return True

    def _keep(self, folder: RunFolder) -> None:
        """A finished run's result goes where results are kept, if it is not there yet."""
        if folder.result.exists():
            keep(read_result(folder.result), self.results)
