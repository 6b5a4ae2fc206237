"""What a log is, and what logs in files share.

The solver hands its events (`gmnet_pt.log.events`) to the `show` of whatever
`gmnet_pt.log.open_log` made.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self, TextIO

from converters.command_line.streams import failure
from converters.errors import OutputError
from converters.formats.whole_files import output_error
from gmnet_pt.log.events import Event


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


def open_to_append(path: Path) -> TextIO:
    """`path` opened behind its last whole line, its folder made; raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(  # noqa: SIM115 (closed by its log)
            path, "a", encoding="utf-8", errors="backslashreplace", opener=_open
        )
        if _ends_in_a_cut_line(path):
            stream.write("\n")
    except OSError as error:
        raise output_error(path, error) from error
    return stream


def _open(path: str, flags: int) -> int:
    """As `open` does, but a FIFO without a reader is an error and no wait for ever."""
    handle = os.open(path, flags | os.O_NONBLOCK, 0o666)
    os.set_blocking(handle, True)
    return handle


def _ends_in_a_cut_line(path: Path) -> bool:
    """Whether a run that was killed left half a line."""
    if path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def write_line(stream: TextIO, line: str) -> None:
    """Write `line` at once; raises OutputError where it cannot be written."""
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(Path(stream.name), error) from error
    require_shown(stream)


def require_shown(stream: TextIO) -> None:
    """Raise OutputError where `stream` drops what it is given (`command_line.streams`)."""
    error = failure(stream)
    if error is not None:
        raise OutputError(f"{stream.name}: cannot be written: {error.strerror}") from error
