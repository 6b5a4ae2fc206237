"""gmnet_pt.plot: curves out of Caffe's log and our record, and the picture."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.errors import DataError
from gmnet_pt.log.caffe_log import parse_caffe_log
from gmnet_pt.log.events import Display, Output, Scores
from gmnet_pt.log.run_record import parse_record, record_line, record_times
from gmnet_pt.plot import Curve, curves, draw, main, read_log

GOLDEN = Path(__file__).parent / "golden" / "training" / "lenet_sgd_inv"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    events = [Display(i, 1 / (i + 1)) for i in range(3)]
    scores = [Scores(2, 1, (Output("accuracy", 0.5), Output("loss", 2.0, 1.0)), 2.0)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(record_line(event) + "\n" for event in [*events, *scores]))
    return path


def test_caffes_log_gives_the_golden_values() -> None:
    found = curves(read_log(GOLDEN / "caffe.log"))
    golden = np.load(GOLDEN / "golden.npz")
    losses = found[Curve("train", "loss", True)]
    # Iteration 100 is the loss after the last update, which the arrays leave out.
    assert list(losses) == list(range(101))
    assert [losses[i] for i in range(100)] == golden["train_loss"].tolist()
    for name in ("accuracy", "loss"):
        chosen = golden["test_name"] == name
        scores = found[Curve("test", name, name == "loss")]
        assert list(scores) == golden["test_iter"][chosen].tolist()
        assert list(scores.values()) == golden["test_value"][chosen].tolist()
    assert len(found) == 3


def test_our_record_gives_its_values(record: Path) -> None:
    found = curves(read_log(record))
    assert dict(found) == {
        Curve("train", "loss", True): {0: 1.0, 1: 0.5, 2: 1 / 3},
        Curve("test", "accuracy (net #1)", False): {2: 0.5},
        Curve("test", "loss (net #1)", True): {2: 2.0},
        Curve("test", "total loss (net #1)", True): {2: 2.0},
    }


def test_a_resumed_run_overwrites_what_it_repeats() -> None:
    events = [Display(1, 4.0), Display(2, 3.0), Display(2, 2.0)]
    assert curves(events)[Curve("train", "loss", True)] == {1: 4.0, 2: 2.0}


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_logs_of_both_kinds_are_drawn(
    suffix: str, magic: bytes, record: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"curves{suffix}"
    assert main([str(GOLDEN / "caffe.log"), str(record), str(out)]) == 0
    assert out.read_bytes().startswith(magic)
    assert out.stat().st_size > 10_000


def test_a_curve_is_a_line_of_the_picture(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: dict[str, list[float]] = {}
    plot = Axes.plot

    def spy(axes: Axes, x: object, y: list[float], **style: object) -> object:
        drawn[str(style["label"])] = y
        return plot(axes, x, y, **style)

    monkeypatch.setattr(Axes, "plot", spy)
    assert main([str(record), str(record.with_suffix(".png"))]) == 0
    assert drawn["train loss"] == [1.0, 0.5, 1 / 3]
    assert drawn["test accuracy (net #1)"] == [0.5]
    assert len(drawn) == 4


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved."""
    from matplotlib.figure import Figure

    saved: list[Figure] = []
    save = Figure.savefig

    def spy(figure: Figure, *args: object, **options: object) -> object:
        saved.append(figure)
        return save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return saved


def test_losses_are_on_the_left_and_each_log_has_its_name(
    record: Path, tmp_path: Path, figures: list[Any]
) -> None:
    golden = GOLDEN / "caffe.log"
    assert main([str(golden), str(record), str(tmp_path / "x.png")]) == 0
    (figure,) = figures
    panels = {
        axes.get_ylabel(): {line.get_label() for line in axes.get_lines()} for axes in figure.axes
    }
    assert list(panels) == ["loss", "accuracy"]
    ours = record.parent.name
    assert panels["loss"] == {
        *(f"caffe.log: {phase} loss" for phase in ("train", "test")),
        *(f"{ours}: {name}" for name in ("train loss", "test loss (net #1)")),
        f"{ours}: test total loss (net #1)",
    }
    assert panels["accuracy"] == {
        "caffe.log: test accuracy",
        f"{ours}: test accuracy (net #1)",
    }
    left, right = (axes.get_position().x0 for axes in figure.axes)
    assert left < right


def test_points_are_joined_by_iteration(tmp_path: Path, figures: list[Any]) -> None:
    """Resumed at 2, with another display interval."""
    log = tmp_path / "train.jsonl"
    events = [Display(0, 3.0), Display(4, 1.0), Display(3, 1.5), Display(6, 0.5)]
    log.write_text("".join(record_line(event) + "\n" for event in events))
    assert main([str(log), str(tmp_path / "x.svg")]) == 0
    (line,) = figures[0].axes[0].get_lines()
    assert line.get_xydata().tolist() == [[0, 3], [3, 1.5], [4, 1], [6, 0.5]]


def test_the_smoothed_loss_wins_over_the_batchs_own() -> None:
    found = curves([Display(5, 0.5, (Output("loss", 2.0, 1.0), Output("other", 3.0)))])
    assert found[Curve("train", "loss", True)] == {5: 0.5}
    assert found[Curve("train", "other", False)] == {5: 3.0}


def error_of(arguments: list[Path], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def test_errors_say_what_was_expected(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    other = tmp_path / "other.txt"
    other.write_bytes(b"\xff\xfe no log")
    assert "other.txt: no losses or tests in it" in error_of([other, out], capsys)
    assert "absent.log: cannot be read" in error_of([tmp_path / "absent.log", out], capsys)
    # A forgotten OUT must not overwrite the last log.
    assert "only as .png, .svg, .pdf" in error_of([record, other], capsys)
    assert other.read_bytes() == b"\xff\xfe no log"
    assert not out.exists()


def test_without_matplotlib_the_install_line_is_printed(
    record: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'gmnet-caffe[plots]'" in error_of([record, Path("x.png")], capsys)


# Damaged logs ------------------------------------------------------------------------------------

GOOD = record_line(Display(5, 0.25)) + "\n"
SCORES = record_line(Scores(5, 0, (Output("accuracy", 0.5),)))
DISPLAY = record_line(Display(7, 0.5))


def changed(line: str, **values: Any) -> str:
    return json.dumps(json.loads(line) | values)


def without(line: str, name: str) -> str:
    return json.dumps({k: v for k, v in json.loads(line).items() if k != name})


OUTPUTS: list[Any] = [
    None,
    3,
    "x",
    {"a": 1},
    [3],
    [{}],
    [{"name": 3, "value": 1, "loss_weight": 0}],
    [{"name": "a", "value": "x", "loss_weight": 0}],
    [{"name": "a", "value": [], "loss_weight": 0}],
    [{"name": "a", "value": 1}],
]
NO_EVENTS = [
    "[" * 100_000,
    '{"a": ' * 100_000,
    "{" * 50,
    "3",
    '"Display"',
    "[]",
    "null",
    "\x00\x01",
    '{"event": ["Display"]}',
    '{"event": 3}',
    '{"event": "Event"}',
    '{"event": "Display"}',
    '{"event": "Display", "iteration": %s, "loss": 1}' % ("9" * 5000),
    '{"event": "Display", "iteration": %s, "loss": 1}' % ("9" * 400),
    '{"event": "Display", "iteration": 1, "loss": %s}' % ("9" * 400),
    *(changed(DISPLAY, iteration=v) for v in (None, "x", 1.5, [], {}, True, 2**63)),
    *(changed(DISPLAY, loss=v) for v in ("x", [], {}, True)),
    *(changed(DISPLAY, speed=v) for v in (3, "x", [1], {}, {"seconds": "x"})),
    *(changed(DISPLAY, rate=v) for v in ("x", [])),
    *(changed(DISPLAY, outputs=v) for v in OUTPUTS),
    *(changed(SCORES, net=v) for v in (None, "x", 0.5)),
    *(changed(SCORES, test_loss=v) for v in ("x", [])),
    *(without(SCORES, v) for v in ("iteration", "net", "outputs")),
    *(without(DISPLAY, v) for v in ("iteration", "loss")),
]


# Numbers: some lines hold the time of now, and every process is to collect the same tests.
@pytest.mark.parametrize("line", NO_EVENTS, ids=range(len(NO_EVENTS)))
def test_a_line_that_is_no_event_is_passed_over(line: str) -> None:
    assert parse_record(GOOD + line + "\n" + GOOD) == [Display(5, 0.25)] * 2


@pytest.mark.parametrize(
    "line",
    [
        "I] Iteration %s, loss = 1" % ("9" * 5000),
        "I] Iteration %s, loss = 1" % ("9" * 25),
        "I] Iteration 3 (x iter/s, 1s/10 iters), loss = 1",
        "I] Iteration 3 (inf iter/s, 1s/10 iters), loss = 1",
        "I] Iteration 3 (1e999 iter/s, nans/10 iters), loss = 1",
        "I] Iteration 3 (1 iter/s, 1.2.3s/10 iters), loss = 1",
        "I] Iteration %s, Testing net (#0)" % ("9" * 5000),
        "I] Iteration 3, Testing net (#%s)" % ("9" * 5000),
        "    Train net output #0: a = 1 (* x = 1 loss)",
        "Train net output #0: " * 100_000,
    ],
    ids=lambda line: line[:50],
)
def test_a_garbled_line_of_caffes_is_passed_over(line: str) -> None:
    good = "I] Iteration 5, loss = 0.25\n"
    assert parse_caffe_log(good + line + "\n" + good) == [Display(5, 0.25)] * 2


@pytest.mark.parametrize(
    "event",
    [
        Display(5, 0.25, (Output("$x$", 1.0), Output(r"$\frac{", 1.0), Output("$", 1.0))),
        Display(5, 0.25, (Output("a\nb\tc\0d", 1.0), Output("\ud800", 1.0), Output("_a", 1.0))),
        Display(5, 0.25, (Output("n" * 100_000, 1.0), Output("", 1.0))),
        Display(10**8, 1e9, (Output("a", 1e308), Output("b", -1e308), Output("c", math.inf))),
        Display(2**62, math.nan, (Output("a", math.nan),)),
        Display(-(2**62), 0.0),
        Display(5, 0.25, tuple(Output(f"o{i}", float(i)) for i in range(100))),
    ],
    ids=lambda event: str(event)[:40],
)
def test_whatever_the_names_and_numbers_are_a_picture_comes(event: Display, tmp_path: Path) -> None:
    draw({"_run": curves([Display(3, 1.0), event])}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_too_many_curves_and_no_regular_files_are_errors(tmp_path: Path) -> None:
    many = Display(5, 0.25, tuple(Output(f"o{i}", 1.0) for i in range(501)))
    with pytest.raises(DataError, match="501 curves; at most 500"):
        draw({"run": curves([many])}, tmp_path / "x.png")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="cannot be read: it is a"):
            read_log(path)


@pytest.mark.parametrize("moment", ["x", [], None, -1, 1e300, 10**400, float("inf")])
def test_times_that_no_clock_shows_are_passed_over(moment: Any) -> None:
    line = json.dumps({"event": "Run", "time": 5})
    (session,) = record_times(f"{line}\n{changed(line, time=moment)}\n" + "[" * 100_000)
    assert session.seconds == 0
