"""`python -m converters draw NET OUT.svg`: the net as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.draw import to_svg
from converters.files import written_beside
from converters.net_options import add_net_options, parse_shapes
from converters.net_rules import filter_net
from converters.plan import plan_net
from converters.prototxt import read_net


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("net", help="a net prototxt, of any age")
    parser.add_argument("out", metavar="OUT.svg")
    add_net_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    net = filter_net(read_net(args.net), args.phase, args.level, args.stage, args.net)
    shapes = parse_shapes(args.input_shape)
    plan = plan_net(net, args.phase, args.net, shapes, str(Path(args.net).parent))
    with written_beside(args.out) as path:
        path.write_text(to_svg(plan), encoding="utf-8")
    print(f"{args.out}: {len(plan.layers)} layers")
    return 0
