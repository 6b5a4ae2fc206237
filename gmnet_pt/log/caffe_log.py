"""Caffe's log, written and read: events ↔ its lines.

The texts and the file:line in each prefix are those of Caffe (solver.cpp, solvers/sgd_solver.cpp),
numbers have C++'s six significant digits; tools made for Caffe's logs read what `glog` makes.
Prefix: severity, month and day, time, thread, file:line (glog's format, without the year).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import singledispatch
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

from converters.reporting import escaped, shortened
from gmnet_pt.log.events import (
    Clip,
    Display,
    Evaluation,
    Event,
    Finetune,
    Message,
    MultiStep,
    Output,
    Resume,
    Run,
    Scores,
    Snapshot,
    Speed,
    Start,
    Stop,
    Timed,
)
from gmnet_pt.log.training_log import TrainingLog, open_to_append, write_line

AnyEvent = TypeVar("AnyEvent", bound=Event)


class Line(NamedTuple):
    """A log line without its prefix's time and thread."""

    where: str
    text: str
    severity: str = "I"


def glog(line: Line, now: datetime | None = None) -> str:
    """The line with its prefix: `I1124 10:11:12.123456  1234 solver.cpp:239] text`."""
    time = now or datetime.now()
    thread = threading.get_native_id()
    text = escaped(line.text, keep="\n\t")
    return f"{line.severity}{time:%m%d %H:%M:%S.%f} {thread:5d} {line.where}] {text}"


@singledispatch
def caffe_lines(event: Event) -> Iterator[Line]:
    """What Caffe logs on `event`; nothing for an event that Caffe does not log."""
    return iter(())


@caffe_lines.register
def _(event: Run) -> Iterator[Line]:
    yield Line("solver.cpp:45", f"Initializing solver from parameters: \n{event.solver.rstrip()}")


@caffe_lines.register
def _(event: Message) -> Iterator[Line]:
    yield Line(event.where, event.text, event.severity)


@caffe_lines.register
def _(event: Finetune) -> Iterator[Line]:
    yield Line("solver.cpp:72", f"Finetuning from {event.path}")


@caffe_lines.register
def _(event: Start) -> Iterator[Line]:
    yield Line("caffe.cpp:239", "Starting Optimization")
    yield Line("solver.cpp:289", f"Solving {event.net}")
    yield Line("solver.cpp:290", f"Learning Rate Policy: {event.lr_policy}")


@caffe_lines.register
def _(event: Resume) -> Iterator[Line]:
    yield Line("caffe.cpp:235", f"Resuming from {event.path}")


@caffe_lines.register
def _(event: Display) -> Iterator[Line]:
    if event.speed is None:
        yield Line("solver.cpp:327", f"Iteration {event.iteration}, loss = {event.loss:g}")
    else:
        seconds, iterations, interval = event.speed
        speed = f"{iterations / (seconds or 1):g} iter/s, {seconds:g}s/{interval} iters"
        yield Line(
            "solver.cpp:239", f"Iteration {event.iteration} ({speed}), loss = {event.loss:g}"
        )
    yield from _output_lines("solver.cpp:258", "Train", event.outputs)
    if event.rate is not None:
        yield Line("sgd_solver.cpp:112", f"Iteration {event.iteration}, lr = {event.rate:g}")


@caffe_lines.register
def _(event: MultiStep) -> Iterator[Line]:
    text = f"MultiStep Status: Iteration {event.iteration}, step = {event.step}"
    yield Line("sgd_solver.cpp:50", text)


@caffe_lines.register
def _(event: Clip) -> Iterator[Line]:
    yield Line(
        "sgd_solver.cpp:99",
        f"Gradient clipping: scaling down gradients (L2 norm {event.norm:g} > {event.limit:g}) "
        f"by scale factor {event.limit / event.norm:g}",
    )


@caffe_lines.register
def _(event: Evaluation) -> Iterator[Line]:
    yield Line("solver.cpp:347", f"Iteration {event.iteration}, Testing net (#{event.net})")


@caffe_lines.register
def _(event: Scores) -> Iterator[Line]:
    if event.test_loss is not None:
        yield Line("solver.cpp:401", f"Test loss: {event.test_loss:g}")
    yield from _output_lines("solver.cpp:414", "Test", event.outputs)


@caffe_lines.register
def _(event: Snapshot) -> Iterator[Line]:
    if event.state.endswith(".h5"):
        yield Line("solver.cpp:474", f"Snapshotting to HDF5 file {event.model}")
        text = f"Snapshotting solver state to HDF5 file {event.state}"
        yield Line("sgd_solver.cpp:296", text)
    else:
        yield Line("solver.cpp:464", f"Snapshotting to binary proto file {event.model}")
        text = f"Snapshotting solver state to binary proto file {event.state}"
        yield Line("sgd_solver.cpp:284", text)


@caffe_lines.register
def _(event: Stop) -> Iterator[Line]:
    if event.early:
        yield Line("solver.cpp:311", "Optimization stopped early.")
    else:
        yield Line("solver.cpp:332", "Optimization Done.")
    yield Line("caffe.cpp:250", "Optimization Done.")


def _output_lines(where: str, phase: str, outputs: Iterable[Output]) -> Iterator[Line]:
    for place, output in enumerate(outputs):
        yield Line(where, f"    {phase} net output #{place}: {output_text(output)}")


def output_text(output: Output) -> str:
    """`accuracy = 0.98`, or `loss = 0.5 (* 2 = 1 loss)` for an output with a loss weight."""
    name, value, weight = output
    loss = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
    return f"{name} = {value:g}{loss}"


class CaffeLog(TrainingLog):
    """Caffe's lines with glog's prefix, on a stream or appended to a file.

    Raises:
        OutputError: the file cannot be opened or written.
    """

    def __init__(self, target: TextIO | Path) -> None:
        self._stream = open_to_append(target) if isinstance(target, Path) else target
        self._owned = isinstance(target, Path)

    def show(self, event: Event) -> None:
        for line in caffe_lines(event):
            text = glog(line)
            # A file keeps all of a line; nobody reads ten screens of one name.
            if not self._owned:
                text = "\n".join(map(shortened, text.split("\n")))
            write_line(self._stream, text)

    def close(self) -> None:
        if self._owned:
            self._stream.close()


# A number to its end: that of a line which was cut off in it is none.
_NUMBER = r"([-+]?(?:nan|inf|\d+(?:\.\d+)?(?:e[-+]?\d+)?))(?!\S)"
_LONGEST_LINE = 10_000
_LARGEST = 2**63 - 1
Reader = Callable[[list[Event], re.Match[str]], None]
_READERS: list[tuple[re.Pattern[str], Reader]] = []


def _reads(pattern: str) -> Callable[[Reader], Reader]:
    """Register what the first match of `pattern` in a line adds to the events so far."""

    def register(reader: Reader) -> Reader:
        if any(known.pattern == pattern for known, _ in _READERS):
            raise ValueError(f"log lines {pattern!r} are read twice")
        _READERS.append((re.compile(pattern), reader))
        return reader

    return register


def parse_caffe_log(text: str) -> list[Event]:
    """The starts, resumptions, displays and tests in a log of Caffe's or ours, in order.

    Lines of other kinds, and any prefix, are passed over; the older `Iteration 0, loss = 2.3`, the
    `Test score #0: 0.9` of 2014 and several runs in one file are understood. So are passed over
    lines that are longer than Caffe's, or whose numbers are none.
    """
    return [event for event, _ in timed_caffe_log(text)]


def timed_caffe_log(text: str) -> list[Timed]:
    """The events as `parse_caffe_log`, with their lines' times, which count from any year."""
    events: list[Event] = []
    times: list[float | None] = []
    clock = _Clock()
    source = ""
    for line in text.splitlines():
        # Of the train net's text, which comes first.
        source = source or ("" if (found := _SOURCE.match(line)) is None else found[1])
        for pattern, reader in _READERS if len(line) <= _LONGEST_LINE else ():
            if match := pattern.search(line):
                with suppress(ValueError, OverflowError):
                    reader(events, match)
                if len(events) > len(times):
                    times.append(clock.read(line))
                    if isinstance(start := events[-1], Start):
                        events[-1], source = replace(start, data=source), ""
                break
    # A test that was cut off before its first result has nothing to say.
    return [Timed(*pair) for pair in zip(events, times, strict=True) if not _is_empty(pair[0])]


_SOURCE = re.compile(r'\s+source: "(.{1,1000})"')
_PREFIX = re.compile(r"[IWEF](\d{4})?(\d\d)(\d\d) (\d\d):(\d\d):(\d\d(?:\.\d+)?) ")


class _Clock:
    """The times of glog's prefixes, which newer ones give a year."""

    def __init__(self) -> None:
        self._passed = 0.0  # seconds of the years that ended within the log
        self._last = 0.0

    def read(self, line: str) -> float | None:
        """Seconds since the beginning of 1970, or of some year; None without a prefix."""
        match = _PREFIX.match(line)
        if match is None:
            return None
        year, month, day, hour, minute = (int(part or 0) for part in match.groups()[:5])
        try:
            # Without a year, that of a leap year: every day of any other is one of its own.
            moment = datetime(year or 2000, month, day, tzinfo=UTC).timestamp()
        except ValueError:  # no such day
            return None
        moment += 3600 * hour + 60 * minute + float(match[6]) + self._passed
        if moment < self._last - _YEAR / 2:
            self._passed += _YEAR
            moment += _YEAR
        self._last = moment
        return moment


_YEAR = 366 * 86400.0


def _is_empty(event: Event) -> bool:
    return isinstance(event, Scores) and not event.outputs and event.test_loss is None


@_reads(r"\] Solving (.*)")
def _(events: list[Event], match: re.Match[str]) -> None:
    events.append(Start(match[1], ""))


@_reads(r"\] Learning Rate Policy: (\S+)")
def _(events: list[Event], match: re.Match[str]) -> None:
    _amend(events, Start, lambda start: replace(start, lr_policy=match[1]))


@_reads(r"\] (?:Resuming|Restoring previous solver status) from (.+)")
def _(events: list[Event], match: re.Match[str]) -> None:
    events.append(Resume(match[1]))


@_reads(rf"Iteration (\d+) \((\S+) iter/s, (\S+)s/(\d+) iters?\), loss = {_NUMBER}")
def _(events: list[Event], match: re.Match[str]) -> None:
    seconds = float(match[3])
    speed = Speed(seconds, round(float(match[2]) * (seconds or 1)), _whole(match[4]))
    events.append(Display(_whole(match[1]), float(match[5]), speed=speed))


@_reads(rf"Iteration (\d+), loss = {_NUMBER}")
def _(events: list[Event], match: re.Match[str]) -> None:
    events.append(Display(_whole(match[1]), float(match[2])))


_OUTPUT = rf"net output #\d+: (.+?) = {_NUMBER}(?: \(\* (\S+) = \S+ loss\))?"


@_reads(rf"Train {_OUTPUT}")
def _(events: list[Event], match: re.Match[str]) -> None:
    _amend(events, Display, lambda show: replace(show, outputs=(*show.outputs, _output(match))))


@_reads(rf"Iteration (\d+), lr = {_NUMBER}")
def _(events: list[Event], match: re.Match[str]) -> None:
    # In 2014 it stood before its loss: the latest display is then that of an earlier iteration.
    if events and isinstance(show := events[-1], Display) and show.iteration == _whole(match[1]):
        events[-1] = replace(show, rate=float(match[2]))


@_reads(r"Iteration (\d+), Testing net(?: \(#(\d+)\))?")
def _(events: list[Event], match: re.Match[str]) -> None:
    events.append(Scores(_whole(match[1]), _whole(match[2] or "0"), ()))


@_reads(rf"Test score (#\d+): {_NUMBER}")
def _(events: list[Event], match: re.Match[str]) -> None:
    """As in 2014, when outputs had no names."""
    score = Output(f"score {match[1]}", float(match[2]))
    _amend(events, Scores, lambda test: replace(test, outputs=(*test.outputs, score)))


@_reads(rf"Test loss: {_NUMBER}")
def _(events: list[Event], match: re.Match[str]) -> None:
    _amend(events, Scores, lambda test: replace(test, test_loss=float(match[1])))


@_reads(rf"Test {_OUTPUT}")
def _(events: list[Event], match: re.Match[str]) -> None:
    _amend(events, Scores, lambda test: replace(test, outputs=(*test.outputs, _output(match))))


def _whole(digits: str) -> int:
    """The number, if a run can have it.

    Raises:
        ValueError: it has too many digits.
    """
    if len(digits) > 19 or int(digits) > _LARGEST:
        raise ValueError(digits)
    return int(digits)


def _output(match: re.Match[str]) -> Output:
    return Output(match[1], float(match[2]), float(match[3] or 0))


def _amend(
    events: list[Event], kind: type[AnyEvent], change: Callable[[AnyEvent], AnyEvent]
) -> None:
    """Change the latest event if it is of this kind; otherwise its first line is missing."""
    if events and isinstance(latest := events[-1], kind):
        events[-1] = change(latest)
