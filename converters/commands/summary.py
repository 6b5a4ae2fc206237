"""`python -m converters summary NET`: layers, shapes, parameters and multiply-adds as a table."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from converters.command_line.net_options import add_net_options, add_python_option, net_choice
from converters.command_line.table import aligned
from converters.layers.registry import Shape
from converters.net.plan import plan_net
from converters.net.summary import NetSummary, summarize


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("net", help="a net prototxt, of any age")
    parser.add_argument("--weights", help="caffemodels, comma-separated: check that they fit")
    add_net_options(parser)
    add_python_option(parser)
    parser.add_argument("--json", action="store_true", help="the same for machines")


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    choice = net_choice(args)
    summary = summarize(plan_net(choice))
    if choice.weights:
        from converters.net.caffe_net import build_net

        build_net(choice)
    print(json.dumps(asdict(summary), indent=1) if args.json else to_table(summary))
    return 0


def to_table(summary: NetSummary) -> str:
    """The summary as aligned text."""
    header = ("layer", "type", "top shapes", "blob shapes", "parameters", "multiply-adds")
    rows = [
        (
            row.name,
            row.type,
            " ".join(_shape(shape) for shape in row.top_shapes),
            " ".join(_shape(shape) for shape in row.blob_shapes),
            f"{row.learnable_parameters:,}" if row.learnable_parameters else "",
            f"{row.multiply_adds:,}" if row.multiply_adds else "",
        )
        for row in summary.rows
    ]
    lines = list(aligned([header, *rows], right=(4, 5), ruled=True))
    lines.append(
        f"\n{summary.name or 'net'} ({summary.phase}): {len(rows)} layers, "
        f"{summary.parameters:,} parameters, {summary.multiply_adds:,} multiply-adds a batch, "
        f"{summary.multiply_adds_per_item():,} an item"
    )
    return "\n".join(lines)


def _shape(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "scalar"
