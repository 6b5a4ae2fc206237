"""`python -m gmnet_pt.plot LOG… OUT.png`: loss and test curves from our logs and from Caffe's.

A LOG is a JSON record (train.jsonl) or a text log; `gmnet_pt.log.run_record` and
`gmnet_pt.log.caffe_log` read them.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any, NamedTuple

from converters.command_line.program import run_program
from converters.errors import DataError, OutputError, import_extra
from converters.formats.input_files import require_regular_file
from converters.formats.whole_files import written_beside
from gmnet_pt.log.caffe_log import parse_caffe_log
from gmnet_pt.log.events import Display, Event, Output, Scores
from gmnet_pt.log.run_record import parse_record

FORMATS = (".png", ".svg", ".pdf")
MOST_CURVES = 500
"""In one panel, where nobody could tell more of them apart."""
_LEGEND = 20
_LONGEST_NAME = 80
_LARGEST = 1e100
"""Beyond it matplotlib's axes overflow."""


class Curve(NamedTuple):
    """One value over the iterations; `phase` is train or test."""

    phase: str
    name: str
    is_loss: bool


Curves = Mapping[Curve, Mapping[int, float]]


def read_log(path: Path) -> list[Event]:
    """The events of a JSON record or of a log in Caffe's form.

    Raises:
        DataError: the file cannot be read, or has neither displays nor tests.
    """
    require_regular_file(path, DataError)
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    events = parse_record(text) if text.startswith("{") else parse_caffe_log(text)
    if not curves(events):
        raise DataError(
            f"{path}: no losses or tests in it; a log of Caffe's or a train.jsonl was expected"
        )
    return events


def curves(events: Iterable[Event]) -> Curves:
    """What the events tell about losses and outputs; a resumed run overwrites what it repeats."""
    found: dict[Curve, dict[int, float]] = defaultdict(dict)
    for event in events:
        for curve, iteration, value in _points(event):
            found[curve][iteration] = value
    return found


@singledispatch
def _points(event: Event) -> Iterable[tuple[Curve, int, float]]:
    return ()


@_points.register
def _(event: Display) -> Iterable[tuple[Curve, int, float]]:
    yield from _output_points("train", "", event.iteration, event.outputs)
    # After the outputs: the smoothed loss replaces the batch's own.
    yield Curve("train", "loss", True), event.iteration, event.loss


@_points.register
def _(event: Scores) -> Iterable[tuple[Curve, int, float]]:
    net = f" (net #{event.net})" if event.net else ""
    yield from _output_points("test", net, event.iteration, event.outputs)
    if event.test_loss is not None:
        yield Curve("test", f"total loss{net}", True), event.iteration, event.test_loss


def _output_points(
    phase: str, net: str, iteration: int, outputs: Sequence[Output]
) -> Iterable[tuple[Curve, int, float]]:
    for output in outputs:
        yield Curve(phase, output.name + net, output.loss_weight != 0), iteration, output.value


def draw(logs: Mapping[str, Curves], out: Path) -> None:
    """Draw all curves of the labelled logs: losses on the left, other outputs on the right.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: more curves than MOST_CURVES, or what matplotlib cannot draw.
        OutputError: `out` cannot be written, or its format is not one of FORMATS.
    """
    if out.suffix not in FORMATS:
        raise OutputError(f"{out}: cannot draw as {out.suffix!r}, only as {', '.join(FORMATS)}")
    figures = import_extra("matplotlib.figure", "matplotlib", "plots", "drawing curves")
    panels = sorted({curve.is_loss for log in logs.values() for curve in log}, reverse=True)
    figure = figures.Figure(figsize=(7 * len(panels), 5), layout="constrained")
    for place, is_loss in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for label, log in logs.items():
            prefix = f"{label}: " if len(logs) > 1 else ""
            chosen = {c: points for c, points in log.items() if c.is_loss is is_loss}
            if len(chosen) > MOST_CURVES:
                raise DataError(f"{label}: {len(chosen)} curves; at most {MOST_CURVES} are drawn")
            _draw_panel(axes, prefix, chosen)
        axes.set(xlabel="iteration", ylabel="loss" if is_loss else "value")
        axes.grid(alpha=0.3)
        _draw_legend(axes)
    with written_beside(out) as partial:
        try:
            figure.savefig(partial, format=out.suffix[1:], dpi=120)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            raise DataError(f"{out}: matplotlib cannot draw these curves: {error}") from error


def _draw_panel(axes: Any, prefix: str, log: Curves) -> None:
    for curve, points in log.items():
        iterations = sorted(points)
        values = [v if abs(v := points[i]) <= _LARGEST else math.nan for i in iterations]
        marker = "o" if curve.phase == "test" else None
        name = curve.name
        name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        label = _printable(f"{prefix}{curve.phase} {name}")
        axes.plot(iterations, values, label=label, marker=marker, markersize=4, linewidth=1.2)


def _draw_legend(axes: Any) -> None:
    lines = axes.get_lines()[:_LEGEND]
    legend = axes.legend(lines, [line.get_label() for line in lines], fontsize="small")
    if more := len(axes.get_lines()) - len(lines):
        legend.set_title(f"the first {len(lines)}; {more} more are drawn")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name between two dollars is a name


def _printable(name: str) -> str:
    """A name for one line of a picture."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="train.jsonl or a log")
    parser.add_argument("out", metavar="OUT", type=Path, help=f"a {', '.join(FORMATS)} file")


def run(args: argparse.Namespace) -> int:
    """Draw the logs."""
    draw({str(log): curves(read_log(log)) for log in args.logs}, args.out)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and draw."""
    return run_program("gmnet_pt.plot", __doc__, configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
