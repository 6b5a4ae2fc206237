"""`python -m converters summary NET|SOLVER`: layers, shapes, parameters, costs and memory.

Of a solver, each of its nets in its state, at its batch.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from converters.command_line.net_options import add_net_options, add_python_option, net_choice
from converters.command_line.table import aligned
from converters.errors import SolverError
from converters.layers.registry import Shape
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.net.solver_nets import test_nets, train_net
from converters.net.summary import NetSummary, SummaryRow, summarize
from converters.prototxt.kind import is_solver
from converters.prototxt.text import read_solver, read_text

SORTS: Mapping[str, Callable[[SummaryRow], Any]] = {
    "name": lambda row: row.name,
    "type": lambda row: row.type,
    "parameters": lambda row: -row.learnable_parameters,
    "multiply-adds": lambda row: -row.multiply_adds,
    "activations": lambda row: -row.activation_bytes,
    "weights": lambda row: -row.weight_bytes,
    "memory": lambda row: -row.bytes,
}
"""What rows can be sorted by; numbers fall."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("net", metavar="NET|SOLVER", help="a net prototxt, of any age, or a solver")
    parser.add_argument("--weights", help="caffemodels, comma-separated: check that they fit")
    add_net_options(parser)
    # A solver has nets of both phases, and says their states.
    parser.set_defaults(phase=None)
    add_python_option(parser)
    parser.add_argument("--sort", choices=list(SORTS), help="the layers (default: as in the net)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the same for machines")
    form.add_argument("--csv", action="store_true", help="the same for spreadsheets; memory: bytes")


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    of_solver = is_solver(read_text(args.net))
    summaries = []
    for choice in _solvers_nets(args) if of_solver else [_net(args)]:
        summary = summarize(plan_net(choice))
        if choice.weights:
            from converters.net.caffe_net import build_net

            build_net(choice)
        if args.sort is not None:
            rows = tuple(sorted(summary.rows, key=SORTS[args.sort]))
            summary = replace(summary, rows=rows)
        summaries.append(summary)
    if args.json:
        found = [asdict(summary) for summary in summaries]
        print(json.dumps(found if of_solver else found[0], indent=1))
    elif args.csv:
        print(to_csv(summaries), end="")
    else:
        print("\n\n".join(map(to_table, summaries)))
    return 0


def _net(args: argparse.Namespace) -> NetChoice:
    choice = net_choice(args)
    return replace(choice, phase=args.phase or "TEST")


def _solvers_nets(args: argparse.Namespace) -> Iterator[NetChoice]:
    """The train net and the test nets of the solver; with --phase those of that one.

    Raises:
        SolverError: it names none; --level or --stage, which are the solver's to say.
    """
    if args.level or args.stage:
        raise SolverError(f"{args.net}: is a solver, which says its nets' level and stages itself")
    solver, path = read_solver(args.net), Path(args.net)
    wanted = net_choice(args)
    for choice in (train_net(solver, path), *test_nets(solver, path)):
        if args.phase in (None, choice.phase):
            yield replace(
                choice,
                weights=wanted.weights,
                input_shapes=wanted.input_shapes,
                allow_python_layers=wanted.allow_python_layers,
                may_write=False,
            )


def to_table(summary: NetSummary) -> str:
    """The summary as aligned text."""
    header = (
        *("layer", "type", "top shapes", "blob shapes", "parameters", "multiply-adds"),
        *("activations", "weights"),
    )
    rows = [
        (
            row.name,
            row.type,
            " ".join(_shape(shape) for shape in row.top_shapes),
            " ".join(_shape(shape) for shape in row.blob_shapes),
            f"{row.learnable_parameters:,}" if row.learnable_parameters else "",
            f"{row.multiply_adds:,}" if row.multiply_adds else "",
            _size(row.activation_bytes) if row.activation_bytes else "",
            _size(row.weight_bytes) if row.weight_bytes else "",
        )
        for row in summary.rows
    ]
    lines = list(aligned([header, *rows], right=(4, 5, 6, 7), ruled=True))
    lines.append(
        f"\n{summary.name or 'net'} ({summary.phase}): {len(rows)} layers, "
        f"{summary.parameters:,} parameters, {summary.multiply_adds:,} multiply-adds a batch, "
        f"{summary.multiply_adds_per_item():,} an item\n"
        f"memory at batch {summary.batch}: activations {_size(summary.activation_bytes)}, "
        f"weights {_size(summary.weight_bytes)}"
    )
    return "\n".join(lines)


def to_csv(summaries: list[NetSummary]) -> str:
    """A row a layer, its net's name and phase before it; memory in bytes."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(
        (
            *("net", "phase", "layer", "type", "top_shapes", "blob_shapes"),
            *("parameters", "statistics", "multiply_adds", "activation_bytes", "weight_bytes"),
        )
    )
    for summary in summaries:
        for row in summary.rows:
            shapes = (" ".join(map(_shape, found)) for found in (row.top_shapes, row.blob_shapes))
            write(
                (
                    *(summary.name, summary.phase, row.name, row.type, *shapes),
                    *(row.learnable_parameters, row.statistics, row.multiply_adds),
                    *(row.activation_bytes, row.weight_bytes),
                )
            )
    return text.getvalue()


def _shape(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _size(size: int) -> str:
    """`512B`, `11.3KiB`, `1.2GiB`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    step = min(len(units) - 1, (size.bit_length() - 1) // 10) if size else 0
    return f"{size / 1024**step:.{1 if step else 0}f}{units[step]}"
