"""`python -m converters draw NET OUT.svg`: the net as a picture."""

from __future__ import annotations

import argparse

from converters.command_line.net_options import add_net_options, add_python_option, net_choice
from converters.formats.whole_files import written_beside
from converters.net.draw import to_svg
from converters.net.plan import plan_net


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("net", help="a net prototxt, of any age")
    parser.add_argument("out", metavar="OUT.svg")
    add_net_options(parser)
    add_python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    plan = plan_net(net_choice(args))
    with written_beside(args.out) as path:
        path.write_text(to_svg(plan), encoding="utf-8")
    print(f"{args.out}: {len(plan.layers)} layers")
    return 0
