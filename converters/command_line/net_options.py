"""The options that choose a net's phase, state and input shapes, the same in every command."""

from __future__ import annotations

import argparse

from converters.errors import ShapeError
from converters.layers.registry import Shape
from converters.net.choice import PHASES, NetChoice, weight_files


def add_net_options(parser: argparse.ArgumentParser, phase: str = "TEST") -> None:
    """Declare --phase (by default `phase`), the state and the input shapes."""
    parser.add_argument(
        "--phase", type=str.upper, choices=PHASES, default=phase, help=f"default: {phase}"
    )
    add_state_options(parser)
    add_shape_option(parser)


def add_shape_option(parser: argparse.ArgumentParser) -> None:
    """Declare --input-shape, repeatable."""
    parser.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="BLOB=N,C,H,W",
        help="an input's shape; replaces an absent database; repeatable",
    )


def add_state_options(parser: argparse.ArgumentParser) -> None:
    """Declare --level and --stage."""
    parser.add_argument("--level", type=int, default=0, help="the state's level for include rules")
    add_stage_option(parser)


def add_stage_option(parser: argparse.ArgumentParser) -> None:
    """Declare --stage, repeatable or with commas as in Caffe."""
    parser.add_argument(
        "--stage",
        action="extend",
        type=lambda text: [stage for stage in text.split(",") if stage],
        default=[],
        help="a stage of the state, or several with commas; repeatable",
    )


def add_python_option(parser: argparse.ArgumentParser) -> None:
    """Declare --allow-python-layers."""
    parser.add_argument(
        "--allow-python-layers", action="store_true", help="run the code that Python layers name"
    )


def net_choice(args: argparse.Namespace, phase: str = "TEST", may_write: bool = False) -> NetChoice:
    """The net that the command line names; `phase` counts where there is no option for it.

    Layers that write files do so if `may_write`: where the net is run for what it gives, and not
    to be looked at.

    Raises:
        ShapeError: --input-shape says no shape.
    """
    given = vars(args)
    return NetChoice(
        args.net,
        phase=given.get("phase") or phase,
        level=given.get("level", 0),
        stages=tuple(given.get("stage", ())),
        weights=weight_files(given.get("weights")),
        input_shapes=parse_shapes(given.get("input_shape", [])),
        allow_python_layers=args.allow_python_layers,
        may_write=may_write,
    )


def parse_shapes(settings: list[str]) -> dict[str, Shape]:
    """`data=64,3,32,32` as {"data": (64, 3, 32, 32)}; raises ShapeError for anything else."""
    shapes = {}
    for setting in settings:
        name, _, sizes = setting.partition("=")
        try:
            shapes[name] = tuple(int(size) for size in sizes.split(","))
        except ValueError as error:
            raise ShapeError(f"--input-shape {setting}: use BLOB=N,C,H,W, whole numbers") from error
    return shapes
