"""The runs in one log, told apart; and the logs of earlier runs, set aside before a new one.

A run that was stopped and resumed is one run. `gmnet_pt.plot` and the tables of runs read these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from converters.formats.whole_files import output_error
from gmnet_pt.log.events import Display, Event, Resume, Run, Scores, Start


def separate_runs(events: Iterable[Event]) -> list[list[Event]]:
    """The events of each run that has a loss or a test, in the log's order.

    A run begins where a solver is told of, or started, and nothing resumed before the first number:
    Caffe's logs of any year, records and logs of ours, and several of them in one file.
    """
    runs: list[list[Event]] = []
    waiting: list[Event] = []  # since the last number
    for event in events:
        waiting.append(event)
        if isinstance(event, Display | Scores):
            at = _beginning(waiting)
            if not runs:
                runs.append([])
            elif at is not None:
                runs[-1] += waiting[:at]
                runs.append([])
                del waiting[:at]
            runs[-1] += waiting
            waiting = []
    if runs:
        runs[-1] += waiting
    return runs


def _beginning(events: Sequence[Event]) -> int | None:
    """Where among the events between two numbers a run begins; None where one goes on."""
    places = [place for place, event in enumerate(events) if isinstance(event, Run | Start)]
    goes_on = any(
        isinstance(event, Resume) or (isinstance(event, Start) and event.iteration > 0)
        for event in events
    )
    return None if goes_on or not places else places[0]


def set_aside(folder: Path, names: Sequence[str]) -> None:
    """Number the logs of earlier runs: NAME becomes NAME.1, what was NAME.1 NAME.2, and so on.

    All names are counted on together, so that the files of one number are of one run. What is no
    regular file (a device, a pipe) is left where it is: somebody has put it there to be written to.
    Logs of a run that never began hold an error alone: they are removed, and push nothing back.

    Raises:
        OutputError: a file cannot be renamed.
    """
    logs = [folder / name for name in names if _is_log(folder / name)]
    if not logs:
        return
    if all(map(never_began, logs)):
        for log in logs:
            try:
                log.unlink()
            except OSError as error:
                raise output_error(log, error) from error
        return
    newest = 1
    while any((folder / f"{name}.{newest}").exists() for name in names):
        newest += 1
    for number in range(newest, 0, -1):
        for name in names:
            older = folder / (f"{name}.{number - 1}" if number > 1 else name)
            if _is_log(older):
                try:
                    older.rename(folder / f"{name}.{number}")
                except OSError as error:
                    raise output_error(older, error) from error


def never_began(log: Path) -> bool:
    """Whether a log, or a record, is of a run that ended with an error before its loop."""
    try:
        if not log.is_file() or log.stat().st_size > _LONGEST_FAILURE:
            return False
        text = log.read_bytes()
    except OSError:
        return False
    return bool(_FAILURE.search(text)) and not _BEGINNING.search(text)


_LONGEST_FAILURE = 1 << 20
_FAILURE = re.compile(rb'^E\d{4} |"severity": "E"', re.M)
_BEGINNING = re.compile(rb'\] (?:Solving|Iteration) |"event": "(?:Start|Display|Scores)"')


def _is_log(path: Path) -> bool:
    """Whether it is a regular file, or a folder of TensorBoard's."""
    return path.is_file() or any(path.glob("events.out.tfevents.*"))
