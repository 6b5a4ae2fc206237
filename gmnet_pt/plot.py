"""`python -m gmnet_pt.plot LOG… OUT.png`: loss and test curves from our logs and from Caffe's.

A LOG is a JSON record (train.jsonl), a text log of any year, or a run's folder. Each run has a
colour, several in one log too; losses are on the left, accuracies on the right with the error in %
beside them. --table prints the best and last scores, with OUT or without.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from converters.command_line.parser import CommandParser
from converters.command_line.program import positive, run_program
from converters.command_line.suffix import form_of
from converters.command_line.table import aligned
from converters.errors import DataError, OutputError, import_extra
from converters.formats.whole_files import written_beside
from gmnet_pt.curves import (
    Curve,
    Curves,
    LoggedRun,
    Score,
    curves,
    is_accuracy,
    newest_log,
    read_log,
    read_runs,
    scores,
    short_names,
)

__all__ = ["Curve", "configure", "curves", "draw", "main", "read_log", "run"]

FORMS = (".png", ".svg", ".pdf")
MOST_CURVES = 500
"""In one panel, where nobody could tell more of them apart."""
_LEGEND = 20
_LONGEST_NAME = 80
_LARGEST = 1e100
"""Beyond it matplotlib's axes overflow."""
_DASHES = ("-", "--", "-.", ":")
_COLOURS = 10
"""Of matplotlib's default cycle."""
AXES = {"iterations": "iteration", "epochs": "epoch", "seconds": "seconds of training"}


class _Panel(NamedTuple):
    """A plot: what its axis is called, and whether a curve belongs there."""

    label: str
    error: bool = False


_LOSS, _ACCURACY, _VALUE = _Panel("loss"), _Panel("accuracy", error=True), _Panel("value")
_PANELS = (_LOSS, _ACCURACY, _VALUE)


def _panel(curve: Curve, points: Mapping[float, float]) -> _Panel:
    if curve.is_loss:
        return _LOSS
    return _ACCURACY if is_accuracy(curve, points.values()) else _VALUE


@dataclass
class _Styles:
    """The looks that are in use: a run's colour, a curve's dashes; and their lines in the legend.

    Curves of one name look the same in every run.
    """

    kinds: dict[Curve, dict[str, Any]] = field(default_factory=dict)
    dashes: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, curve: Curve, panel: _Panel) -> dict[str, Any]:
        """Dashes by the output's name; tests have points and stand out."""
        if curve not in self.kinds:
            count = sum(label == panel.label for label, _ in self.dashes)
            dash = self.dashes.setdefault((panel.label, curve.name), _DASHES[count % len(_DASHES)])
            tested = curve.phase == "test"
            self.kinds[curve] = {
                "linestyle": dash,
                "marker": "o" if tested else None,
                "markersize": 3.5,
                "linewidth": 1.6 if tested else 1.0,
            }
        return self.kinds[curve]


def draw(
    logs: Mapping[str, Curves], out: Path, xlabel: str = "iteration", smooth: float = 0.0
) -> None:
    """Draw all curves of the labelled runs: losses on the left, accuracies and others beside.

    `smooth` is the weight of what came before in the mean that train curves are drawn as; their
    own values stay behind, pale.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: more curves than MOST_CURVES, or what matplotlib cannot draw.
        OutputError: `out` cannot be written, or its format is not one of FORMS.
    """
    form = form_of(out, FORMS)
    figures = import_extra("matplotlib.figure", "matplotlib", "plots", "drawing curves")
    placed: dict[_Panel, dict[str, dict[Curve, Mapping[float, float]]]] = {}
    for label, log in logs.items():
        for curve, points in log.items():
            placed.setdefault(_panel(curve, points), {}).setdefault(label, {})[curve] = points
        for chosen in placed.values():
            if (count := len(chosen.get(label, {}))) > MOST_CURVES:
                raise DataError(f"{label}: {count} curves; at most {MOST_CURVES} are drawn")
    panels = [panel for panel in _PANELS if panel in placed]
    figure = figures.Figure(figsize=(7 * len(panels), 5.5), layout="constrained")
    styles = _Styles()
    colours = {label: f"C{place % _COLOURS}" for place, label in enumerate(logs)}
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for label, log in placed[panel].items():
            prefix = f"{label}: " if len(logs) > 1 else ""
            for curve, points in log.items():
                style = {**styles.of(curve, panel), "color": colours[label]}
                _draw_curve(axes, _printable(f"{prefix}{curve}"), curve, points, style, smooth)
        axes.set(xlabel=xlabel, ylabel=panel.label)
        axes.grid(alpha=0.3)
        if panel.error:
            beside = axes.secondary_yaxis("right", functions=(_error, _accuracy))
            beside.set_ylabel("error, %")
    _draw_legend(figure, colours, styles)
    with written_beside(out) as partial, warnings.catch_warnings(action="ignore"):
        try:
            figure.savefig(partial, format=form[1:], dpi=120)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            raise DataError(f"{out}: matplotlib cannot draw these curves: {error}") from error


def _error(accuracy: Any) -> Any:
    return 100 * (1 - accuracy)


def _accuracy(error: Any) -> Any:
    return 1 - error / 100


def _draw_curve(
    axes: Any,
    label: str,
    curve: Curve,
    points: Mapping[float, float],
    style: Mapping[str, Any],
    smooth: float,
) -> None:
    places = sorted(points)
    values = [v if abs(v := points[i]) <= _LARGEST else math.nan for i in places]
    if smooth and curve.phase == "train":
        axes.plot(places, values, **{**style, "label": "_", "alpha": 0.25, "linewidth": 0.8})
        values = smoothed(values, smooth)
    axes.plot(places, values, label=label, **style)


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Each value's mean with those before, which count `weight`, `weight`², … times as much.

    What is no number is passed over.
    """
    found = []
    total = counted = 0.0
    for value in values:
        if math.isfinite(value):
            total = weight * total + (1 - weight) * value
            counted = weight * counted + (1 - weight)
        found.append(total / counted if math.isfinite(value) else math.nan)
    return found


def _draw_legend(figure: Any, colours: Mapping[str, str], styles: _Styles) -> None:
    """Below the panels: a colour a run where there are several, then a look a curve."""
    lines = import_extra("matplotlib.lines", "matplotlib", "plots", "drawing curves")
    several = len(colours) > 1
    entries = [(label, {"color": c, "linewidth": 5}) for label, c in colours.items() if several]
    ink = "black" if several else "C0"
    entries += [(str(curve), {**style, "color": ink}) for curve, style in styles.kinds.items()]
    shown = entries[:_LEGEND]
    names = [_printable(label) for label, _ in shown]
    longest = max(map(len, names), default=1)
    width = 15 * figure.get_figwidth()  # characters
    legend = figure.legend(
        [lines.Line2D([], [], **style) for _, style in shown],
        names,
        loc="outside lower center",
        ncols=max(1, min(len(names), 6, int(width // (longest + 6)))),
        fontsize="small",
        frameon=False,
        handlelength=3.5,
    )
    if more := len(entries) - len(shown):
        legend.set_title(f"the first {len(shown)}; {more} more are drawn")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name between two dollars is a name


def _printable(name: str) -> str:
    """A name for one line of a picture."""
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def placed_by(run: LoggedRun, axis: str, epoch: int | None = None) -> Curves:
    """The run's curves over `axis`, one of AXES; `epoch` is the iterations of one, if given.

    Raises:
        DataError: the log does not tell what the axis needs.
    """
    if axis == "iterations":
        return run.curves
    if axis == "epochs":
        length = epoch or run.epoch
        if length is None:
            raise DataError(
                f"{run.path}: does not tell how many records an epoch has (a train.jsonl of this "
                "version does); give the iterations of one with --epoch"
            )
        return _moved(run.curves, {i: i / length for log in run.curves.values() for i in log})
    if not run.seconds:
        raise DataError(f"{run.path}: its lines have no times; plot it by iterations")
    return _moved(run.curves, run.seconds)


def _moved(found: Curves, places: Mapping[float, float]) -> Curves:
    return {
        curve: {places[i]: value for i, value in points.items() if i in places}
        for curve, points in found.items()
    }


def to_table(runs: Sequence[LoggedRun]) -> str:
    """The best and last scores of the runs as aligned text; of an accuracy the error in %, too."""
    header = ("run", "score", "best", "iteration", "error %", "last", "iteration", "error %")
    rows = [
        (name if first else "", str(score.curve), *_best_and_last(score))
        for name, run in zip(short_names(runs), runs, strict=True)
        for first, score in _marked(scores(run))
    ]
    return "\n".join(aligned([header, *rows], right=range(2, 8), ruled=True))


def _marked(found: Sequence[Score]) -> list[tuple[bool, Score]]:
    return [(place == 0, score) for place, score in enumerate(found)]


def _best_and_last(score: Score) -> list[str]:
    cells = []
    for point in (score.best, score.last):
        if point is None:
            cells += ["", "", ""]
        else:
            error = f"{_error(point.value):.2f}" if score.is_accuracy else ""
            cells += [f"{point.value:g}", f"{point.iteration:g}", error]
    return cells


def smoothing(text: str) -> float:
    """An argparse type: a weight below 1, or a number of displays whose mean has that weight."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 < number < 1:
        return number
    if number >= 1 and number.is_integer():
        return 1 - 2 / (number + 1)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a weight below 1 nor a whole number")


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    parser.allow_scattered()
    add = parser.add_argument
    files = f"train.jsonl, a log or a run's folder; last the picture: a {', '.join(FORMS)} file"
    add("files", metavar="LOG|OUT", nargs="+", type=Path, help=files)
    add("--x", choices=list(AXES), default="iterations", help="default: iterations")
    length = "iterations an epoch has, for --x epochs of logs that do not tell"
    add("--epoch", type=positive, metavar="N", help=length)
    mean = "draw train curves as a mean: over N displays, or with a weight below 1 (0.9)"
    add("--smooth", type=smoothing, default=0.0, metavar="N", help=mean)
    add("--table", action="store_true", help="print best and last scores; OUT may be left out")


def run(args: argparse.Namespace) -> int:
    """Draw the logs, print their table."""
    *files, last = args.files
    out: Path | None = last
    if args.table and last.suffix.lower() not in FORMS:
        files, out = args.files, None
    if out is not None:
        form_of(out, FORMS)
    if not files:
        raise OutputError(f"{last}: is the picture to write; name the logs before it")
    paths = dict.fromkeys(newest_log(path) for path in files)
    runs = [run for path in paths for run in read_runs(path)]
    for path in dict.fromkeys(run.path for run in runs if run.of > 1):
        count = sum(run.path == path for run in runs)
        print(f"{path}: {count} runs, a curve for each")
    if args.table:
        print(to_table(runs))
    if out is not None:
        placed = [placed_by(run, args.x, args.epoch) for run in runs]
        draw(dict(zip(short_names(runs), placed, strict=True)), out, AXES[args.x], args.smooth)
        count = sum(len(one.curves) for one in runs)
        print(f"{out}: {len(runs)} run{'s' * (len(runs) > 1)}, {count} curve{'s' * (count > 1)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and draw."""
    return run_program("gmnet_pt.plot", __doc__, configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
