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
from converters.command_line.parser import GLOG, CommandParser
from converters.command_line.progress import tell
from converters.command_line.streams import failure, shielded
from converters.errors import CaffeError
from converters.nearest import known_names
from converters.net.failures import explained
from converters.reporting import readable

EXIT_STATUS = "exit status: 0 done; 1 a clear error; 2 wrong usage; 130 interrupted"
WRONG_USAGE = 2
_BROKEN_PIPE = 141


class Command(NamedTuple):
    """A subcommand, its place in the help and an example.

    `module` has `run(args) -> int`, and `configure(parser)` unless that is in `options`, a module
    which costs less to import: help and completion read it alone.
    """

    module: str
    summary: str
    group: str
    example: str
    options: str = ""

    def parser(self, program: str) -> CommandParser:
        """Its parser, as `program`."""
        home = importlib.import_module(self.options or self.module)
        return command_parser(
            program,
            home.__doc__,
            home.configure,
            getattr(home, "EXIT_STATUS", EXIT_STATUS),
            self.example,
        )

    def run(self, program: str, argv: Sequence[str]) -> int:
        """Parse `argv`, and do it."""
        args = self.parser(program).parse_args(argv)
        return int(importlib.import_module(self.module).run(args))


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


PATHS = (
    "relative paths: those of the command line and of outputs count from the working directory; "
    "those that a file names likewise, as in Caffe, or else from that file's folder (docs/files.md)"
)


def command_parser(
    program: str,
    about: str | None,
    configure: Callable[[CommandParser], None],
    exit_status: str,
    example: str = "",
) -> CommandParser:
    """The parser of one command; its help ends with an example and the exit status."""
    end = f"{PATHS}\n\n{exit_status}" + (f"\n\nexample:\n  {example}" if example else "")
    parser = CommandParser(prog=program, description=about, epilog=end)
    configure(parser)
    parser.without_effect(*GLOG)
    return parser


def run_program(
    program: str,
    about: str | None,
    configure: Callable[[CommandParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
    exit_status: str = EXIT_STATUS,
) -> int:
    """Parse `argv` for a program that is one command, and run it."""

    def main() -> int:
        parser = command_parser(f"python -m {program}", about, configure, exit_status)
        return run(parser.parse_args(argv))

    return run_guarded(main)


def run_subcommand(
    program: str, about: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None
) -> int:
    """Run the one of `commands` that `argv` begins with; only its module is imported.

    `--help`, or `help`, shows all of them.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_guarded(lambda: _run_one(f"python -m {program}", about, commands, arguments))


def overview(program: str, about: str, commands: Mapping[str, Command]) -> str:
    """All commands by their groups, each with a line and an example."""
    width = max(map(len, commands))
    lines = [f"usage: {program} COMMAND …", "", about]
    for group in dict.fromkeys(command.group for command in commands.values()):
        lines += ["", f"{group}:"]
        for name, command in commands.items():
            if command.group == group:
                lines.append(f"  {name:{width}}  {command.summary}")
                lines.append(f"  {'':{width}}    {command.example}")
    return "\n".join([*lines, "", f"`{program} COMMAND --help` tells a command's options."])


def _run_one(
    program: str, about: str, commands: Mapping[str, Command], arguments: list[str]
) -> int:
    match arguments:
        case ["-h" | "-help" | "--help" | "help"]:
            print(overview(program, about, commands))
            return 0
        case []:
            tell(overview(program, about, commands))
            return WRONG_USAGE
        case ["help", name]:
            return _run_one(program, about, commands, [name, "--help"])
        case [name, *rest] if name in commands:
            return commands[name].run(f"{program} {name}", rest)
    tell(f"error: {program}: no command {arguments[0]!r}{known_names(arguments[0], commands)}")
    return WRONG_USAGE
