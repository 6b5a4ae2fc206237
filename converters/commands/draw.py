"""`python -m converters draw NET OUT`: the net as a picture; OUT is a .svg, .png, .pdf or .dot."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from converters.command_line.net_options import add_net_options, add_python_option, net_choice
from converters.command_line.parser import CommandParser
from converters.command_line.suffix import form_of
from converters.formats.whole_files import written_beside
from converters.net.draw import draw_net, to_dot, to_svg
from converters.net.draw_pages import write_page
from converters.net.plan import NetPlan, plan_net


def _text(of: Callable[[NetPlan], str]) -> Callable[[NetPlan, Path], None]:
    def write(plan: NetPlan, path: Path) -> None:
        path.write_text(of(plan), encoding="utf-8")

    return write


def _page(form: str) -> Callable[[NetPlan, Path], None]:
    return lambda plan, path: write_page(draw_net(plan), path, form)


FORMS: Mapping[str, Callable[[NetPlan, Path], None]] = {
    ".svg": _text(to_svg),
    ".png": _page("png"),
    ".pdf": _page("pdf"),
    ".dot": _text(to_dot),
}
"""What a suffix stands for: how the picture of a plan is written to a path."""


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    parser.add_argument("net", metavar="NET", help="a net prototxt, of any age")
    parser.add_argument("out", metavar="OUT", help=f"a {', '.join(FORMS)} file (.dot: Graphviz's)")
    add_net_options(parser)
    add_python_option(parser)
    parser.without_effect("nets are drawn from top to bottom", (), ["rankdir"])
    parser.without_effect("the picture has neither", ["display_lrm"])


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    write = FORMS[form_of(args.out, FORMS)]
    plan = plan_net(net_choice(args))
    with written_beside(args.out) as path:
        write(plan, path)
    print(f"{args.out}: {len(plan.layers)} layers")
    return 0
