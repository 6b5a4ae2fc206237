"""A run as JSON lines: events ↔ text, one object per line.

Each has `event` (the class's name in `gmnet_pt.log.events`), `time` (Unix seconds) and the event's
fields. Numbers that JSON has no form for (NaN, infinities) are null.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gmnet_pt.log.events import Advance, Event, Output, Run, Speed, Timed
from gmnet_pt.log.training_log import TrainingLog, open_to_append, write_line

LARGEST = 2**63 - 1
"""No iteration, and no count of anything, is beyond this."""
_YEAR_9999 = 253402214400


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
    """The events of a record; passes over a line cut off by a kill, and others that are no event.

    Those are unknown events, and known ones with a field missing or of another type.
    """
    return [event for event, _ in timed_record(text)]


def timed_record(text: str) -> list[Timed]:
    """The events as `parse_record`, with their times, which count from 1970."""
    kinds = {kind.__name__: kind for kind in Event.__subclasses__()}
    events = []
    for values in _objects(text):
        kind = kinds.get(str(values.get("event")))
        if kind is None:
            continue
        try:
            known = {
                f.name: _READ[f.type](values[f.name]) for f in fields(kind) if f.name in values
            }
            events.append(Timed(kind(**known), _moment(values)))
        except (TypeError, ValueError, KeyError, OverflowError):
            continue
    return events


def _moment(values: Mapping[str, Any]) -> float | None:
    """When it was; None for what no clock shows."""
    try:
        moment = _float(values["time"])
    except (ValueError, KeyError, OverflowError):
        return None
    return moment if 0 <= moment < _YEAR_9999 else None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines."""
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict):
            yield values


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Output | Speed):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


# The readers of the fields' types raise ValueError (or KeyError, TypeError) for other values.


def _float(value: Any) -> float:
    """A number; null is one that JSON has no form for."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(value)
    return float(value)


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise ValueError(value)
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _outputs(rows: Any) -> tuple[Output, ...]:
    return tuple(
        Output(_str(r["name"]), _float(r["value"]), _float(r["loss_weight"])) for r in rows
    )


def _speed(row: Any) -> Speed | None:
    if row is None:
        return None
    return Speed(_float(row["seconds"]), _int(row["iterations"]), _int(row["interval"]))


def _optional(value: Any) -> float | None:
    return None if value is None else _float(value)


def _texts(values: Any) -> dict[str, str]:
    return {_str(name): _str(value) for name, value in dict(values).items()}


_READ: dict[Any, Callable[[Any], Any]] = {
    "int": _int,
    "float": _float,
    "str": _str,
    "bool": _bool,
    "float | None": _optional,
    "tuple[Output, ...]": _outputs,
    "Speed | None": _speed,
    "Mapping[str, str]": _texts,
}
"""By the types of the events' fields, as `gmnet_pt.log.events` spells them."""


class Session(NamedTuple):
    """One start of a run: when (UTC), and the seconds to the last thing that it told."""

    started: str
    seconds: float


def record_times(text: str) -> list[Session]:
    """The sessions of a record, each from its `Run` to the last event before the next one's."""
    spans: list[list[float]] = []
    for values in _objects(text):
        moment = _moment(values)
        if moment is None or "event" not in values:
            continue
        if values["event"] == Run.__name__ or not spans:
            spans.append([moment, moment])
        spans[-1][1] = moment
    return [
        Session(datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), last - first)
        for first, last in spans
    ]
