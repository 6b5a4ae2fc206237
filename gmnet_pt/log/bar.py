"""A run as a bar on a terminal."""

from __future__ import annotations

import sys
from functools import singledispatchmethod
from typing import Any, TextIO

from converters.reporting import escaped, readable
from gmnet_pt.log.events import (
    Advance,
    Display,
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


class BarLog(TrainingLog):
    """A bar with loss, rate, test scores and the time left; other news on lines above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._values: dict[str, str] = {}

    def show(self, event: Event) -> None:
        """Raises OutputError or OSError where the terminal went away."""
        self._draw(event)
        require_shown(self._stream)

    @singledispatchmethod
    def _draw(self, event: Event) -> None:
        pass

    @_draw.register
    def _(self, event: Start) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=escaped(event.net),
            initial=event.iteration,
            total=event.max_iter,
            unit="iter",
            dynamic_ncols=True,
            file=self._stream,
        )

    @_draw.register
    def _(self, event: Advance) -> None:
        if self._bar is not None:
            self._bar.update(event.iteration - self._bar.n)

    @_draw.register
    def _(self, event: Display) -> None:
        self._values["loss"] = f"{event.loss:g}"
        if event.rate is not None:
            self._values["lr"] = f"{event.rate:g}"
        self._refresh()

    @_draw.register
    def _(self, event: Scores) -> None:
        net = f" (net #{event.net})" if event.net else ""
        scores = [(output.name, f"{output.value:g}") for output in event.outputs]
        self._write(
            f"iteration {event.iteration}, test{net}: "
            + ", ".join(f"{name} {value}" for name, value in scores)
        )
        self._values |= {f"test {escaped(name)}": value for name, value in scores}
        self._refresh()

    @_draw.register
    def _(self, event: Message) -> None:
        self._write(event.text)

    @_draw.register
    def _(self, event: Finetune) -> None:
        self._write(f"weights from {event.path}")

    @_draw.register
    def _(self, event: Resume) -> None:
        self._write(f"resuming from {event.path}")

    @_draw.register
    def _(self, event: Snapshot) -> None:
        self._write(f"snapshot: {event.model}, {event.state}")

    @_draw.register
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

        tqdm.write(readable(text), file=self._stream)
