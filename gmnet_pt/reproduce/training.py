"""Does one run: `python -m gmnet_pt.train` in a process of its own, followed, stopped and resumed.

The run's log and record are the training's own; what it prints goes to output.txt.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from converters.errors import CaffeError, OutputError
from converters.formats.whole_files import is_about_space, output_error, written_beside
from converters.reporting import Reporter
from gmnet_pt.log.events import Display, Event, Message, Run, Scores
from gmnet_pt.log.open_log import LOG, RECORD
from gmnet_pt.log.provenance import describe_hardware
from gmnet_pt.log.run_record import parse_record, record_times
from gmnet_pt.log.runs import set_aside
from gmnet_pt.reproduce.results import (
    MapNumbers,
    Result,
    Test,
    now,
    options_of,
    result_id,
    write_result,
)
from gmnet_pt.reproduce.runs import FAILED, LAYOUT, RunFolder
from prototxt_gen.audit import net_cost
from prototxt_gen.render import write

OUTPUT = "output.txt"
_LOOK = 0.2  # seconds between two looks at a training
# Of these a run is not to blame: it is taken up again without being asked for.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGINT, signal.SIGHUP)
_DISPLAYS = 20  # an epoch


class FailedRunError(CaffeError):
    """A run ended in an error of its own."""


class Trainer(NamedTuple):
    """How runs are trained: where, until when (a time of `time.monotonic`), and who hears of it.

    `stopped` is asked whether the user wants an end.
    """

    device: str
    reporter: Reporter
    deadline: float | None = None
    stopped: Callable[[], bool] = lambda: False

    def over(self) -> bool:
        """Whether a training has to stop now."""
        return self.stopped() or (self.deadline is not None and time.monotonic() >= self.deadline)


def prepare(folder: RunFolder) -> None:
    """Write the run's prototxts, the same at each call.

    Raises:
        OutputError: they cannot be written.
    """
    write(folder.run.generate(folder.path), force=True)


def commands(folder: RunFolder, device: str) -> list[list[str]]:
    """The two that make the run from nothing: the generator's, and the training's."""
    generated = folder.run.generate(folder.path)
    return [generated.command.split(), ["python", *_arguments(folder, device)]]


def _arguments(folder: RunFolder, device: str) -> list[str]:
    epoch = folder.run.schedule.epoch
    # A snapshot an epoch: a run that is killed loses no more. Some displays, to show how far it is.
    settings = {"snapshot": epoch, "display": max(1, min(100, epoch // _DISPLAYS))}
    return [
        *("-m", "gmnet_pt.train", folder.solver.as_posix()),
        *("--device", device, "--precision", folder.run.precision, "--layout", LAYOUT),
        *("--log", "caffe"),
        *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
    ]


def train(folder: RunFolder, trainer: Trainer, lock: int) -> bool:
    """Train from the newest snapshot on; False if it was stopped before its end.

    The child inherits `lock`, so that the run stays taken while it lives.

    Raises:
        FailedRunError: the training failed; the run's folder holds the reason, too.
        OutputError: the disk is full, or its folder cannot be written: no fault of the run's.
    """
    (folder.path / FAILED).unlink(missing_ok=True)
    prepare(folder)
    snapshots = folder.snapshots()
    resumed = ["--snapshot", snapshots[-1][1].as_posix()] if snapshots else []
    if not resumed:
        # As the training would: here before anybody follows the record.
        set_aside(folder.path, (LOG, RECORD))
    command = [sys.executable, *_arguments(folder, trainer.device), *resumed]
    start = folder.record.stat().st_size if folder.record.exists() else 0
    try:
        with open(folder.path / OUTPUT, "ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[lock],
                # Ctrl-C is ours to answer: the child is told to stop once.
                start_new_session=True,
            )
    except OSError as error:
        raise output_error(folder.path / OUTPUT, error) from error
    with child:
        try:
            _follow(folder, child, trainer, start)
        except KeyboardInterrupt:
            child.kill()
            raise
        except BaseException:
            child.terminate()  # it stops after a snapshot
            raise
    folder.drop_older_snapshots()
    if child.returncode == 0:
        return True
    # The latter where it was told before it had begun.
    if child.returncode in (128 + signal.SIGTERM, -signal.SIGTERM):
        return False
    reason = _reason(folder, child.returncode, start)
    if is_about_space(reason):
        raise OutputError(f"{folder.run}: {reason}")
    if -child.returncode not in _FROM_OUTSIDE:
        with written_beside(folder.path / FAILED) as partial:
            partial.write_text(reason + "\n", encoding="utf-8")
    raise FailedRunError(f"{folder.run}: {reason}; its files are in {folder.path}")


def _follow(
    folder: RunFolder, child: subprocess.Popen[bytes], trainer: Trainer, start: int
) -> None:
    """Show how far a training is until it ends; ask it to stop when it is time."""

    def steps() -> Iterator[int]:
        done = 0
        for event in _events(folder.record, child, trainer, start):
            if isinstance(event, Display | Scores):
                yield from range(done, event.iteration)
                done = max(done, event.iteration)
            if isinstance(event, Scores) and (error := _error(event)) is not None:
                folder.drop_older_snapshots()
                epoch = event.iteration / folder.run.schedule.epoch
                trainer.reporter.note(f"{folder.run}: epoch {epoch:g}, test error {error:.2f} %")

    for _ in trainer.reporter.progress(steps(), str(folder.run), folder.iterations, "iterations"):
        pass


def _events(
    record: Path, child: subprocess.Popen[bytes], trainer: Trainer, start: int
) -> Iterator[Event]:
    """What a training adds to its record, as it does, from byte `start` on."""
    asked = False
    place = start
    ended = False
    while not ended:
        ended = child.poll() is not None
        with suppress(FileNotFoundError), open(record, "rb") as file:
            file.seek(place)
            text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            place += len(whole)
            yield from parse_record(whole.decode("utf-8", errors="replace"))
        if ended:
            return
        if not asked and trainer.over():
            child.send_signal(signal.SIGTERM)
            asked = True
        with suppress(subprocess.TimeoutExpired):
            child.wait(_LOOK)


def _reason(folder: RunFolder, status: int, start: int) -> str:
    """Why a training ended: its own words, or the signal that ended it."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    with suppress(OSError), open(folder.record, "rb") as file:
        file.seek(start)
        events = parse_record(file.read().decode("utf-8", errors="replace"))
        errors = [e.text for e in events if isinstance(e, Message) and e.severity == "E"]
        if errors:
            return errors[-1]
    with suppress(OSError):
        lines = (folder.path / OUTPUT).read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        if said:
            return said[-1].removeprefix("error: ")
    return f"ended with status {status}"


def _error(scores: Scores) -> float | None:
    """100 · (1 - accuracy), in %."""
    for output in scores.outputs:
        if output.name == "accuracy":
            return round(100 * (1 - output.value), 4)
    return None


def is_trained(folder: RunFolder) -> bool:
    """Whether the last iteration was tested: a kill may have come between its snapshot and that.

    Or whoever followed the training was killed, and it went on to its end.
    """
    tests = _tests(parse_record(_record(folder)), folder.run.schedule.epoch)
    return bool(tests) and tests[-1].iteration == folder.iterations


def _record(folder: RunFolder) -> str:
    try:
        return folder.record.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def finish(folder: RunFolder, device: str, maps: Sequence[MapNumbers] = ()) -> Result:
    """The result of a run that was trained to its end; written into its folder.

    Raises:
        FailedRunError: its record has no test of the last iteration.
        OutputError: it cannot be written.
    """
    run = folder.run
    text = _record(folder)
    events = parse_record(text)
    starts = [event for event in events if isinstance(event, Run)]
    sessions = record_times(text)
    tests = _tests(events, run.schedule.epoch)
    if not starts or not tests or tests[-1].iteration != folder.iterations:
        raise FailedRunError(f"{run}: {folder.record} has no test of the last iteration")
    cost = net_cost(run.generate(folder.path).deploy).total
    finished = now()
    result = Result(
        id=result_id(run, finished),
        budget=run.budget.name,
        variant=run.net.variant,
        reading=run.net.reading,
        bu_s=run.net.bu_s,
        dataset=run.dataset,
        seed=run.seed,
        precision=run.precision,
        options=options_of(run),
        epochs=run.schedule.max_iter // run.schedule.epoch,
        iterations=run.schedule.max_iter,
        parameters=cost.parameters,
        depth=cost.depth,
        multiply_adds=cost.multiply_adds,
        tests=tests,
        started=sessions[0].started,
        finished=finished,
        seconds=round(sum(session.seconds for session in sessions), 1),
        sessions=len(sessions),
        commands=tuple(" ".join(command) for command in commands(folder, device)),
        hardware=describe_hardware(device),
        versions=dict(starts[-1].versions),
        commits=tuple(dict.fromkeys(start.commit for start in starts)),
        maps=tuple(maps),
    )
    write_result(result, folder.result)
    return result


def _tests(events: Sequence[Event], epoch: int) -> tuple[Test, ...]:
    """A test an iteration: a resumed run overwrites what it repeats."""
    tests: dict[int, Test] = {}
    shown: float | None = None
    for event in events:
        if isinstance(event, Display):
            shown = event.loss if math.isfinite(event.loss) else None
        elif isinstance(event, Scores) and (error := _error(event)) is not None:
            losses = [output.value for output in event.outputs if output.loss_weight]
            loss = losses[0] if losses and math.isfinite(losses[0]) else None
            place = event.iteration
            tests[place] = Test(round(place / epoch, 4), place, error, loss, shown)
    return tuple(tests[place] for place in sorted(tests))
