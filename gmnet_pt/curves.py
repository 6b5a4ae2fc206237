"""The runs in logs, as curves and scores: `gmnet_pt.plot` draws them, `gmnet_pt.report` lists them.

A log is a JSON record (train.jsonl) or a text log, ours or Caffe's; `gmnet_pt.log.run_record` and
`gmnet_pt.log.caffe_log` read them, `gmnet_pt.log.runs` tells the runs of one log apart.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, singledispatch
from pathlib import Path
from typing import NamedTuple

from converters.errors import DataError
from converters.formats.input_files import require_regular_file
from gmnet_pt.log.caffe_log import timed_caffe_log
from gmnet_pt.log.events import Display, Event, Output, Run, Scores, Start, Stop, Timed
from gmnet_pt.log.open_log import LOG, RECORD
from gmnet_pt.log.run_record import timed_record
from gmnet_pt.log.runs import never_began, separate_runs


class Curve(NamedTuple):
    """One value over the iterations; `phase` is train or test."""

    phase: str
    name: str
    is_loss: bool

    def __str__(self) -> str:
        return f"{self.phase} {self.name}"


Curves = Mapping[Curve, Mapping[float, float]]


def read_log(path: Path) -> list[Event]:
    """The events of a JSON record or of a log in Caffe's form; raises as `timed_log`."""
    return [event for event, _ in timed_log(path)]


def timed_log(path: Path) -> list[Timed]:
    """The events of a JSON record or of a log in Caffe's form, with their times.

    Raises:
        DataError: the file cannot be read, or has neither displays nor tests.
    """
    require_regular_file(path, DataError)
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    events = timed_record(text) if text.startswith("{") else timed_caffe_log(text)
    if not curves(event for event, _ in events):
        raise DataError(
            f"{path}: no losses or tests in it; a log of Caffe's or a train.jsonl was expected"
        )
    return events


def curves(events: Iterable[Event]) -> Curves:
    """What the events tell about losses and outputs; a resumed run overwrites what it repeats."""
    found: dict[Curve, dict[float, float]] = defaultdict(dict)
    for event in events:
        for curve, iteration, value in _points(event):
            found[curve][iteration] = value
    return found


@singledispatch
def _points(event: Event) -> Iterable[tuple[Curve, int, float]]:
    return ()


@_points.register
def _(event: Display) -> Iterable[tuple[Curve, int, float]]:
    yield from _output_points("train", "", event.iteration, event.outputs)
    # After the outputs: the smoothed loss replaces the batch's own.
    yield Curve("train", "loss", True), event.iteration, event.loss


@_points.register
def _(event: Scores) -> Iterable[tuple[Curve, int, float]]:
    net = f" (net #{event.net})" if event.net else ""
    yield from _output_points("test", net, event.iteration, event.outputs)
    if event.test_loss is not None:
        yield Curve("test", f"total loss{net}", True), event.iteration, event.test_loss


def _output_points(
    phase: str, net: str, iteration: int, outputs: Sequence[Output]
) -> Iterable[tuple[Curve, int, float]]:
    for output in outputs:
        yield Curve(phase, output.name + net, output.loss_weight != 0), iteration, output.value


# Runs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoggedRun:
    """A run of a log: its `number` of the log's `of`, from 1 on."""

    path: Path
    number: int
    of: int
    events: tuple[Timed, ...]

    @cached_property
    def curves(self) -> Curves:
        """By iteration."""
        return curves(event for event, _ in self.events)

    @cached_property
    def start(self) -> Start:
        """Its beginning, the latest where it was resumed."""
        starts = [event for event, _ in self.events if isinstance(event, Start)]
        return starts[-1] if starts else Start("", "")

    @property
    def is_finished(self) -> bool:
        """Whether the loop ended at max_iter, which need not be displayed or tested."""
        ends = [event for event, _ in self.events if isinstance(event, Start | Stop)]
        return bool(ends) and ends[-1] == Stop()

    @property
    def epoch(self) -> float | None:
        """The iterations that go through the training data once; None where the log is silent."""
        known = self.start.records and self.start.items
        return self.start.records / self.start.items if known else None

    @cached_property
    def seconds(self) -> Mapping[float, float]:
        """Iterations and the seconds of training until then; pauses and setting up are left out.

        Of what a resumed run repeats, the last time counts.
        """
        found: dict[float, float] = {}
        passed, last, training = 0.0, None, True
        for event, time in self.events:
            if time is None:
                continue
            if isinstance(event, Run | Start):
                training = isinstance(event, Start)
            elif training and last is not None:
                passed += max(0.0, time - last)
            last = time
            if isinstance(event, Display | Scores):
                found[event.iteration] = passed
        return found

    @property
    def speed(self) -> float | None:
        """Iterations a second, from display to display; a display's own seconds leave tests out.

        How many iterations those took, Caffe counts wrongly in its first line.
        """
        iterations, seconds = 0, 0.0
        last: tuple[int, float | None] | None = None
        for event, time in self.events:
            if isinstance(event, Run | Start):
                last = None
            if not isinstance(event, Display):
                continue
            if last is not None and event.iteration > last[0]:
                taken = event.speed.seconds if event.speed else None
                if taken is None and time is not None and last[1] is not None:
                    taken = time - last[1]
                if taken is not None and taken > 0:
                    iterations, seconds = iterations + event.iteration - last[0], seconds + taken
            last = event.iteration, time
        return iterations / seconds if seconds > 0 else None


def read_runs(path: Path) -> list[LoggedRun]:
    """The runs of a log, in its order; raises as `timed_log`."""
    events = timed_log(path)
    rest = iter(events)
    runs = [[next(rest) for _ in run] for run in separate_runs(event for event, _ in events)]
    return [
        LoggedRun(path, number, len(runs), tuple(run)) for number, run in enumerate(runs, start=1)
    ]


_OWN_LOG = re.compile(rf"(?:{re.escape(RECORD)}|{re.escape(LOG)})((?:\.\d+)?)")


def logs_of(path: Path) -> list[Path]:
    """The logs that a path names: of a folder each run's, the earlier ones by number first.

    A run's record stands for its log. Empty where a folder has neither; runs that never began are
    left out where others did.
    """
    if not path.is_dir():
        return [path]
    numbered: dict[int, Path] = {}
    for name in (LOG, RECORD):  # a record replaces the log of its number
        for file in path.glob(f"{name}*"):
            number = re.fullmatch(r"(?:\.(\d+))?", file.name.removeprefix(name))
            if number is not None and file.is_file():
                numbered[int(number[1] or 0)] = file
    logs = [numbered[number] for number in sorted(numbered, reverse=True)]
    return [log for log in logs if not never_began(log)] or logs


def newest_log(path: Path) -> Path:
    """A folder's newest log, as `logs_of` has them; any other path as it is."""
    return (logs_of(path) or [path])[-1]


def short_names(runs: Sequence[LoggedRun]) -> list[str]:
    """As much of the ends of the runs' paths as tells them apart; a record is called by its folder.

    An earlier run's (`train.jsonl.1`) has its number behind that, and of several runs in one log
    each has its own.
    """
    parts = {}
    for path in (run.path for run in runs):
        whole = path.resolve().parts
        own = _OWN_LOG.fullmatch(path.name)
        if own is not None and len(whole) > 2:
            whole = (*whole[:-2], whole[-2] + own[1])
        parts[path] = whole
    ends = (part[-size:] for part in set(parts.values()) for size in range(1, len(part)))
    taken = Counter(ends)
    names = {}
    for path, part in parts.items():
        sizes = (size for size in range(1, len(part)) if taken[part[-size:]] == 1)
        names[path] = "/".join(part[-next(sizes, len(part)) :])
    if len(set(names.values())) < len(names):  # a record and a log of one folder
        names = {path: str(path) for path in names}
    return [
        names[run.path] + (f", run {run.number} of {run.of}" if run.of > 1 else "") for run in runs
    ]


# Scores ------------------------------------------------------------------------------------------

_ACCURACY = re.compile(r"acc(?![a-z])|accuracy|top[-_ @/]?\d|prec(ision)?@\d|^score #0", re.I)
_ERROR = re.compile(r"err", re.I)


def is_accuracy(curve: Curve, values: Iterable[float]) -> bool:
    """Whether it is a share of right answers: called so, and from 0 to 1.

    `score #0` was the accuracy in 2014, when outputs had no names.
    """
    return (
        not curve.is_loss
        and bool(_ACCURACY.search(curve.name))
        and all(0 <= value <= 1 for value in values if not math.isnan(value))
    )


class Point(NamedTuple):
    """A value and its iteration."""

    iteration: float
    value: float


class Score(NamedTuple):
    """A curve's best and last point; there is no best of what is neither accuracy nor loss."""

    curve: Curve
    best: Point | None
    last: Point
    is_accuracy: bool


def scores(run: LoggedRun) -> list[Score]:
    """Best and last of each curve, tests first; losses and errors are best where least."""
    found = []
    for curve, points in run.curves.items():
        in_order = [Point(i, points[i]) for i in sorted(points)]
        accurate = is_accuracy(curve, points.values())
        finite = [point for point in in_order if math.isfinite(point.value)]
        best = None
        if finite and (accurate or curve.is_loss or _ERROR.search(curve.name)):
            # Of equals the first.
            best = (max if accurate else min)(finite, key=lambda point: point.value)
        found.append(Score(curve, best, in_order[-1], accurate))
    return sorted(found, key=lambda score: (score.curve.phase, score.curve.is_loss))
