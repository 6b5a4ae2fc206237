"""What all command lines share: errors become one line and an exit status, Ctrl-C ends quietly."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from converters.errors import CaffeError
from converters.net.failures import explained


class Command(NamedTuple):
    """A subcommand: `module` has `configure(parser)` and `run(args) -> int`."""

    module: str
    summary: str


def run_guarded(main: Callable[[], int]) -> int:
    """Run `main`; print a user's error as one line on stderr and return the exit status.

    0 success; 1 bad input or output; 2 wrong usage (argparse); 130 interrupted.
    """
    try:
        return explained(main)
    except CaffeError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


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
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=about, epilog=exit_status
    )
    configure(parser)
    args = parser.parse_args(argv)
    return run_guarded(lambda: run(args))


def run_subcommand(
    program: str, about: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None
) -> int:
    """Parse `argv` for one of `commands`, import only that command's module, and run it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = arguments[0] if arguments else None
    for name, command in commands.items():
        subparser = subparsers.add_parser(name, help=command.summary, description=command.summary)
        if name == chosen:
            importlib.import_module(command.module).configure(subparser)
    args = parser.parse_args(arguments)
    module = importlib.import_module(commands[args.command].module)
    return run_guarded(lambda: int(module.run(args)))
