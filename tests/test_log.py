"""gmnet_pt.log: our lines against the log that Caffe wrote, records, the bar, several logs."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from converters.errors import MissingExtraError, OutputError
from gmnet_pt.curves import logs_of, newest_log
from gmnet_pt.log import provenance
from gmnet_pt.log.bar import BarLog, _duration, _moment
from gmnet_pt.log.caffe_log import CaffeLog, Line, caffe_lines, glog, parse_caffe_log
from gmnet_pt.log.events import (
    Advance,
    Clip,
    Display,
    Evaluation,
    Event,
    Finetune,
    Message,
    MultiStep,
    Output,
    Resume,
    Run,
    Scores,
    Snapshot,
    Speed,
    Start,
    Stop,
)
from gmnet_pt.log.open_log import Logs, open_log
from gmnet_pt.log.provenance import commit_of
from gmnet_pt.log.run_record import RunRecord, parse_record, record_line
from gmnet_pt.log.runs import separate_runs, set_aside
from gmnet_pt.log.tensorboard import TensorBoardLog
from gmnet_pt.log.training_log import TrainingLog

GOLDEN = Path(__file__).parent / "golden" / "training" / "lenet_sgd_inv"
PREFIX = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ (?=\w+\.[ch]pp:\d+\] )")
SPEED = re.compile(r"\(\S+ iter/s, \S+s/(\d+) iters\)")

EVENTS: list[Event] = [
    Run('type: "SGD"\nbase_lr: 0.01\n', "0" * 40, {"torch": "2.6"}, "cpu", "fp32"),
    Finetune("init.caffemodel"),
    Resume("x_iter_5.solverstate"),
    Start("net", "step", 5, 10),
    Evaluation(5, 1),
    Scores(5, 1, (Output("accuracy", 0.5), Output("loss", 1.25, 2.0)), 2.5),
    Display(5, 1.5, (Output("loss", 1.5, 1.0),), 0.01, Speed(0.25, 2, 2)),
    MultiStep(6, 1),
    Clip(10.0, 2.5),
    Snapshot("x_iter_10.caffemodel", "x_iter_10.solverstate"),
    Display(10, 1.25),
    Message("note", "here.py:3", "W"),
    Stop(early=True),
]


def golden_run() -> list[Event]:
    """What the solver sees during the run of the golden log, from the golden arrays."""
    arrays = np.load(GOLDEN / "golden.npz")
    scores: dict[int, list[Output]] = {}
    rows = zip(arrays["test_iter"], arrays["test_name"], arrays["test_value"], strict=True)
    for iteration, name, value in rows:
        weight = 1.0 if name == "loss" else 0.0
        scores.setdefault(int(iteration), []).append(Output(str(name), float(value), weight))

    def test(iteration: int) -> list[Event]:
        if iteration not in scores:
            return []
        return [Evaluation(iteration, 0), Scores(iteration, 0, tuple(scores[iteration]))]

    events: list[Event] = [Start("lenet_like", "inv", 0, 100)]
    pairs = zip(arrays["train_loss"], arrays["lr"], strict=True)
    for iteration, (loss, rate) in enumerate(pairs):
        outputs = (Output("loss", float(loss), 1.0),)
        speed = Speed(0.5, 1, 1)
        events += test(iteration)
        events.append(Display(iteration, float(loss), outputs, float(rate), speed))
    events.append(Snapshot("snap_iter_100.caffemodel", "snap_iter_100.solverstate"))
    events.append(Display(100, 0.986291))
    return [*events, *test(100), Stop()]


def written(log: CaffeLog, stream: io.StringIO, events: list[Event]) -> list[str]:
    for event in events:
        log.show(event)
    return stream.getvalue().splitlines()


def bare(lines: list[str]) -> list[str]:
    """Lines without the prefix's time and thread, and without the speed."""
    assert all(PREFIX.match(line) for line in lines)
    return [SPEED.sub(r"(speed/\1)", PREFIX.sub("", line)) for line in lines]


def test_our_lines_are_those_that_caffe_wrote() -> None:
    golden = (GOLDEN / "caffe.log").read_text().splitlines()
    first = next(i for i, line in enumerate(golden) if "Starting Optimization" in line)
    expected = [line for line in golden[first:] if "Restarting data prefetching" not in line]
    stream = io.StringIO()
    assert bare(written(CaffeLog(stream), stream, golden_run())) == bare(expected)


def test_the_prefix_is_glogs() -> None:
    line = glog(Line("solver.cpp:239", "text", "W"), datetime(2024, 1, 2, 3, 4, 5, 67))
    assert re.fullmatch(r"W0102 03:04:05\.000067 [ \d]{4}\d+ solver\.cpp:239\] text", line)


def test_lines_that_the_golden_run_has_not() -> None:
    texts = {type(event): [line.text for line in caffe_lines(event)] for event in EVENTS}
    assert texts[Scores] == [
        "Test loss: 2.5",
        "    Test net output #0: accuracy = 0.5",
        "    Test net output #1: loss = 1.25 (* 2 = 2.5 loss)",
    ]
    assert texts[MultiStep] == ["MultiStep Status: Iteration 6, step = 1"]
    assert texts[Clip] == [
        "Gradient clipping: scaling down gradients (L2 norm 10 > 2.5) by scale factor 0.25"
    ]
    assert texts[Run] == [
        'Initializing solver from parameters: \ntype: "SGD"\nbase_lr: 0.01',
    ]
    assert texts[Stop] == ["Optimization stopped early.", "Optimization Done."]
    assert texts[Finetune] == ["Finetuning from init.caffemodel"]
    assert texts[Resume] == ["Resuming from x_iter_5.solverstate"]
    (note,) = caffe_lines(Message("note", "here.py:3", "W"))
    assert glog(note).startswith("W")
    hdf5 = caffe_lines(Snapshot("a.caffemodel.h5", "a.solverstate.h5"))
    assert [line.text for line in hdf5] == [
        "Snapshotting to HDF5 file a.caffemodel.h5",
        "Snapshotting solver state to HDF5 file a.solverstate.h5",
    ]
    assert list(caffe_lines(Advance(3))) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-05"), (123456.7, "123457"), (1e6, "1e+06"), (math.nan, "nan"), (0.1, "0.1")],
)
def test_numbers_have_six_significant_digits(value: float, text: str) -> None:
    (line,) = caffe_lines(Display(1, value))
    assert line.text == f"Iteration 1, loss = {text}"


def test_lines_parse_back() -> None:
    stream = io.StringIO()
    log = CaffeLog(stream)
    written(log, stream, EVENTS)
    kept = [event for event in EVENTS if isinstance(event, Display | Scores)]
    resumed = Resume("x_iter_5.solverstate")
    assert parse_caffe_log(stream.getvalue()) == [resumed, Start("net", "step"), *kept]


def test_a_log_of_an_older_caffe_parses() -> None:
    text = """
I0210 13:39:22.381027 25210 solver.cpp:204] Iteration 100, lr = 0.00992565
I0210 13:39:22.381027 25210 solver.cpp:189] Iteration 100, loss = 0.25
I0210 13:39:22.381027 25210 solver.cpp:464]     Train net output #0: a b = nan
I0210 13:39:22.381027 25210 solver.cpp:464]     Train net output #1: l = 0.5 (* 0.5 = 0.25 loss)
I0210 13:39:22.381027 25210 solver.cpp:204] Iteration 100, lr = 0.5
I0210 13:39:22.381027 25210 solver.cpp:266] Iteration 100, Testing net (#0)
"""
    (event,) = parse_caffe_log(text)
    assert isinstance(event, Display)
    assert (event.iteration, event.loss, event.rate, event.speed) == (100, 0.25, 0.5, None)
    assert event.outputs[1] == Output("l", 0.5, 0.5)
    assert event.outputs[0].name == "a b"
    assert math.isnan(event.outputs[0].value)


def test_a_line_that_was_cut_off_in_a_number_is_passed_over() -> None:
    """The last line of a killed run, or of one that still writes."""
    whole = "I0210 13:39:22.381027 25210 solver.cpp:189] Iteration 100, loss = 0.25\n"
    for cut in ("Iteration 200, loss = 1e-", "Iteration 200, loss = -", "Test loss: 2.5e"):
        assert parse_caffe_log(f"{whole}{whole.split('It')[0]}{cut}") == [Display(100, 0.25)]


def test_several_runs_and_test_nets_are_told_apart() -> None:
    text = "".join(
        f"I0210 13:39:22.381027 25210 solver.cpp:1] {line}\n"
        for run in ("a net", "b")
        for line in (
            f"Solving {run}",
            "Learning Rate Policy: step",
            "Iteration 0, Testing net (#0)",
            "    Test net output #0: x = 1",
            "Iteration 0, Testing net (#1)",
            "    Test net output #0: x = 2",
        )
    )
    assert parse_caffe_log(text) == [
        event
        for run in ("a net", "b")
        for event in (
            Start(run, "step"),
            Scores(0, 0, (Output("x", 1.0),)),
            Scores(0, 1, (Output("x", 2.0),)),
        )
    ]


def test_records_parse_back(tmp_path: Path) -> None:
    path = tmp_path / "made" / "train.jsonl"
    with RunRecord(path) as record:
        for event in [*EVENTS, Advance(3)]:
            record.show(event)
    lines = path.read_text().splitlines()
    assert parse_record(path.read_text()) == EVENTS
    assert len(lines) == len(EVENTS)
    assert all(json.loads(line)["time"] > 1.7e9 for line in lines)


def test_a_record_is_strict_json_even_with_nan() -> None:
    line = record_line(Display(1, math.nan, (Output("x", math.inf),)))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(line, parse_constant=refuse)["loss"] is None
    (event,) = parse_record(line)
    assert isinstance(event, Display)
    assert math.isnan(event.loss)


def test_a_record_that_a_kill_cut_off_goes_on_with_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    whole = record_line(Display(1, 0.5))
    path.write_text(f"{whole}\n{whole[:20]}")
    with RunRecord(path) as record:
        record.show(Display(2, 0.25))
    assert parse_record(path.read_text()) == [Display(1, 0.5), Display(2, 0.25)]


@pytest.mark.parametrize("kind", [CaffeLog, RunRecord])
def test_a_full_disk_and_a_bad_folder_are_clear_errors(
    kind: type[CaffeLog | RunRecord], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/train\.log: cannot be written"):
        kind(tmp_path / "file" / "train.log")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    log = kind(Path("/dev/full"))
    with pytest.raises(OutputError, match="/dev/full: the disk is full"):
        log.show(Stop())


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream as wide as the test says; `last` is what stands in its last line."""

    def last(self) -> str:
        return self.getvalue().split("\r")[-1]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BarLog, "_columns", lambda self: 197)


def test_the_bar_shows_loss_rate_scores_and_progress(wide: None) -> None:
    stream, clock = Terminal(), Clock()
    with BarLog(stream, clock) as bar:
        for event in [*EVENTS[:-1], Advance(7)]:
            bar.show(event)
        clock.now = 1
        bar.show(Display(7, 0.75, (), 0.02, Speed(1, 1, 1)))
        shown = stream.last()
    assert "7/10" in shown
    for part in ("net:", " 70%|", "loss=0.75", "lr=0.02"):
        assert part in shown
    for part in ("test accuracy (net #1)=0.5", "test loss (net #1)=1.25"):
        assert part in shown
    assert "iteration 5, test (net #1): accuracy 0.5, loss 1.25" in stream.getvalue()
    assert "snapshot: x_iter_10.caffemodel, x_iter_10.solverstate" in stream.getvalue()


def test_the_bar_has_the_loss_of_now_and_the_time_left(wide: None) -> None:
    """4 iterations a second from the first on, which is not counted: it has waited for a test."""
    stream, clock = Terminal(), Clock()
    read: list[float] = []

    def loss(value: float) -> Callable[[], float]:
        def reading() -> float:
            read.append(value)
            return value

        return reading

    with BarLog(stream, clock) as bar:
        bar.show(Start("n", "fixed", 0, 4000))
        assert "0/4000 [? left]" in stream.last()
        bar.show(Evaluation(0, 0))
        assert "testing" in stream.last()
        clock.now = 100
        bar.show(Scores(0, 0, (Output("accuracy", 0.125),)))
        clock.now += 1
        bar.show(Advance(1, loss(8)))
        assert "? left, loss=8, test accuracy=0.125" in stream.last()
        bar.show(Display(1, 7.5, rate=0.5))
        for iteration in range(2, 42):
            clock.now += 0.25
            bar.show(Advance(iteration, loss(iteration / 64)))
        # 3959 iterations at 4 a second
        assert "41/4000 [16:30 left, loss=0.640625, test accuracy=0.125, lr=0.5" in stream.last()
        assert "4 iter/s, ends " in stream.last()
        before = len(read)
        for iteration in range(42, 1000):
            bar.show(Advance(iteration, loss(0)))
        # No loss is read, and so no GPU waited for, between two drawings.
        assert len(read) == before
    assert "999/4000" in stream.last()


@pytest.mark.parametrize("columns", [20, 40, 80, 120, 200])
def test_the_bar_fits_and_is_a_bar_at_any_width(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever there is to show: the bar keeps 12 columns, and the line 3 for a ^C."""
    monkeypatch.setattr(os, "get_terminal_size", lambda handle: os.terminal_size((columns, 24)))
    monkeypatch.setattr(Terminal, "fileno", lambda self: 2)
    stream, clock = Terminal(), Clock()
    scores = tuple(Output(f"loss{n}/{{top-{n}}}", n / 7) for n in range(9))
    with BarLog(stream, clock) as bar:
        bar.show(Start("A_Net_With_A_Rather_Long_Name {}", "fixed", 0, 450_000))
        bar.show(Scores(0, 0, scores))
        for iteration in (1, 200_000):
            clock.now += 3600
            bar.show(Advance(iteration, lambda: 1 / 3))
        line = stream.last().rstrip()
        assert len(line) <= max(columns - 3, 12)
        if columns >= 80:
            name, filled, right = re.split(r"\|", line)
            assert len(filled) >= 12 and 0.3 < len(filled.rstrip(" ")) / len(filled) < 0.6
            assert "200000/450000 [1:15:00 left" in right and right.endswith("]")
            assert "A_Net" in name and "44%" in name
        if columns == 200:
            assert "loss=0.333333" in line and "test loss0/{top-0}=0" in line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.4, "0:07"), (754, "12:34"), (3 * 3600, "3:00:00"), (12.125 * 86400, "12 d 3 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


def test_an_end_on_another_day_has_its_date() -> None:
    now = datetime(2024, 12, 31, 22, 30)
    assert _moment(now, 3600) == "23:30"
    assert _moment(now, 7200) == "2025-01-01 00:30"


def test_open_log_writes_log_and_record_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_log(None, tmp_path) as log:
        log.show(Start("net", "fixed"))
    assert "] Solving net\n" in (tmp_path / "train.log").read_text()
    assert parse_record((tmp_path / "train.jsonl").read_text()) == [Start("net", "fixed")]
    # Not a terminal here, so Caffe's lines.
    assert "] Learning Rate Policy: fixed" in capsys.readouterr().err


def names(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir()) if path.is_file()}


def test_logs_of_earlier_runs_are_numbered_together(tmp_path: Path) -> None:
    """The newest is .1; what one of the two lacks leaves a gap, so that numbers stay those of runs.

    Devices and links to them are somebody's arrangement and stay.
    """
    both = ("train.log", "train.jsonl")
    set_aside(tmp_path / "absent", both)
    assert not (tmp_path / "absent").exists()
    for run in "abc":
        set_aside(tmp_path, both)
        (tmp_path / "train.log").write_text(run)
        if run != "b":
            (tmp_path / "train.jsonl").write_text(run.upper())
    assert names(tmp_path) == {
        "train.log": "c",
        "train.log.1": "b",
        "train.log.2": "a",
        "train.jsonl": "C",
        "train.jsonl.2": "A",
    }
    for name in both:
        (tmp_path / name).unlink()
    (tmp_path / "train.log").symlink_to("/dev/full")
    set_aside(tmp_path, both)
    assert (tmp_path / "train.log").is_symlink()
    assert not (tmp_path / "train.log.3").exists()


def test_a_resumed_run_goes_on_in_the_logs_and_a_fresh_one_has_its_own(tmp_path: Path) -> None:
    for resumed in (False, True, False):
        with open_log("caffe", tmp_path, resumed=resumed) as log:
            log.show(Start("net", "fixed"))
    found = names(tmp_path)
    counts = {name: text.count("\n") for name, text in found.items()}
    assert counts == {"train.log": 3, "train.log.1": 6, "train.jsonl": 1, "train.jsonl.1": 2}
    (tmp_path / "train.jsonl.2").mkdir()
    (tmp_path / "train.jsonl.2" / "full").touch()
    with pytest.raises(OutputError, match=r"train\.jsonl\.1: cannot be written"):
        open_log("caffe", tmp_path)


def test_logs_of_a_run_that_never_began_push_nothing_back(tmp_path: Path) -> None:
    """Five failed starts behind a good run: its logs are .1, and those of the last failure go."""
    with open_log("caffe", tmp_path) as log:
        log.show(Start("net", "fixed"))
        log.show(Message("the loss is nan", severity="E"))
    for _ in range(5):
        with pytest.raises(OutputError), open_log("caffe", tmp_path) as log:
            log.show(Run("base_lr: 1"))
            raise OutputError("no such device")
    assert [*names(tmp_path)] == ["train.jsonl", "train.jsonl.1", "train.log", "train.log.1"]
    assert newest_log(tmp_path) == tmp_path / "train.jsonl.1"
    assert logs_of(tmp_path) == [tmp_path / "train.jsonl.1"]
    (tmp_path / "train.jsonl.1").unlink()
    (tmp_path / "train.log.1").unlink()
    assert logs_of(tmp_path) == [tmp_path / "train.jsonl"]


def number(iteration: int) -> Display:
    return Display(iteration, 1.0)


RUN, TEST = Run("base_lr: 1"), Scores(2, 0, (Output("accuracy", 0.5),))
SEPARATED: list[tuple[str, list[list[Event]]]] = [
    ("no start", [[number(0), TEST, number(1)]]),
    ("two fresh ones", [[RUN, Start("n", ""), number(0), Stop()], [RUN, Start("n", ""), TEST]]),
    ("Caffe's lines", [[Start("n", ""), number(0)], [Start("n", ""), number(0), number(1)]]),
    ("resumed", [[RUN, Start("n", ""), number(9), RUN, Resume("s"), Start("n", "", 5), number(5)]]),
    ("Caffe's, resumed", [[Start("n", ""), number(9), Resume("s"), Start("n", ""), number(5)]]),
    ("as in 2014", [[Start("n", ""), number(9), Start("n", ""), Resume("s"), number(5)]]),
    ("our record alone", [[Start("n", ""), number(9), Start("n", "", 5), number(5)]]),
    ("failed before", [[RUN, Message("no"), RUN, Start("n", ""), number(0), RUN, Message("no")]]),
    ("nothing", []),
]


@pytest.mark.parametrize("runs", [runs for _, runs in SEPARATED], ids=[n for n, _ in SEPARATED])
def test_runs_in_one_log_are_told_apart(runs: list[list[Event]]) -> None:
    assert separate_runs([event for run in runs for event in run]) == runs


def test_a_log_without_numbers_has_no_run() -> None:
    assert separate_runs([RUN, Message("no"), Start("n", "")]) == []


def test_the_resumptions_of_caffes_logs_are_read() -> None:
    lines = (
        "caffe.cpp:235] Resuming from a b",
        "solver.cpp:93] Restoring previous solver status from c",
    )
    text = "\n".join(f"I0210 13:39:22.381027 25210 {line}" for line in lines)
    assert parse_caffe_log(text) == [Resume("a b"), Resume("c")]


def test_logs_are_all_told_and_closed() -> None:
    class Kept(TrainingLog):
        def __init__(self) -> None:
            self.seen: list[Event] = []
            self.closed = False

        def show(self, event: Event) -> None:
            self.seen.append(event)

        def close(self) -> None:
            self.closed = True

    both = [Kept(), Kept()]
    with Logs(both) as logs:
        logs.show(Stop())
    assert [(log.seen, log.closed) for log in both] == [([Stop()], True)] * 2


def test_tensorboard_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardLog(tmp_path) as log:
        for event in EVENTS:
            log.show(event)
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in found.Scalars("train/loss")] == [1.5, 1.25]
    assert [e.step for e in found.Scalars("test1/accuracy")] == [5]


def test_tensorboard_missing_prints_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gmnet-caffe\[plots\]'"):
        TensorBoardLog(tmp_path)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_tree(tmp_path: Path) -> None:
    file, foreign = tmp_path / "module.py", tmp_path / "foreign.py"
    file.write_text("one")
    foreign.write_text("not tracked")
    assert commit_of(file) == ""
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "module.py")
    git(tmp_path, "commit", "-q", "-m", "one")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag hides no commit")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert commit_of(file) == commit
    assert commit_of(foreign) == ""
    file.write_text("two")
    assert commit_of(file) == f"{commit}-dirty"


def test_a_run_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def commit(file: Path) -> str:
        asked.append(file)
        return "c" * 40

    monkeypatch.setattr(provenance, "commit_of", commit)
    run = provenance.describe_run("net: 1", "cpu", "fp32")
    assert (run.solver, run.device, run.precision) == ("net: 1", "cpu", "fp32")
    assert run.commit == "c" * 40
    assert asked == [Path(provenance.__file__)]
    assert run.versions["python"] == platform.python_version()
    assert run.versions["torch"] == metadata.version("torch")


def test_an_error_is_kept_in_files_and_left_to_the_terminal(tmp_path: Path) -> None:
    terminal = io.StringIO()
    with (
        pytest.raises(OutputError, match="two"),
        Logs([CaffeLog(terminal)], [CaffeLog(tmp_path / "log")]) as logs,
    ):
        logs.show(Message("said before"))
        raise OutputError("one\n  two")
    said, error = (tmp_path / "log").read_text().splitlines()
    assert said.endswith("] said before")
    assert error.startswith("E")
    assert error.endswith("] one two")
    assert terminal.getvalue().count("\n") == 1


def test_a_line_is_read_by_one() -> None:
    from gmnet_pt.log import caffe_log

    with pytest.raises(ValueError, match="read twice"):
        caffe_log._reads(r"\] Solving (.*)")(lambda events, match: None)
