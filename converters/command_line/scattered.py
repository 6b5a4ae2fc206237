"""Options that stand between positional arguments: `plot a.log --table out.png`.

argparse gives all positional arguments to the first run of them, and refuses the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def allow_scattered(parser: argparse.ArgumentParser) -> None:
    """Let a command of one list of positional arguments take them wherever they stand."""
    parse = parser.parse_known_args

    def parse_known_args(
        args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        given = sys.argv[1:] if args is None else args
        return parse(options_first(parser, given), namespace)

    setattr(parser, "parse_known_args", parse_known_args)  # noqa: B010 (a method, to mypy)


def options_first(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The options with their values, then the others; unchanged where an option is not known."""
    options: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            others += [argument, *rest]
        elif not argument.startswith("-") or argument == "-":
            others.append(argument)
        else:
            name, equals, _ = argument.partition("=")
            action = parser._option_string_actions.get(name)
            if action is None or action.nargs not in (None, 0):
                return list(arguments)
            options.append(argument)
            if action.nargs is None and not equals:
                options += [value for value in [next(rest, None)] if value is not None]
    return [*options, *others]
