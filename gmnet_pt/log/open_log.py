"""Where a run's events go: Caffe's log lines, a bar, a JSON record, TensorBoard, or all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from converters.errors import OutputError
from converters.reporting import readable
from gmnet_pt.log.bar import BarLog
from gmnet_pt.log.caffe_log import CaffeLog
from gmnet_pt.log.events import Event, Message
from gmnet_pt.log.run_record import RunRecord
from gmnet_pt.log.runs import set_aside
from gmnet_pt.log.tensorboard import TensorBoardLog
from gmnet_pt.log.training_log import TrainingLog


class Logs(TrainingLog):
    """Several logs as one; those in `files` keep the error that ends a `with`, too.

    It never raises: a log that fails (the terminal went away, the disk is full) is left out from
    then on, with a note in the others. No line is worth a run.
    """

    def __init__(self, logs: Sequence[TrainingLog], files: Sequence[TrainingLog] = ()) -> None:
        self._logs, self._files = [*logs, *files], [*files]

    def show(self, event: Event) -> None:
        self._show(event, self._logs)

    def close(self) -> None:
        for log in self._logs:
            with suppress(*_FAILURES):
                log.close()

    def __exit__(self, *reason: object) -> None:
        _, error, _ = reason
        if error is not None:
            text = readable(str(error)) or type(error).__name__
            self._show(Message(text, severity="E"), self._files)
        self.close()

    def _show(self, event: Event, logs: Sequence[TrainingLog]) -> None:
        for log in tuple(logs):
            if log not in self._logs:
                continue  # the note about another one ended it a moment ago
            try:
                log.show(event)
            except _FAILURES as error:
                self._drop(log, error)

    def _drop(self, failed: TrainingLog, error: Exception) -> None:
        for logs in (self._logs, self._files):
            if failed in logs:
                logs.remove(failed)
        with suppress(*_FAILURES):
            failed.close()
        text = f"{readable(str(error)) or type(error).__name__}; nothing more is written there"
        self._show(Message(text, severity="W"), self._logs)


# ValueError: a closed file, a character that it cannot take. RuntimeError: TensorBoard's writer.
_FAILURES = (OutputError, OSError, ValueError, RuntimeError)

TERMINAL_LOGS: dict[str, Callable[[], TrainingLog]] = {
    "caffe": lambda: CaffeLog(sys.stderr),
    "bar": BarLog,
}


LOG, RECORD, TENSORBOARD = "train.log", "train.jsonl", "tensorboard"
"""What a run leaves in its folder; those of earlier runs have a number behind."""


def open_log(
    mode: str | None = None,
    folder: Path | None = None,
    tensorboard: bool = False,
    resumed: bool = False,
) -> TrainingLog:
    """The log of a run: `mode` ("caffe", "bar") on stderr; in `folder`, train.log and train.jsonl.

    Without a mode a terminal gets the bar, anything else Caffe's lines. Where the run was `resumed`
    it goes on in the folder's logs; otherwise those there are numbered (`gmnet_pt.log.runs`).

    Raises:
        OutputError: a file cannot be opened, or an earlier one renamed.
        MissingExtraError: `tensorboard` is asked for and not installed.
    """
    terminal = TERMINAL_LOGS[mode or ("bar" if sys.stderr.isatty() else "caffe")]()
    files: list[TrainingLog] = []
    if folder is not None:
        if not resumed:
            set_aside(folder, (LOG, RECORD, TENSORBOARD))
        files += [CaffeLog(folder / LOG), RunRecord(folder / RECORD)]
        if tensorboard:
            files.append(TensorBoardLog(folder / TENSORBOARD))
    return Logs([terminal], files)
