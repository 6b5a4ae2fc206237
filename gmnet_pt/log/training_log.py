"""Where a run's events go: Caffe's log lines, a bar, a JSON record, TensorBoard, or all of them.

The solver hands its events to the `show` of whatever `open_log` made; `gmnet_pt.log.events` lists
them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import singledispatchmethod
from importlib import metadata
from pathlib import Path
from typing import Any, Self, TextIO

from converters.errors import MissingExtraError
from converters.formats.whole_files import output_error
from gmnet_pt.log.caffe_log import caffe_lines, glog
from gmnet_pt.log.events import (
    Advance,
    Display,
    Event,
    Finetune,
    Message,
    Resume,
    Run,
    Scores,
    Snapshot,
    Start,
    Stop,
)
from gmnet_pt.log.run_record import record_line


class TrainingLog(ABC):
    """Shows events; `with` closes it."""

    @abstractmethod
    def show(self, event: Event) -> None:
        """Show or keep `event`; one that this log has no form for is passed over."""

    def close(self) -> None:  # noqa: B027 (most logs hold nothing)
        """Release files and the terminal."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


class Logs(TrainingLog):
    """Several logs as one."""

    def __init__(self, logs: Sequence[TrainingLog]) -> None:
        self._logs = list(logs)

    def show(self, event: Event) -> None:
        for log in self._logs:
            log.show(event)

    def close(self) -> None:
        for log in self._logs:
            log.close()


class CaffeLog(TrainingLog):
    """Caffe's lines with glog's prefix, on a stream or appended to a file.

    Raises:
        OutputError: the file cannot be opened or written.
    """

    def __init__(self, target: TextIO | Path) -> None:
        self._stream = _open_to_append(target) if isinstance(target, Path) else target
        self._owned = isinstance(target, Path)

    def show(self, event: Event) -> None:
        for line in caffe_lines(event):
            _write_line(self._stream, glog(line))

    def close(self) -> None:
        if self._owned:
            self._stream.close()


class RunRecord(TrainingLog):
    """JSON lines, appended to a file (`gmnet_pt.log.run_record` has the format).

    Raises:
        OutputError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._stream = _open_to_append(path)

    def show(self, event: Event) -> None:
        if not isinstance(event, Advance):
            _write_line(self._stream, record_line(event))

    def close(self) -> None:
        self._stream.close()


class BarLog(TrainingLog):
    """A bar with loss, rate, test scores and the time left; other news on lines above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._values: dict[str, str] = {}

    @singledispatchmethod
    def show(self, event: Event) -> None:
        pass

    @show.register
    def _(self, event: Start) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=event.net,
            initial=event.iteration,
            total=event.max_iter,
            unit="iter",
            dynamic_ncols=True,
            file=self._stream,
        )

    @show.register
    def _(self, event: Advance) -> None:
        if self._bar is not None:
            self._bar.update(event.iteration - self._bar.n)

    @show.register
    def _(self, event: Display) -> None:
        self._values["loss"] = f"{event.loss:g}"
        if event.rate is not None:
            self._values["lr"] = f"{event.rate:g}"
        self._refresh()

    @show.register
    def _(self, event: Scores) -> None:
        net = f" (net #{event.net})" if event.net else ""
        scores = [(output.name, f"{output.value:g}") for output in event.outputs]
        self._write(
            f"iteration {event.iteration}, test{net}: "
            + ", ".join(f"{name} {value}" for name, value in scores)
        )
        self._values |= {f"test {name}": value for name, value in scores}
        self._refresh()

    @show.register
    def _(self, event: Message) -> None:
        self._write(event.text)

    @show.register
    def _(self, event: Finetune) -> None:
        self._write(f"weights from {event.path}")

    @show.register
    def _(self, event: Resume) -> None:
        self._write(f"resuming from {event.path}")

    @show.register
    def _(self, event: Snapshot) -> None:
        self._write(f"snapshot: {event.model}, {event.state}")

    @show.register
    def _(self, event: Stop) -> None:
        self.close()
        self._write("stopped early" if event.early else "done")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _refresh(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix(self._values)

    def _write(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=self._stream)


class TensorBoardLog(TrainingLog):
    """Losses, rates and scores as TensorBoard scalars under `folder`.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "plots", "TensorBoard output") from error
        self._writer: Any = SummaryWriter(str(folder))

    @singledispatchmethod
    def show(self, event: Event) -> None:
        pass

    @show.register
    def _(self, event: Display) -> None:
        scalars = {f"train/{output.name}": output.value for output in event.outputs}
        scalars["train/loss"] = event.loss
        if event.rate is not None:
            scalars["train/lr"] = event.rate
        self._add(event.iteration, scalars)

    @show.register
    def _(self, event: Scores) -> None:
        self._add(event.iteration, {f"test{event.net}/{o.name}": o.value for o in event.outputs})

    def close(self) -> None:
        self._writer.close()

    def _add(self, iteration: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()


TERMINAL_LOGS: dict[str, Callable[[], TrainingLog]] = {
    "caffe": lambda: CaffeLog(sys.stderr),
    "bar": BarLog,
}


def open_log(
    mode: str | None = None, folder: Path | None = None, tensorboard: bool = False
) -> TrainingLog:
    """The log of a run: `mode` ("caffe", "bar") on stderr; in `folder`, train.log and train.jsonl.

    Without a mode a terminal gets the bar, anything else Caffe's lines.

    Raises:
        OutputError: a file cannot be opened.
        MissingExtraError: `tensorboard` is asked for and not installed.
    """
    logs = [TERMINAL_LOGS[mode or ("bar" if sys.stderr.isatty() else "caffe")]()]
    if folder is not None:
        logs += [CaffeLog(folder / "train.log"), RunRecord(folder / "train.jsonl")]
        if tensorboard:
            logs.append(TensorBoardLog(folder / "tensorboard"))
    return Logs(logs)


def describe_run(solver_text: str, device: str, precision: str) -> Run:
    """The run's first event: the resolved solver, our commit, package versions, the device."""
    packages = ("gmnet-caffe", "torch", "numpy", "protobuf", "lmdb")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    return Run(solver_text, _commit(), versions, device, precision)


def _commit() -> str:
    """The commit of this source tree, with -dirty after edits; empty for an installed package."""
    here = Path(__file__)
    try:
        # Inside somebody else's repository this file is not tracked.
        _git("ls-files", "--error-unmatch", here.name)
        return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    command = ("git", *arguments)
    folder = Path(__file__).parent
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def _open_to_append(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by its log)
        if _ends_in_a_cut_line(path):
            stream.write("\n")
    except OSError as error:
        raise output_error(path, error) from error
    return stream


def _ends_in_a_cut_line(path: Path) -> bool:
    """Whether a run that was killed left half a line."""
    if path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _write_line(stream: TextIO, line: str) -> None:
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(Path(stream.name), error) from error
