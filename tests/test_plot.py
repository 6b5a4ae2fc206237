"""gmnet_pt.plot: curves out of Caffe's log and our record, and the picture."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_case import START, Written, accuracy

from converters.errors import DataError
from gmnet_pt.curves import LoggedRun, short_names
from gmnet_pt.log.caffe_log import parse_caffe_log, timed_caffe_log
from gmnet_pt.log.events import Display, Output, Resume, Run, Scores, Start
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


def error_of(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
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


# Runs, axes, tables ------------------------------------------------------------------------------


def test_each_run_of_a_log_is_a_curve_and_it_is_said(
    tmp_path: Path, figures: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    log = Written()
    for loss in (3.0, 2.0):
        log.put(Run("net: 'x'"), START, Display(0, loss), Display(10, loss / 2))
    path = log.into(tmp_path / "runs" / "a" / "train.jsonl")
    assert main([str(path.parent), str(tmp_path / "x.png")]) == 0
    said = f"{path}: 2 runs, a curve for each\n{tmp_path / 'x.png'}: 2 runs, 2 curves\n"
    assert capsys.readouterr().out == said
    lines = figures[0].axes[0].get_lines()
    assert [line.get_label() for line in lines] == [
        "a, run 1 of 2: train loss",
        "a, run 2 of 2: train loss",
    ]
    assert [line.get_xydata().tolist() for line in lines] == [
        [[0, 3], [10, 1.5]],
        [[0, 2], [10, 1]],
    ]


def test_a_run_has_one_colour_and_the_legend_is_short(tmp_path: Path, figures: list[Any]) -> None:
    for name in ("one", "two"):
        log = Written().put(START, Display(0, 1.0, (Output("aux", 0.5, 0.3),)), accuracy(0, 0.5))
        log.into(tmp_path / "runs" / name / "train.jsonl")
    logs = [str(tmp_path / "runs" / name / "train.jsonl") for name in ("one", "two")]
    assert main([*logs, str(tmp_path / "x.png")]) == 0
    (figure,) = figures
    colours: dict[str, set[str]] = {}
    for axes in figure.axes:
        assert axes.get_legend() is None  # it would lie on the curves
        for line in axes.get_lines():
            colours.setdefault(line.get_label().split(":")[0], set()).add(line.get_color())
    assert colours == {"one": {"C0"}, "two": {"C1"}}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("one", "two", "train aux", "train loss", "test accuracy")
    ]


def test_the_error_stands_beside_the_accuracy(tmp_path: Path, figures: list[Any]) -> None:
    scores = Scores(5, 0, (Output("acc/top-1", 0.75), Output("psnr", 30.0)))
    log = Written().put(scores, accuracy(10, 0.875)).into(tmp_path / "train.jsonl")
    assert main([str(log), str(tmp_path / "x.png")]) == 0
    shares, others = figures[0].axes
    assert [axes.get_ylabel() for axes in (shares, others)] == ["accuracy", "value"]
    (beside,) = shares.child_axes
    assert beside.get_ylabel() == "error, %"
    low, high = shares.get_ylim()
    assert sorted(beside.get_ylim()) == pytest.approx([100 * (1 - high), 100 * (1 - low)])
    # At the same height.
    assert beside.transData.transform((0, 25))[1] == pytest.approx(
        shares.transData.transform((0, 0.75))[1]
    )
    assert not others.child_axes


def xs(figure: Any) -> list[list[float]]:
    return [line.get_xdata().tolist() for line in figure.axes[0].get_lines()]


def test_curves_over_epochs_and_seconds(
    tmp_path: Path, figures: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty iterations an epoch; neither a pause nor setting up is training."""
    log = Written().put(Run("x"), START, Display(0, 3.0)).put(Display(10, 2.0), after=8.0)
    log.put(Run("x"), after=5000.0).put(Resume("s"), after=30.0)
    log.put(replace(START, iteration=10), after=30.0).put(Display(20, 1.0), after=4.0)
    path = str(log.into(tmp_path / "train.jsonl"))
    out = str(tmp_path / "x.svg")
    for axis in ("iterations", "epochs", "seconds"):
        assert main([path, "--x", axis, out]) == 0
    assert main([path, out, "--x", "epochs", "--epoch", "5"]) == 0
    assert [xs(figure) for figure in figures] == [
        [[0, 10, 20]],
        [[0, 0.5, 1]],
        [[1, 9, 13]],
        [[0, 2, 4]],
    ]
    assert figures[2].axes[0].get_xlabel() == "seconds of training"
    silent = tmp_path / "silent.log"
    silent.write_text("Iteration 5, loss = 0.25\n")
    assert "give the iterations of one with --epoch" in error_of(
        [silent, "--x", "epochs", out], capsys
    )
    assert "have no times" in error_of([silent, "--x", "seconds", out], capsys)


def test_smooth_draws_means_of_train_curves_over_their_own_values(
    tmp_path: Path, figures: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    values = [4.0, 0.0, math.nan, 2.0]
    log = Written().put(*(Display(i, value) for i, value in enumerate(values)))
    log.put(Scores(0, 0, (Output("loss", 9.0, 1.0),)), Scores(3, 0, (Output("loss", 1.0, 1.0),)))
    path, out = str(log.into(tmp_path / "train.jsonl")), str(tmp_path / "x.png")
    # A mean over three has the weight 1/2: (4 + 0·2)/3, (4 + 0·2 + 2·4)/7.
    for weight in ("3", "0.5"):
        assert main([path, "--smooth", weight, out]) == 0
    for figure in figures:
        own, mean, test = figure.axes[0].get_lines()
        np.testing.assert_array_equal(own.get_ydata(), values)
        np.testing.assert_allclose(mean.get_ydata(), [4, 4 / 3, math.nan, 12 / 7])
        assert (own.get_alpha(), mean.get_label()) == (0.25, "train loss")
        assert test.get_ydata().tolist() == [9, 1]
    for wrong in ("x", "0", "-1", "2.5", "nan"):
        with pytest.raises(SystemExit):
            main([path, "--smooth", wrong, out])
        assert "is neither a weight below 1 nor a whole number" in capsys.readouterr().err


def test_the_table_has_best_and_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Written().put(START, accuracy(0, 0.5), accuracy(10, 0.875), accuracy(20, 0.75))
    log.put(Display(0, 0.5), Display(10, math.nan), Display(20, 0.75))
    log.put(Scores(20, 0, (Output("psnr", 30.0),)))
    path = str(log.into(tmp_path / "a" / "train.jsonl"))
    assert main(["--table", path]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == [
        *("run", "score", "best", "iteration", "error", "%", "last", "iteration", "error", "%")
    ]
    assert [row.split() for row in rows] == [
        ["a", "test", "accuracy", "0.875", "10", "12.50", "0.75", "20", "25.00"],
        ["test", "psnr", "30", "20"],
        ["train", "loss", "0.5", "0", "0.75", "20"],
    ]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a"]
    out = tmp_path / "x.png"
    for arguments in ([path, str(out), "--table"], [path, "--table", str(out)]):
        out.unlink(missing_ok=True)
        assert main(arguments) == 0
        assert "test accuracy" in capsys.readouterr().out
        assert out.exists()


def test_the_picture_alone_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "x.png: is the picture to write" in error_of([tmp_path / "x.png"], capsys)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/train.jsonl", "runs/b/train.log"], ["a", "b"]),
        (["runs/a/train.jsonl", "runs/a/train.jsonl.1"], ["a", "a.1"]),
        (["x/bua/one/train.log", "y/bua/one/train.log"], ["x/bua/one", "y/bua/one"]),
        (["caffe.INFO"], ["caffe.INFO"]),
        (["a/train.log", "a/train.jsonl"], ["a/train.log", "a/train.jsonl"]),
    ],
)
def test_runs_are_called_by_what_tells_them_apart(paths: list[str], names: list[str]) -> None:
    assert short_names([LoggedRun(Path(path), 1, 1, ()) for path in paths]) == names


# As real Caffe wrote in 2014, before outputs had names and after.
OF_2014 = """\
I0814 23:59:58.800000  5103 net.cpp:38] Initializing net from parameters:
  data_param {
    source: "mnist-train-leveldb"
  }
    source: "mnist-test-leveldb"
I0814 23:59:58.900000  5103 solver.cpp:41] Solving LeNet
I0814 23:59:58.950000  5103 solver.cpp:106] Iteration 0, Testing net
I0814 23:59:59.500000  5103 solver.cpp:142] Test score #0: 0.1059
I0814 23:59:59.500001  5103 solver.cpp:142] Test score #1: 2.30291
I0814 23:59:59.600000  5103 solver.cpp:237] Iteration 0, lr = 0.01
I0814 23:59:59.700000  5103 solver.cpp:87] Iteration 0, loss = 2.30298
I0815 00:00:01.600000  5103 solver.cpp:237] Iteration 100, lr = 0.00992565
I0815 00:00:01.700000  5103 solver.cpp:87] Iteration 100, loss = 0.284
I0815 00:00:01.800000  5103 solver.cpp:106] Iteration 100, Testing net (#0)
I0815 00:00:02.100000  5103 solver.cpp:142] Test score #0: 0.9471
I0815 00:00:02.100001  5103 solver.cpp:142] Test score #1: 0.17283
I0815 00:00:02.200000  5103 solver.cpp:78] Optimization Done.
"""


def test_a_log_of_2014_is_drawn_and_tabulated(
    tmp_path: Path, figures: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "caffe.INFO"
    log.write_text(OF_2014)
    assert main(["--table", "--x", "seconds", str(log), str(tmp_path / "x.png")]) == 0
    _, _, *rows, said = capsys.readouterr().out.splitlines()
    assert said.endswith("x.png: 1 run, 3 curves")
    assert [row.split() for row in rows] == [
        *[["caffe.INFO", "test", "score", "#0", "0.9471", "100", "5.29", "0.9471", "100", "5.29"]],
        ["test", "score", "#1", "0.17283", "100"],
        ["train", "loss", "0.284", "100", "0.284", "100"],
    ]
    assert parse_caffe_log(OF_2014)[0] == Start("LeNet", "", data="mnist-train-leveldb")
    assert parse_caffe_log(OF_2014)[2] == Display(0, 2.30298)
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["loss", "accuracy", "value"]
    # Over midnight; from the solver's first line on.
    np.testing.assert_allclose(xs(figures[0])[0], [0.8, 2.9])


def test_the_clock_of_a_log_goes_on_over_new_year() -> None:
    text = "".join(
        f"I{day} 10:00:00.5  1 solver.cpp:1] Iteration {i}, loss = 1\n"
        for i, day in enumerate(("1231", "0101", "0229", "1231", "0101"))
    )
    times = [time for _, time in timed_caffe_log(text)]
    days = [(time - times[0]) / 86400 for time in times if time is not None and times[0]]
    assert days == [0, 1, 60, 366, 367]
    stamped = "I20241231 10:00:00 1 x] Iteration 0, loss = 1"
    assert timed_caffe_log(stamped)[0].time == 1735639200
    assert timed_caffe_log(stamped.replace("1231", "1331"))[0].time is None


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
