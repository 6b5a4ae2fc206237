"""A run as a bar on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import singledispatchmethod
from typing import Any, TextIO

from converters.reporting import escaped, readable, shortened
from gmnet_pt.log.events import (
    Advance,
    Display,
    Evaluation,
    Event,
    Finetune,
    Message,
    Resume,
    Scores,
    Snapshot,
    Start,
    Stop,
)
from gmnet_pt.log.training_log import TrainingLog, require_shown

_EVERY = 0.1
"""Seconds between two drawings."""
_LEAST = 12
"""Columns that the bar itself keeps, whatever else there is to show."""
_LONGEST_NAME = 20
_FREE = 3
"""Columns at the line's end for the ^C that a terminal shows there: it must not begin a line."""


class BarLog(TrainingLog):
    """A bar with the time left, loss, test scores and rate; other news on lines above it.

    The loss is that of the last iteration. What the terminal has no room for is left out, the bar
    never is.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._bar: Any = None
        self._name = ""
        self._loss: Callable[[], float] | None = None
        self._rate = ""
        self._scores: dict[str, str] = {}
        self._testing = False
        self._drawn = -_EVERY
        self._began: tuple[float, int] | None = None  # when the first iteration was done, and it

    def show(self, event: Event) -> None:
        """Raises OutputError or OSError where the terminal went away."""
        self._take(event)
        require_shown(self._stream)

    @singledispatchmethod
    def _take(self, event: Event) -> None:
        pass

    @_take.register
    def _(self, event: Start) -> None:
        from tqdm import tqdm

        self._name = shortened(escaped(event.net), _LONGEST_NAME)
        self._began = None
        self._bar = tqdm(
            initial=event.iteration,
            total=event.max_iter,
            file=self._stream,
            ncols=self._columns(),
            bar_format=self._format(event.iteration, event.max_iter),
            miniters=1,
        )

    @_take.register
    def _(self, event: Advance) -> None:
        if self._bar is None:
            return
        self._bar.n = event.iteration
        self._loss = event.loss or self._loss
        # From behind the first iteration, which may have waited for a test or a compiler.
        self._began = self._began or (self._clock(), event.iteration)
        self._draw()

    @_take.register
    def _(self, event: Display) -> None:
        self._loss = lambda: event.loss
        if event.rate is not None:
            self._rate = f"lr={event.rate:g}"
        self._draw()

    @_take.register
    def _(self, event: Evaluation) -> None:
        self._testing = True
        self._draw(now=True)

    @_take.register
    def _(self, event: Scores) -> None:
        net = f" (net #{event.net})" if event.net else ""
        scores = [(output.name, f"{output.value:g}") for output in event.outputs]
        self._write(
            f"iteration {event.iteration}, test{net}: "
            + ", ".join(f"{name} {value}" for name, value in scores)
        )
        self._testing = False
        self._scores |= {f"test {escaped(name)}{net}": value for name, value in scores}
        self._draw()

    @_take.register
    def _(self, event: Message) -> None:
        self._write(event.text)

    @_take.register
    def _(self, event: Finetune) -> None:
        self._write(f"weights from {event.path}")

    @_take.register
    def _(self, event: Resume) -> None:
        self._write(f"resuming from {event.path}")

    @_take.register
    def _(self, event: Snapshot) -> None:
        self._write(f"snapshot: {event.model}, {event.state}")

    @_take.register
    def _(self, event: Stop) -> None:
        self.close()
        self._write("stopped early" if event.early else "done")

    def close(self) -> None:
        """Draw the bar as it stands for the last time, and end its line."""
        if self._bar is not None:
            self._testing = False
            self._draw(now=True)
            self._bar.close()
            self._bar = None

    def _draw(self, now: bool = False) -> None:
        if self._bar is None or not (now or self._clock() >= self._drawn + _EVERY):
            return
        self._drawn = self._clock()
        self._bar.ncols = self._columns()
        self._bar.bar_format = self._format(self._bar.n, self._bar.total)
        self._bar.refresh()

    def _format(self, iteration: int, total: int) -> str:
        """The line around the bar, in tqdm's form."""
        left = f"{self._name}: {100 * iteration // (total or 1):3d}%|"
        right, room = f"| {iteration}/{total}", self._columns() - _LEAST - len(left)
        for part in self._parts(iteration, total):
            longer = f"{right}, {part}" if "[" in right else f"{right} [{part}"
            right = longer if len(longer) + 1 <= room else right
        closed = f"{right}]" if "[" in right else right
        return "{bar}".join(text.replace("{", "{{").replace("}", "}}") for text in (left, closed))

    def _parts(self, iteration: int, total: int) -> Iterator[str]:
        """What is worth showing, the most first."""
        speed = self._speed(iteration)
        if iteration < total:
            yield f"{_duration((total - iteration) / speed) if speed else '?'} left"
        if self._testing:
            yield "testing"
        if self._loss is not None:
            yield f"loss={self._loss():g}"
        for name, value in self._scores.items():
            yield f"{name}={value}"
        if self._rate:
            yield self._rate
        if speed:
            yield f"{speed:.3g} iter/s"
            if iteration < total:
                with suppress(OverflowError):
                    yield f"ends {_moment(datetime.now(), (total - iteration) / speed)}"

    def _speed(self, iteration: int) -> float:
        """Iterations a second since the first, with the tests between them; 0 if unknown."""
        if self._began is None:
            return 0.0
        since, first = self._began
        passed = self._clock() - since
        return (iteration - first) / passed if passed > 0 else 0.0

    def _columns(self) -> int:
        """The width to draw in, of a terminal that may have changed its own."""
        with suppress(OSError, ValueError):
            return (os.get_terminal_size(self._stream.fileno()).columns or 80) - _FREE
        return 80 - _FREE

    def _write(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(readable(text), file=self._stream)


def _duration(seconds: float) -> str:
    """`0:07`, `12:34`, `3:00:00`; `12 d 3 h` from two days on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _moment(now: datetime, seconds: float) -> str:
    """When that will be: the time, and the day unless it is today."""
    end = now + timedelta(seconds=seconds)
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%Y-%m-%d %H:%M}"
