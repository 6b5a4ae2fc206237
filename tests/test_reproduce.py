"""The paper's runs: which are needed; done once, stopped, killed, shared, failed, missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converters.errors import DataError, OutputError, SolverError
from converters.formats.locks import inherited_lock
from converters.reporting import SILENT
from gmnet_pt.reproduce import work as working
from gmnet_pt.reproduce.__main__ import main
from gmnet_pt.reproduce.budgets import find_budget
from gmnet_pt.reproduce.experiments import (
    BASELINE,
    BASELINE_GROUPED,
    BUA,
    BUB,
    EXHIBITS,
    FIGURE_3,
    FIGURE_4,
    FIGURE_5,
    TABLE_2,
    TABLE_3,
    Net,
)
from gmnet_pt.reproduce.results import (
    RESULTS,
    keep,
    read_result,
    read_results,
    write_result,
)
from gmnet_pt.reproduce.runs import Run, RunFolder, Selection, State
from gmnet_pt.reproduce.training import Trainer
from gmnet_pt.reproduce.work import Work
from prototxt_gen.audit import net_cost
from tests import tiny_reproduce
from tests.report_case import result
from tests.tiny_reproduce import OURS

PROGRAM = Path(tiny_reproduce.__file__)
TINY, KEPT, LONG = OURS
LAST = "bu_e/au/conv1x1"


@pytest.fixture(autouse=True)
def tiny_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_reproduce.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command answers signals; afterwards they mean what they meant."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def reproduce(*words: str | Path) -> int:
    return main(["--device", "cpu", *map(str, words)])


def folder_of(net: Net = BUA, budget: Any = TINY) -> RunFolder:
    run = Run(budget, net, "tiny", 1)
    return RunFolder(working.RUNS / budget.name, run)


def work_on(budget: Any = TINY, **options: Any) -> Work:
    """Figure 5's two runs."""
    return Work(Selection(budget, (FIGURE_5,)), Trainer("cpu", SILENT, **options))


def wait_for(what: Callable[[], Any], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


# --- What is needed ------------------------------------------------------------------------------


def test_figures_of_the_paper() -> None:
    """Against the paper's own tables, copied by hand."""
    reported = {row.label: row.reported for row in TABLE_2.rows}
    assert reported["BU_A"]["mnist"] == 0.21
    assert reported["BU_B"]["cifar10_plus"] == 5.62
    assert reported["Baseline"] == {
        "mnist": 0.3,
        "cifar10": 7.13,
        "cifar10_plus": 5.98,
        "cifar100": 27.59,
        "cifar100_plus": 25.81,
        "svhn": 2.39,
    }
    accuracies = [100 - row.reported["cifar10"] for row in TABLE_3.rows]
    assert accuracies == pytest.approx([92.55, 93.03, 93.01, 93.19, 92.86, 92.87, 92.35, 92.01])
    rises = [(row.label, row.rise) for one in (FIGURE_4, FIGURE_5) for row in one.rows if row.rise]
    assert rises == [
        ("No merging in operations", 0.75),
        ("No merging in units", 0.4),
        ("Concatenation", 1.1),
    ]


def test_both_readings_are_rows_of_their_own() -> None:
    nets = {row.net for row in TABLE_2.rows if row.is_reading}
    assert {Net("bua", "table"), Net("bub", "table"), Net("bua", bu_s="units")} <= nets
    # A baseline's reading `table` is the net without merging inside operations, parameter for
    # parameter: one run serves both.
    grouped, table = (
        net_cost(Run(find_budget("full"), net, "cifar10", 1).generate(Path("x")).deploy)
        for net in (BASELINE_GROUPED, Net("baseline", "table"))
    )
    assert grouped == table


def test_the_most_telling_runs_come_first() -> None:
    runs = Selection(find_budget("short"), EXHIBITS, seeds=(1, 2)).runs()
    assert len(set(runs)) == len(runs)
    assert [(run.net, run.dataset, run.seed) for run in runs[:8]] == [
        (BUA, "mnist", 1),
        (BASELINE, "mnist", 1),
        (BUB, "mnist", 1),
        (BUA, "cifar10", 1),
        (BASELINE, "cifar10", 1),
        (BUB, "cifar10", 1),
        (Net("bua", "table"), "cifar10", 1),
        (Net("bua_concat"), "cifar10", 1),
    ]
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)


def test_a_run_is_the_generators_net_with_the_budgets_recipe() -> None:
    run = Run(find_budget("short"), Net("bua", "table", "units"), "mnist", 3, "bf16")
    generated = run.generate(Path("here"))
    for words in ("--reading table", "--bu-s units", "--width 0.25", "--random-seed 3"):
        assert words in generated.command
    assert "max_iter: 4690" in generated.texts["solver.prototxt"]
    assert "moving_average_fraction: 0.99" in generated.texts["net.prototxt"]
    assert run.name == "bua_mnist_table_units_w0.25_seed3_bf16"
    full = Run(find_budget("full"), BUA, "cifar10", 1)
    assert "max_iter: 234600" in full.generate(Path("here")).texts["solver.prototxt"]
    assert full.name == "bua_cifar10_seed1"


def test_runs_of_a_selection() -> None:
    some = Selection(
        find_budget("short"),
        EXHIBITS,
        frozenset({"cifar10_jpeg"}),
        substitutes={"cifar10": "cifar10_jpeg"},
    )
    assert {run.dataset for run in some.runs()} == {"cifar10_jpeg"}
    assert len(some.runs()) == 16
    with pytest.raises(SolverError, match="--datasets digits: no table or figure has them"):
        Selection(find_budget("short"), EXHIBITS, frozenset({"digits"}))
    with pytest.raises(SolverError, match="the paper has no data set digits"):
        Selection(find_budget("short"), EXHIBITS, substitutes={"digits": "mnist"})


# --- Done once -----------------------------------------------------------------------------------


@pytest.mark.long
def test_a_figure_is_done_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("--budget", "tiny", "--figure", "5") == 0
    out = capsys.readouterr().out
    assert "2 to do; about" in out and "Figure 5" in out and "2 runs done now" in out
    folder = folder_of()
    assert (working.RUNS / "tiny" / "report.html").is_file()
    names = {path.name for path in folder.path.iterdir()}
    assert {"net.prototxt", "solver.prototxt", "train.log", "train.jsonl", "result.json"} <= names
    assert {"bua_iter_6.caffemodel", "bua_iter_6.solverstate"} <= names
    assert "bua_iter_4.caffemodel" not in names
    result = read_result(folder.result)
    assert [(test.epoch, test.iteration) for test in result.tests] == [(1, 2), (2, 4), (3, 6)]
    record = [json.loads(line) for line in folder.record.read_text().splitlines()]
    accuracies = [
        output["value"]
        for line in record
        if line["event"] == "Scores"
        for output in line["outputs"]
        if output["name"] == "accuracy"
    ]
    assert [test.error for test in result.tests] == pytest.approx(
        [100 - 100 * value for value in accuracies]
    )
    cost = net_cost(folder.run.generate(folder.path).deploy).total
    assert (result.parameters, result.depth) == (cost.parameters, 27)
    assert result.commands[0].startswith("python -m prototxt_gen bua --dataset tiny")
    assert result.hardware["device"] == "cpu" and result.versions["torch"]
    rows = {(row.figure, row.blob) for row in result.maps}
    assert rows == {(3, f"{part}") for part in ("bu_s/sum3", "bu_f/sum3", "au/pool", LAST)}
    assert len(result.maps) == 3 * 4 and all(0 <= row.zeros <= 1 for row in result.maps)
    assert (folder.path / "figure3.png").read_bytes().startswith(b"\x89PNG")
    # A budget that only shows that it works keeps its results to itself.
    assert not Path("results").exists()
    assert len(list(read_results(working.RUNS / "tiny" / "results"))) == 2

    before = folder.record.read_bytes()
    assert reproduce("--budget", "tiny", "--figure", "5") == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert folder.record.read_bytes() == before
    assert reproduce("--budget", "tiny", "--figure", "5", "--list") == 0
    assert capsys.readouterr().out.count("done") == 3


def test_results_of_other_machines_count_unless_their_tree_had_changes() -> None:
    clean = result("kept", Net("bua_concat"), "tiny", [9.0])
    dirty = result("kept", BUA, "tiny", [8.0], commits=("a" * 40, "b" * 40 + "-dirty"))
    for one in (clean, dirty):
        path = keep(one, RESULTS)
        assert read_result(path) == one
        # Written once: another of the same name changes nothing.
        assert keep(replace(one, seconds=1.0), RESULTS) == path and read_result(path) == one
    work = work_on(KEPT)
    assert work.known_results() == [clean]
    states = {status.folder.run.net.variant: status for status in work.statuses()}
    assert states["bua_concat"].reason == "before, in results/"
    assert states["bua"].is_open
    work.repeat = True
    assert all(status.is_open for status in work.statuses())
    # The same, made here: not done again, and said.
    write_result(dirty, folder_of(BUA, KEPT).result)
    reasons = [status.reason for status in work.statuses() if status.state == "done"]
    assert reasons == ["with uncommitted changes, so its numbers are left out"]


def test_a_damaged_result_is_an_error_that_names_it() -> None:
    Path("results").mkdir()
    for text in ("", "[]", "{}", '{"format": 1}', '{"format": 2}', "\xff"):
        Path("results/one.json").write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=r"results/one\.json"):
            work_on(KEPT).statuses()


# --- Stopped, killed, shared ---------------------------------------------------------------------


def scores(folder: RunFolder) -> list[tuple[int, float, float | None]]:
    return [(test.iteration, test.error, test.loss) for test in read_result(folder.result).tests]


@pytest.mark.long
def test_a_run_stopped_and_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """By a wish; by a kill of the training; by a kill of whoever follows it."""
    only = ["--budget", "long", "--figure", "3"]
    folder = folder_of(BUA, LONG)

    selection = Selection(LONG, (FIGURE_3,))
    work = Work(selection, Trainer("cpu", SILENT, stopped=lambda: folder.iteration > 0))
    work.begin()
    assert work.do().stopped
    assert folder.state() is State.STOPPED
    stopped_at = folder.iteration
    assert 0 < stopped_at < folder.iterations

    parent = begun(*only)
    wait_for(lambda: folder.iteration > stopped_at)
    killed_at = folder.iteration
    kill_training(folder)
    assert parent.wait(60) == 1
    assert "ended by SIGKILL" in Path("out.txt").read_text()
    assert folder.state() is State.STOPPED and folder.failure is None

    parent = begun(*only)
    wait_for(lambda: folder.iteration > killed_at)
    parent.kill()
    parent.wait()
    # The training lives on, and the run is its own: nobody else takes it.
    assert folder.state() is State.RUNNING
    with folder.locked() as lock:
        assert lock is None
    wait_for(lambda: folder.state() is not State.RUNNING)
    assert reproduce(*only) == 0
    resumed = scores(folder)
    assert read_result(folder.result).sessions == 3

    folder.path.rename("resumed")
    (working.RUNS / "long").rename("elsewhere")
    assert reproduce(*only) == 0
    assert scores(folder_of(BUA, LONG)) == resumed
    assert len(resumed) == 10


def test_minutes_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """The training is stopped in whatever it is at, and nothing has failed."""
    start = time.monotonic()
    assert reproduce("--budget", "long", "--figure", "5", "--minutes", "0.08") == 0
    assert time.monotonic() - start < 60
    assert "0 runs done now, stopped" in capsys.readouterr().out
    assert folder_of(BUA, LONG).state() in (State.STOPPED, State.WAITING)
    assert folder_of(Net("bua_concat"), LONG).state() is State.WAITING


def begun(*words: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own, which prints to out.txt."""
    command = [sys.executable, str(PROGRAM), "--device", "cpu", *words]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])}
    with open("out.txt", "ab") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out)


def kill_training(folder: RunFolder) -> None:
    """SIGKILL to the process that trains it: the one whose command line names its solver."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"gmnet_pt.train" in words and folder.solver.as_posix().encode() in words:
            os.kill(int(entry.name), signal.SIGKILL)
            return
    raise AssertionError("nobody trains it")


@pytest.mark.long
def test_two_at_once_share_the_work() -> None:
    outcomes = []
    works = [work_on(), work_on()]
    for work in works:
        work.begin()
    threads = [threading.Thread(target=lambda w=work: outcomes.append(w.do())) for work in works]
    for thread in threads:
        thread.start()
        wait_for(lambda: folder_of().state() is State.RUNNING)
    for thread in threads:
        thread.join()
    done = [run for outcome in outcomes for run in outcome.finished]
    assert sorted(run.net.variant for run in done) == ["bua", "bua_concat"]
    assert [len(outcome.finished) for outcome in outcomes] == [1, 1]
    assert any(outcome.elsewhere for outcome in outcomes)
    for folder in (folder_of(), folder_of(Net("bua_concat"))):
        assert folder.record.read_text().count('"event": "Run"') == 1


def test_a_lock_lasts_as_long_as_a_child_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with inherited_lock(path, 0) as handle:
        assert handle is not None
        child = subprocess.Popen(["sleep", "60"], pass_fds=[handle])
    with inherited_lock(path, 0) as handle:
        assert handle is None
    child.kill()
    child.wait()
    with inherited_lock(path, 1) as handle:
        assert handle is not None


def test_an_interrupted_command_stops_after_a_snapshot() -> None:
    folder = folder_of(BUA, LONG)
    child = begun("--budget", "long", "--figure", "3")
    wait_for(lambda: folder.iteration > 0)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    assert "0 runs done now, stopped" in Path("out.txt").read_text()
    assert folder.state() is State.STOPPED


# --- Failed, missing, full -----------------------------------------------------------------------


@pytest.mark.long
def test_a_failed_run_is_told_and_retried_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of()
    # In the place of the training's log.
    (folder.path / "train.log").mkdir(parents=True)
    assert reproduce("--budget", "tiny", "--figure", "5") == 1
    out = capsys.readouterr().out
    assert "1 runs done now" in out and "failed: bua on tiny, seed 1: " in out
    assert "train.log" in out and "Is a directory" in out
    assert folder.state() is State.FAILED
    assert folder_of(Net("bua_concat")).state() is State.DONE

    assert reproduce("--budget", "tiny", "--figure", "5") == 0
    out = capsys.readouterr().out
    assert "failed bua on tiny, seed 1" in out and "--retry tries again" in out
    (folder.path / "train.log").rmdir()
    assert reproduce("--budget", "tiny", "--figure", "5", "--retry") == 0
    assert folder.state() is State.DONE


def test_data_that_was_not_given_is_missing_and_no_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert reproduce("--budget", "short", "--table", "2") == 0
    out = capsys.readouterr().out
    assert "nothing is left to do" in out
    assert "missing mnist: give --source mnist=PATH, or make lmdb DATASET=mnist" in out
    assert "missing svhn: give --source svhn=PATH" in out
    assert (working.RUNS / "short" / "report.html").is_file()
    assert not Path("lmdb").exists() and not Path("results").exists()
    assert reproduce("--budget", "short", "--table", "2", "--list") == 0
    assert capsys.readouterr().out.count("missing") == 48 + 1


def test_a_source_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--budget", "short", "--table", "2", "--datasets", "mnist")
    assert reproduce(*words, "--source", "mnist=nowhere") == 1
    assert "nowhere" in capsys.readouterr().err
    assert reproduce(*words, "--source", "nothing=here") == 1
    assert "unknown data set 'nothing'" in capsys.readouterr().err


FULL_DISK = """
import errno, os
def full(handle):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.fsync = full
"""


@pytest.mark.long
def test_a_full_disk_is_no_fault_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(BUA, KEPT)
    Path("start").mkdir()
    # Read at the start of the child that trains; whole files are synced before they get their name.
    Path("start/sitecustomize.py").write_text(FULL_DISK)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path("start").resolve()))
        assert reproduce("--budget", "kept", "--figure", "3") == 1
    assert "the disk is full" in capsys.readouterr().err
    assert folder.state() is State.WAITING

    def full(*arguments: Any) -> None:
        raise OutputError("result.json: the disk is full (0 bytes free)")

    with monkeypatch.context() as patch:
        patch.setattr("gmnet_pt.reproduce.training.write_result", full)
        assert reproduce("--budget", "kept", "--figure", "3") == 1
    assert "the disk is full" in capsys.readouterr().err
    record = folder.record.read_bytes()
    assert reproduce("--budget", "kept", "--figure", "3") == 0
    # It was trained: only what came out is written now.
    assert folder.record.read_bytes() == record
    assert folder.state() is State.DONE
    (kept,) = read_results(RESULTS)
    assert kept == read_result(folder.result)
    assert all(path.stat().st_size < 5_000 for path in RESULTS.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--table", "4"], "--table 4: the tables are 1, 2, 3"),
        (["--figure", "1"], "figures with results 3, 4, 5"),
        (["--budget", "tall"], "budget tall: use one of full, short, smoke"),
        (["--substitute", "cifar10=flowers"], "unknown data set 'flowers'"),
    ],
)
def test_wrong_wishes(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(*words) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--minutes", "0"],
        ["--minutes", "nan"],
        ["--seeds", "1,x"],
        ["--source", "mnist"],
        ["--list", "--report"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        reproduce(*words)
    assert caught.value.code == 2
