"""What all command lines share: errors become one line and an exit status, Ctrl-C ends quietly.

Nothing that happens to stdout or stderr ends a command before its work is done (`streams`).
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from converters.command_line import starting
from converters.command_line.progress import tell
from converters.command_line.streams import failure, shielded
from converters.errors import CaffeError
from converters.net.failures import explained
from converters.reporting import readable

_BROKEN_PIPE = 141


class Command(NamedTuple):
    """A subcommand: `module` has `configure(parser)` and `run(args) -> int`."""

    module: str
    summary: str


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: raised so that what was begun is removed, as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def run_guarded(main: Callable[[], int]) -> int:
    """Run `main`; print a user's error as one line on stderr and return the exit status.

    0 success; 1 bad input or output, a stdout that takes nothing included; 2 wrong usage
    (argparse); 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP; 141, in silence, where the
    reader of stdout went away.
    """
    with _signals(), shielded():
        try:
            status = _status_of(main)
        except SystemExit:  # argparse, after --help or a wrong usage
            if lost := _lost_output():
                return lost
            raise
        return status or _lost_output()


def _status_of(main: Callable[[], int]) -> int:
    try:
        return explained(main)
    except CaffeError as error:
        tell(f"error: {readable(str(error))}")
        return 1
    except Terminated as ended:
        tell("terminated")
        return 128 + ended.number
    except KeyboardInterrupt:
        tell("interrupted")
        return starting.INTERRUPTED
    except BrokenPipeError:
        return _BROKEN_PIPE


def _lost_output() -> int:
    """The status for what stdout did not take, told once; 0 if it took all."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _BROKEN_PIPE
    error = failure(sys.stdout)
    if error is None:
        return 0
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    tell(f"error: stdout: cannot be written: {error.strerror or error}")
    return 1


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP raise in the block, unless somebody else answers them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    changed = {}
    if signal.getsignal(signal.SIGINT) is starting.leave:
        changed[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            changed[number] = signal.signal(number, _terminate)
    try:
        yield
    finally:
        # After the work, too: while the interpreter ends, Ctrl-C would be a traceback again.
        for number, handler in changed.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the tidying up
    raise Terminated(number)


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def run_program(
    program: str,
    about: str | None,
    configure: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
    exit_status: str = "exit status: 0 done; 1 a clear error; 2 wrong usage; 130 interrupted",
) -> int:
    """Parse `argv` for a program that is one command, and run it."""

    def main() -> int:
        parser = argparse.ArgumentParser(
            prog=f"python -m {program}", description=about, epilog=exit_status
        )
        configure(parser)
        return run(parser.parse_args(argv))

    return run_guarded(main)


def run_subcommand(
    program: str, about: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None
) -> int:
    """Parse `argv` for one of `commands`, import only that command's module, and run it."""

    def main() -> int:
        arguments = list(sys.argv[1:] if argv is None else argv)
        parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
        subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        chosen = arguments[0] if arguments else None
        for name, command in commands.items():
            subparser = subparsers.add_parser(
                name, help=command.summary, description=command.summary
            )
            if name == chosen:
                importlib.import_module(command.module).configure(subparser)
        args = parser.parse_args(arguments)
        return int(importlib.import_module(commands[args.command].module).run(args))

    return run_guarded(main)
