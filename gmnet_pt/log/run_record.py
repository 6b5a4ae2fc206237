"""A run as JSON lines: events ↔ text, one object per line.

Each has `event` (the class's name in `gmnet_pt.log.events`), `time` (Unix seconds) and the event's
fields. Numbers that JSON has no form for (NaN, infinities) are null.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gmnet_pt.log.events import Advance, Event, Output, Run, Speed
from gmnet_pt.log.training_log import TrainingLog, open_to_append, write_line


class RunRecord(TrainingLog):
    """JSON lines, appended to a file.

    Raises:
        OutputError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._stream = open_to_append(path)

    def show(self, event: Event) -> None:
        if not isinstance(event, Advance):
            write_line(self._stream, record_line(event))

    def close(self) -> None:
        self._stream.close()


def record_line(event: Event) -> str:
    """The event as one JSON object, stamped with the time of this call."""
    values = {f.name: _plain(getattr(event, f.name)) for f in fields(event)}
    return json.dumps({"event": type(event).__name__, "time": time.time(), **values})


def parse_record(text: str) -> list[Event]:
    """The events of a record; passes over unknown events and a line cut off by a kill."""
    kinds = {kind.__name__: kind for kind in Event.__subclasses__()}
    events = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        kind = kinds.get(str(values.get("event"))) if isinstance(values, dict) else None
        if kind is not None:
            known = {f.name: values[f.name] for f in fields(kind) if f.name in values}
            events.append(kind(**{k: _READ.get(k, _same)(v) for k, v in known.items()}))
    return events


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Output | Speed):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _outputs(rows: list[dict[str, Any]]) -> tuple[Output, ...]:
    return tuple(Output(r["name"], _number(r["value"]), _number(r["loss_weight"])) for r in rows)


def _speed(row: dict[str, Any] | None) -> Speed | None:
    return None if row is None else Speed(**row)


def _same(value: Any) -> Any:
    return value


_READ: dict[str, Callable[[Any], Any]] = {"loss": _number, "outputs": _outputs, "speed": _speed}


class Session(NamedTuple):
    """One start of a run: when (UTC), and the seconds to the last thing that it told."""

    started: str
    seconds: float


def record_times(text: str) -> list[Session]:
    """The sessions of a record, each from its `Run` to the last event before the next one's."""
    spans: list[list[float]] = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
            kind, moment = values["event"], float(values["time"])
        except (ValueError, KeyError, TypeError):
            continue
        if kind == Run.__name__ or not spans:
            spans.append([moment, moment])
        spans[-1][1] = moment
    return [
        Session(datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), last - first)
        for first, last in spans
    ]
