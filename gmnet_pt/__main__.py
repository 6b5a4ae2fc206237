"""`gmnet COMMAND`, `python -m gmnet_pt COMMAND`: all commands by one name.

`gmnet_pt.commands` is the table of them, `gmnet_pt.caffe_tools` finds Caffe's tools by their names,
and the script is `gmnet_pt.console`. Nothing here imports torch: what a command needs, it imports.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress

from converters.command_line.parser import CommandParser
from converters.command_line.program import WRONG_USAGE, overview, run_guarded
from converters.command_line.progress import tell
from converters.nearest import known_names
from converters.version import __version__
from gmnet_pt import caffe_tools
from gmnet_pt.commands import COMMANDS

ABOUT = "Any Caffe net, trained, tested and looked at on PyTorch as Caffe would."
_OF_CAFFE = ("train", "test", "time")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` begins with."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    return run_guarded(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    match arguments:
        case []:
            tell(_help())
            return WRONG_USAGE
        case ["-h" | "-help" | "--help" | "help"]:
            print(_help())
            return 0
        case ["--version" | "-version" | "version"]:
            print(f"gmnet {__version__}")
            return 0
        case ["help", name]:
            return _run([name, "--help"])
        case ["caffe", name, *_] if name in _OF_CAFFE:
            return _run(arguments[1:])
        case ["caffe", *rest]:
            about = f"no command {rest[0]!r}" if rest else "one of its commands is wanted"
            meant = known_names(rest[0] if rest else "", _OF_CAFFE, "here are")
            tell(f"error: caffe: {about}{meant}")
            return WRONG_USAGE
        case [name, *rest] if name in COMMANDS:
            return COMMANDS[name].run(f"gmnet {name}", rest)
        case [name, *rest] if tool := caffe_tools.find_tool(name):
            return _run_tool(tool, rest)
    names = [*COMMANDS, *caffe_tools.TOOLS]
    tell(f"error: gmnet: no command {arguments[0]!r}{known_names(arguments[0], names)}")
    return WRONG_USAGE


def _run_tool(name: str, arguments: list[str]) -> int:
    tool = caffe_tools.TOOLS[name]
    asks = {"-h", "-help", "--help"} & set(arguments)
    ours = ["--help"] if asks else tool.translate(arguments) if tool.translate else None
    if ours is None:
        tell(f"error: {name}: here it is `{tool.use}` (gmnet {tool.command} --help)")
        return WRONG_USAGE
    tell(f"note: {name} is here: {shlex.join(['gmnet', tool.command, *ours])}")
    return COMMANDS[tool.command].run(f"gmnet {tool.command}", ours)


def _help() -> str:
    return f"{overview('gmnet', ABOUT, COMMANDS)}\n\n{caffe_tools.overview()}"


def _complete() -> None:
    """Answer a shell that asks how the line may go on, and end; without argcomplete do nothing."""
    with suppress(ImportError):
        import argcomplete

        argcomplete.autocomplete(_whole_parser(os.environ.get("COMP_LINE", "")))


def _whole_parser(line: str) -> CommandParser:
    """All commands; of the one in `line` its options."""
    words = line.split()
    parser = CommandParser(prog="gmnet", description=ABOUT)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        if words[1:2] == [name]:
            own = command.parser(f"gmnet {name}")
            commands.add_parser(name, help=command.summary, parents=[own], add_help=False)
        else:
            commands.add_parser(name, help=command.summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())
