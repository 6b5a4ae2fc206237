"""stdout and stderr that never raise: what cannot be shown is dropped, and remembered.

A terminal that went away, a full disk behind `2> file`, a reader that closed its end: none of them
may end work that is under way, or stand before a save. What became of a stream, `failure` tells.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Sink(io.FileIO):
    """An open file that drops what it cannot write, all of it from the first failure on.

    With `ends` a reader that went away is told once: it has seen enough (`| head -1`).
    """

    def __init__(self, number: int, ends: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.failure: OSError | None = None
        self._ends = ends

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        if self.failure is None:
            try:
                written: int | None = super().write(data)
            except OSError as error:
                self.failure = error
                if self._ends and isinstance(error, BrokenPipeError):
                    raise
            else:
                # None: a terminal that does not wait is busy; this piece is lost, the rest is not.
                return size if written is None else written
        return size


class Shielded(io.TextIOWrapper):
    """A text stream over a `_Sink`; a character that its encoding lacks is shown as an escape."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.sink = _Sink(stream.fileno(), ends=name == "stdout")
        self._name = name
        super().__init__(
            io.BufferedWriter(self.sink),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=name == "stderr" or stream.isatty(),
        )

    @property
    def name(self) -> str:
        """`stdout` or `stderr`, for errors."""
        return self._name


@contextmanager
def shielded() -> Iterator[None]:
    """Let `sys.stdout` and `sys.stderr` drop what they cannot show, within the block.

    Streams that somebody has put in their place, as tests do, are left alone.
    """
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or not _is_our_own(stream, name):
            continue
        with suppress(OSError, ValueError):
            stream.flush()
        setattr(sys, name, Shielded(stream, name))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Shielded):
                with suppress(BrokenPipeError):
                    stream.flush()
        sys.stdout, sys.stderr = before


def _is_our_own(stream: TextIO, name: str) -> bool:
    """Whether it is the interpreter's, or what `starting` opened for one that was closed."""
    return stream is getattr(sys, f"__{name}__") or getattr(sys, f"__{name}__") is None


def failure(stream: object) -> OSError | None:
    """Why `stream` shows nothing any more; None for one that does, and for other streams."""
    return stream.sink.failure if isinstance(stream, Shielded) else None
