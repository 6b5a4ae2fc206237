"""argparse that also takes a flag as Caffe's tools do: `-solver=S`, `--sigint_effect stop`.

Commands declare their options on a `CommandParser`, which is the same under `gmnet X` and under
`python -m`. Source: gflags, as `caffe` uses it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from converters.command_line.progress import tell
from converters.nearest import nearest

GLOG = (
    "the log goes to stderr, and a training's to train.log beside its snapshots",
    ("logtostderr", "alsologtostderr", "colorlogtostderr", "log_prefix"),
    ("minloglevel", "stderrthreshold", "log_dir", "v", "vmodule", "logbuflevel", "logbufsecs"),
)
"""Why glog's flags do nothing here; those that are on or off, and those with a value."""

_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs; a line that begins with a blank or `- ` stays a line of its own."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled: list[str] = []
        for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
            lines: list[str] = []
            for line in paragraph.splitlines():
                if not lines or line.startswith((" ", "- ")) or lines[-1].startswith("  "):
                    lines.append(line.rstrip())
                else:
                    lines[-1] = f"{lines[-1]} {line.strip()}"
            for line in lines:
                kept = line.startswith("  ")
                filled.append(line if kept else super()._fill_text(line, width, indent))
            filled.append("")
        return "\n".join(filled[:-1])


def completed(action: argparse.Action, names: Iterable[str]) -> None:
    """Let a shell complete the value of an argument, which may be another one, by `names`."""
    vars(action)["completer"] = lambda **asked: list(names)


class CommandParser(argparse.ArgumentParser):
    """A command's options. What they say together is checked by `afterwards`."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", HelpFormatter)
        super().__init__(**settings)
        self.given: list[str] = []
        self._scattered = False
        self._afterwards: list[Callable[[argparse.Namespace], None]] = []

    def afterwards(self, check: Callable[[argparse.Namespace], None]) -> None:
        """Call `check` with what was parsed; it may change it, call `error`, or raise."""
        self._afterwards.append(check)

    def allow_scattered(self) -> None:
        """Take positional arguments, of one list, between options too: `plot a.log --table b.png`.

        argparse gives the list all of its first stretch, and refuses the others.
        """
        self._scattered = True

    def without_effect(
        self, why: str, switches: Sequence[str] = (), settings: Sequence[str] = ()
    ) -> None:
        """Accept Caffe's flags of these names that mean nothing here, and say so: `why`.

        `switches` are on or off, `settings` take a value. A name that the parser has stays its own.
        """
        group = self.add_argument_group()
        for names, values in ((switches, 0), (settings, 1)):
            for name in names:
                options = [f"--{name.replace('_', '-')}"] + [f"-{name}"] * (len(name) == 1)
                if not any(option in self._option_string_actions for option in options):
                    group.add_argument(
                        *options,
                        action=_WithoutEffect,
                        nargs=values or 0,
                        why=why,
                        dest=argparse.SUPPRESS,
                        help=argparse.SUPPRESS,
                    )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, after Caffe's ways to write a flag were brought to ours."""
        self.given = list(self._spelled(sys.argv[1:] if args is None else args))
        if self._scattered:
            self.given = self._options_first(self.given)
        parsed, rest = super().parse_known_args(self.given, namespace)
        idle: dict[str, list[str]] = vars(parsed).pop(_IDLE, {})
        for why, flags in idle.items():
            tell(f"note: {', '.join(flags)}: no effect here, {why}")
        if not rest:
            for check in self._afterwards:
                check(parsed)
        return parsed, rest

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse; of an option that there is not, the nearest is named."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            option = rest[0].partition("=")[0]
            near = nearest(option, known, 1) if option.startswith("-") else []
            meant = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{meant}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """End with the status of a wrong usage; the help has the options, argparse shows all."""
        formatter = self._get_formatter()
        formatter.add_usage(None, self._get_positional_actions(), [], "usage: ")
        usage = f"{formatter.format_help().strip()}; {self.prog} --help tells the options"
        self.exit(2, f"{usage}\n{self.prog}: error: {message}\n")

    def _options_first(self, arguments: Sequence[str]) -> list[str]:
        """Options with their values, then the rest; unchanged where an option is not known."""
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
                action = self._option_string_actions.get(name)
                if action is None or action.nargs not in (None, 0):
                    return list(arguments)
                options.append(argument)
                if action.nargs is None and not equals:
                    options += [value for value in [next(rest, None)] if value is not None]
        return [*options, *others]

    def _spelled(self, arguments: Sequence[str]) -> Iterator[str]:
        """`arguments` with each flag in the form in which it was declared."""
        for place, argument in enumerate(arguments):
            if argument == "--":
                yield from arguments[place:]
                return
            yield from self._flag(argument)

    def _flag(self, argument: str) -> list[str]:
        known = self._option_string_actions
        found = re.fullmatch(r"(--?)([A-Za-z]\w*(?:-\w+)*)(=.*)?", argument, re.DOTALL)
        if found is None or (found[1] + found[2] in known and found[1] == "-"):
            return [argument]
        name, value = found[2].replace("_", "-"), found[3] or ""
        action = known.get(f"--{name}")
        if action is None:
            off = known.get(f"--{name[2:]}") if name.startswith("no") else None
            return [] if off is not None and off.nargs == 0 and not value else [argument]
        if action.nargs == 0 and value[1:].lower() in (*_TRUE, *_FALSE) and value:
            return [f"--{name}"] if value[1:].lower() in _TRUE else []
        if value == "=" and action.default is None and action.nargs is None:
            return []  # gflags' default of a text is the empty one: --snapshot= gives none
        return [f"--{name}{value}"]


_IDLE = "_without_effect"


class _WithoutEffect(argparse.Action):
    """Notes that the flag was given, and why it does nothing."""

    def __init__(self, *, why: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._why = why

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        idle: dict[str, list[str]] = vars(namespace).setdefault(_IDLE, {})
        idle.setdefault(self._why, []).append(option_string or self.option_strings[0])
