"""Work in a child process that may end in any way: killed, out of memory, without an end.

A child does one job after another, so that what it imports is imported once; one that ended is
replaced. A child is a fork where that is safe: torch's threads and its GPUs do not survive one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, TypeVar

from converters.errors import CaffeError

Job = TypeVar("Job")
Told = TypeVar("Told")

_DONE = b"done"


class ChildError(CaffeError):
    """A child that ended before its job, or took longer than it may."""


class Apart(Generic[Job, Told]):
    """Does jobs in a child: `work` gives what it tells of one, piece by piece.

    `work`, the jobs and what is told go through pickle. More than `seconds` between two pieces are
    too many.
    """

    def __init__(self, work: Callable[[Job], Iterator[Told]], seconds: float) -> None:
        self._work = work
        self._seconds = seconds
        self._child: BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    def __enter__(self) -> Apart[Job, Told]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()

    def __call__(self, job: Job) -> Iterator[Told]:
        """What the work tells of a job.

        Raises:
            ChildError: how the child ended; the next job has another.
        """
        pipe = self._ready()
        try:
            pipe.send(job)
            while (told := self._next(pipe)) != _DONE:
                yield told
        except (EOFError, OSError) as error:
            raise ChildError(self._how_it_ended()) from error

    def _next(self, pipe: Connection[Any, Any]) -> Any:
        due = time.monotonic() + self._seconds
        while not pipe.poll(max(0.0, due - time.monotonic())):
            if time.monotonic() >= due:
                self._end()
                raise ChildError(f"took longer than {self._seconds:g} s and was ended")
        return pipe.recv()

    def _ready(self) -> Connection[Any, Any]:
        if self._pipe is None:
            context = _context()
            # What was computed before this may have left torch with threads that a fork has not.
            alone = "torch" in sys.modules
            ours, theirs = context.Pipe()
            self._child = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(self._work, theirs, ours, os.getcwd(), alone), daemon=True
            )
            self._child.start()
            theirs.close()
            self._pipe = ours
        return self._pipe

    def _how_it_ended(self) -> str:
        assert self._child is not None
        self._child.join(10)
        status = self._child.exitcode
        self._end()
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            hint = "; too little memory, probably" if name in ("SIGKILL", "SIGABRT") else ""
            return f"ended its process by {name}{hint}"
        return f"ended its process with status {status}; too little memory, probably"

    def _end(self) -> None:
        child, pipe = self._child, self._pipe
        self._child = self._pipe = None
        if pipe is not None:
            pipe.close()
        if child is not None:
            child.kill()
            child.join()


def _context() -> BaseContext:
    torch = sys.modules.get("torch")
    unsafe = sys.platform == "darwin" or (torch is not None and torch.cuda.is_available())
    return multiprocessing.get_context("spawn" if unsafe else "fork")


def _serve(
    work: Callable[[Job], Iterator[Told]],
    pipe: Connection[Any, Any],
    parents: Connection[Any, Any],
    folder: str,
    alone: bool,
) -> None:
    """A child's life: jobs until the parent closes its end, or is gone."""
    parents.close()
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells, and ends this process
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if alone:
        import torch

        torch.set_num_threads(1)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            for told in work(pipe.recv()):
                pipe.send(told)
            pipe.send(_DONE)
