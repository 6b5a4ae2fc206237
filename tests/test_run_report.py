"""gmnet_pt.report: the table of runs as text, CSV and a page; what a trained run's record tells."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from golden_case import GOLDEN
from record_case import START, Written, accuracy

from converters.records.lmdb_reader import LmdbReader
from gmnet_pt import train
from gmnet_pt.curves import read_runs
from gmnet_pt.log.events import Display, Output, Run, Scores, Speed, Stop
from gmnet_pt.report import main

TRAINING = GOLDEN / "training"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs and an earlier one, a log of real Caffe's, and a folder that is no run."""
    folder = tmp_path / "runs"
    log = Written().put(Run("x"), START, Display(0, 3.0, speed=Speed(0.0, 7, 10)))
    log.put(accuracy(10, 0.875), Scores(10, 0, (Output("loss", 0.5, 1.0),)), after=100.0)
    log.put(Display(10, 2.0, speed=Speed(4.0, 10, 10)), accuracy(20, 0.75), after=3600.0)
    log.into(folder / "a" / "train.jsonl")
    (folder / "a" / "train.log").write_text("not looked at beside a record")
    Written().put(replace(START, net="<&>"), Display(0, 1.0)).into(folder / "b" / "train.jsonl")
    Written().put(START, accuracy(0, 0.25)).into(folder / "b" / "train.jsonl.1")
    (folder / "caffe.log").write_bytes((TRAINING / "lenet_sgd_inv" / "caffe.log").read_bytes())
    (folder / "c").mkdir()
    return folder


def paths(runs: Path) -> list[str]:
    """As a shell gives `runs/*`."""
    return [str(path) for path in sorted(runs.iterdir())]


def test_the_table_as_text(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(paths(runs)) == 0
    out, error = capsys.readouterr()
    assert error == f"left out: {runs / 'c'}: no train.jsonl and no train.log in this folder\n"
    header, _, *rows = out.splitlines()
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    assert re.split(r"\s{2,}", header) == [
        *("run", "net", "data", "iterations", "time", "iterations/s", "items/s"),
        *("score", "best", "at", "last", "best error %", "last error %"),
    ]
    # Ten iterations in the four seconds of the second display, of 50 items each.
    assert cells[0] == [
        *("a", "n", "lmdb/mnist_train", "20", "2:03:21", "2.5", "125"),
        *("test accuracy", "0.875", "10", "0.75", "12.50", "25.00"),
    ]
    assert cells[1] == ["test loss", "0.5", "10", "0.5"]
    assert cells[2][0] == "b.1"
    assert cells[3][:4] == ["b", "<&>", "lmdb/mnist_train", "0 of 20"]
    assert cells[3][-4:] == ["train loss", "1", "0", "1"]
    # Real Caffe's first line says that 9e18 iterations were done in a second.
    caffe = next(row for row in cells if row[0] == "caffe.log")
    assert caffe[:4] == ["caffe.log", "lenet_like", "../train_lmdb", "100"]
    assert 100 < float(caffe[5]) < 100_000
    assert caffe[6:] == ["test accuracy", "0.6525", "100", "0.6525", "34.75", "34.75"]


def test_a_folder_of_runs_is_its_runs_and_a_finished_run_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Written().put(START, Display(0, 3.0), Stop()).into(tmp_path / "a" / "train.jsonl")
    Written().put(START, Display(0, 3.0), Stop(early=True)).into(tmp_path / "b" / "train.jsonl")
    assert main([str(tmp_path)]) == 0
    out, error = capsys.readouterr()
    done = [re.split(r"\s{2,}", row)[3] for row in out.splitlines()[2:]]
    assert (done, error) == ([f"{START.max_iter}", f"0 of {START.max_iter}"], "")


def test_the_table_as_csv(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*paths(runs), "--csv"]) == 0
    out = capsys.readouterr().out
    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["run"], row["score"]) for row in rows] == [
        *(("a", "test accuracy"), ("a", "test loss")),
        *(("b.1", "test accuracy"), ("b", "train loss")),
        *(("caffe.log", "test accuracy"), ("caffe.log", "test loss")),
    ]
    assert rows[1]["data"] == "lmdb/mnist_train"
    assert rows[0]["best error %"] == "12.50"
    # Options may stand between the runs.
    first, *others = paths(runs)
    assert main([first, "--out", str(tmp_path / "x.csv"), *others]) == 0
    assert (tmp_path / "x.csv").read_text() == out
    assert capsys.readouterr().out == f"{tmp_path / 'x.csv'}: 4 runs\n"


def test_the_table_as_a_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "x.html"
    assert main([*paths(runs), "--out", str(page)]) == 0
    assert main([*paths(runs), "--html"]) == 0
    text = page.read_text()
    assert text in capsys.readouterr().out
    table = ElementTree.fromstring(re.findall(r"<table>.*</table>", text, re.DOTALL)[0])
    bodies = [
        [[cell.text or "" for cell in row] for row in body] for body in table.findall("tbody")
    ]
    assert [len(body) for body in bodies] == [2, 1, 1, 2]
    assert bodies[0][1] == ["test loss", "0.5", "10", "0.5", "", ""]
    assert bodies[2][0][:3] == ["b", "<&>", "lmdb/mnist_train"]
    spans = {cell.get("rowspan") for cell in table.findall("tbody")[0][0]}
    assert spans == {"2", None}


def test_what_is_no_run_is_an_error(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        ([runs / "c"], "no train.jsonl and no train.log in this folder"),
        ([runs / "c", runs / "absent"], "2 paths: no run in any of them"),
        ([runs / "a", "--out", "x.pdf"], "cannot be written as '.pdf', only as .txt, .csv, .html"),
    ):
        assert main([str(one) for one in arguments]) == 1
        assert says in capsys.readouterr().err


def test_a_trained_run_says_what_it_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The golden LMDB's records, of which an iteration takes two batches with iter_size 2."""
    solver = TRAINING / "lenet_sgd_inv" / "solver.prototxt"
    prefix = tmp_path / "run" / "x"
    settings = [f"snapshot_prefix={prefix}", "iter_size=2", "test_interval=2", "snapshot=0"]
    sets = [part for one in settings for part in ("--set", one)]
    assert train.main([str(solver), "--max-iter", "2", "--device", "cpu", *sets]) == 0
    capsys.readouterr()
    assert main([str(prefix.parent), "--csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    (row,) = (row for row in rows if row["score"] == "test accuracy")
    assert row["net"] == "lenet_like"
    assert Path(row["data"]).name == "train_lmdb"
    assert row["iterations"] == "2"
    (run,) = read_runs(prefix.parent / "train.jsonl")
    with LmdbReader(TRAINING / "train_lmdb") as reader:
        assert run.start.records == len(reader)
    batch = re.search(r"batch_size: (\d+)", (solver.parent / "net.prototxt").read_text())
    assert batch is not None
    assert run.start.items == 2 * int(batch[1])
    speed, items = float(row["iterations/s"]), float(row["items/s"])
    assert items == pytest.approx(speed * run.start.items, rel=1e-3)
