"""The first moment of a command, before what takes long to import: torch, numpy, matplotlib.

A module that `python -m` runs calls `begin` before its other imports. Nothing heavy may be imported
here; `converters.command_line.program` takes over once the command runs.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


def begin() -> None:
    """Make Ctrl-C an end in one word, give closed streams a place, and look where we are.

    Exits with status 1 where the working directory was deleted: libraries end in errors of their
    own there, some of them fatal.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
        # The last thing before Python takes its handlers away: all is done, and an end by the
        # signal would say otherwise.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    _open_closed_streams()
    _wait_asleep()
    try:
        os.getcwd()
    except OSError as error:
        say(
            f"error: the working directory cannot be used ({error.strerror}): it was deleted or "
            "moved away; change to one that exists"
        )
        os._exit(1)


def _wait_asleep() -> None:
    """Let threads of a parallel loop look a short while for the others' end, and sleep then.

    OpenMP's own default is to look for milliseconds. Where other processes want the same cores,
    that takes the time from the very thread that is waited for. Read once, when torch loads OpenMP;
    what the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def leave(number: int, frame: FrameType | None) -> None:
    """End at once; an exception would pass through libraries that make something else of it."""
    say("interrupted")
    os._exit(INTERRUPTED)


def say(line: str) -> None:
    """A line on stderr, whatever state Python's own streams are in."""
    with suppress(OSError):  # nobody is there to read it
        os.write(2, f"{line}\n".encode())


def _open_closed_streams() -> None:
    """Keep the numbers 0 to 2 from files that are opened later: libraries print there.

    What is opened instead refuses to be written, so that output is not lost in silence.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_WRONLY if name == "stdin" else os.O_RDONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            mode = "r" if name == "stdin" else "w"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 (it stays)
            setattr(sys, name, stream)
