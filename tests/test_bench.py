"""The bench's table, its results on disk, and what compares two of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.__main__ import GROUPS, choose, measure
from bench.options import Options
from bench.results import Results, compare, default_path, read_results, write_results
from bench.rows import Measure, Row, alternate, alternate_for, fastest, table
from converters.errors import DataError

FAST, SLOW = Measure((1.0,)), Measure((1.1,))


def test_row_fails_above_its_bound() -> None:
    assert Row("equal", FAST, FAST, bound=1.0).ok
    assert not Row("slower", SLOW, FAST, bound=1.05).ok
    assert Row("only shown", SLOW, FAST, bound=None).ok
    assert "| 1.100 | 1.05  | NO |" in table([Row("slower", SLOW, FAST, bound=1.05)])
    assert "| 1.100 |       | –  |" in table([Row("only shown", SLOW, FAST, bound=None)])


def test_disturbed_row_is_marked() -> None:
    calm, shaken = Measure((0.99, 1.0, 1.01)), Measure((0.5, 1.0, 1.5))
    assert "| yes? |" in table([Row("shaken", calm, shaken, bound=1.05)])
    assert "| yes |" in table([Row("calm", calm, calm, bound=1.05)])


def test_measure_is_median_and_half_the_quartiles_distance() -> None:
    measure = Measure((5.0, 1.0, 2.0, 4.0, 3.0))
    assert (measure.median, measure.spread) == (3.0, 1.0)
    assert (Measure((7.0,)).median, Measure((7.0,)).spread) == (7.0, 0.0)


def test_milliseconds_keep_the_ratio() -> None:
    row = Row("row", Measure((0.5,)), Measure((0.25,)), 1.0, tried={"eager": 0.3})
    shown = row.in_milliseconds()
    assert (shown.ours.median, shown.yardstick.median) == (500, 250)
    assert (shown.ratio, shown.unit, shown.tried) == (2.0, "ms", {"eager": 300})


def test_alternation_changes_who_goes_first() -> None:
    calls: list[str] = []
    alternate(lambda: calls.append("ours"), lambda: calls.append("other"), repeats=2, warmup=0)
    assert calls == ["ours", "other", "other", "ours"]


@pytest.mark.long
def test_alternation_of_short_actions_takes_samples_of_many_calls() -> None:
    calls: list[str] = []
    ours, other = alternate_for(
        0.0, lambda: calls.append("ours"), lambda: calls.append("other"), sample=0.001
    )
    assert len(ours.values) == len(other.values) == 5  # the least number of rounds
    assert calls.count("ours") > 50 and calls.count("other") > 50
    assert all(value < 0.001 for value in (*ours.values, *other.values))  # of one call


@pytest.mark.long
def test_fastest_way_counts() -> None:
    best, tried = fastest({"slow": lambda: sum(range(300_000)), "quick": lambda: None}, 0.01)
    assert best == "quick"
    assert list(tried) == ["slow", "quick"] and tried["slow"] > tried["quick"]


# Results -----------------------------------------------------------------------------------------


def _results(ours: float = 2.0, **changes: object) -> Results:
    row = Row("step", Measure((ours, ours)), Measure((4.0,)), 1.0, "ms", "note", {"eager": 5.0})
    machine = {"processor": "P", "cores": 2, "threads": 2, "device": "cpu"}
    versions = {"python": "3.11.0", "torch": "2.13.0"}
    made = Results("2026-11-26T01:02:03+00:00", "abc", machine, versions, {"train:x": [row]}, {})
    return replace(made, **changes)  # type: ignore[arg-type]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = _results(failed={"train:y": "NetError: no"})
    write_results(results, tmp_path / "new" / "results.json")
    assert read_results(tmp_path / "new" / "results.json") == results


def test_results_hold_every_number(tmp_path: Path) -> None:
    write_results(_results(), tmp_path / "r.json")
    values = json.loads((tmp_path / "r.json").read_text())
    (row,) = values["rows"]["train:x"]
    assert row["ours"] == {"values": [2.0, 2.0]} and row["tried"] == {"eager": 5.0}
    assert values["machine"]["cores"] == 2 and values["versions"]["torch"] == "2.13.0"
    assert values["commit"] == "abc" and values["date"].startswith("2026-11-26")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "rows": {}}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"r\.json"):
        read_results(path)


def test_results_know_machine_versions_and_commit() -> None:
    results = Results.begin("cpu")
    assert results.machine["cores"] >= 1 and results.machine["processor"]
    assert results.versions["python"].startswith("3.") and results.versions["torch"]
    assert default_path(results).parent.name == "results"
    assert ":" not in default_path(results).name


def test_results_fail_with_a_bound_or_a_measurement() -> None:
    assert _results().ok
    assert not _results(ours=8.0).ok
    assert not _results(failed={"train:y": "NetError: no"}).ok


def test_comparison_shows_changes_and_what_is_only_in_one() -> None:
    new = Row("new", FAST, FAST, None)
    after = _results(ours=1.0)
    text = compare(_results(), replace(after, rows={**after.rows, "train:new": [new]}))
    (step,) = (line for line in text.splitlines() if line.startswith("| step"))
    cells = [cell.strip() for cell in step.strip("|").split("|")]
    assert cells == ["step", "2 ms", "1 ms", "-50.0%", "0.500", "0.250", "-50.0%", "yes"]
    assert "machines differ" not in text
    assert "| new" in text
    assert "not measured" in compare(after, _results(rows={}))
    assert "machines differ" in compare(_results(), _results(machine={**after.machine, "cores": 4}))


# The command -------------------------------------------------------------------------------------


def test_a_measurement_that_fails_is_noted_and_the_others_go_on() -> None:
    def broken() -> list[Row]:
        raise DataError("no records")

    row = Row("row", FAST, FAST, 1.0)
    results = measure({"train": {"bad": broken, "good": lambda: [row]}}, "cpu")
    assert results.failed == {"train:bad": "DataError: no records"}
    assert results.rows == {"train:good": [row]}


def test_rows_are_chosen_by_group_and_name() -> None:
    whole = choose([], Options())
    assert set(whole) == {name for name, group in GROUPS.items() if not group.cuda}
    assert not whole["caffe"] and not whole["opencv"]  # what they need was not given
    assert list(whole["train"]) == [
        "bua",
        "baseline",
        "lenet",
        "cifar10_full",
        "alexnet",
        "googlenet",
        "resnet50",
    ]
    chosen = choose(["train:lenet", "inference:bua", "train:bua"], Options())
    assert {group: list(rows) for group, rows in chosen.items()} == {
        "train": ["lenet", "bua"],
        "inference": ["bua"],
    }
    assert len(choose([], Options(device="cuda"))["cuda"]) == 6


@pytest.mark.parametrize("name, message", [("trian", "no group"), ("train:vgg", "no train:vgg")])
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        choose([name], Options())


def test_optional_groups_say_what_they_need() -> None:
    with pytest.raises(KeyError, match="--cv-python"):
        choose(["opencv"], Options())
    assert "lenet" in choose(["opencv"], Options(cv_python=Path("python")))["opencv"]
    assert "train" in choose(["caffe"], Options(caffe=Path("caffe")))["caffe"]


def test_command_measures_writes_and_compares(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    run = [sys.executable, "-m", "bench"]
    done = subprocess.run([*run, "lmdb:decoding", "--out", out], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # the bound is for a quiet machine
    assert "records of 3×32×32 decoded" in done.stdout
    done = subprocess.run([*run, "compare", out, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "+0.0%" in done.stdout
    done = subprocess.run(
        [*run, "compare", out, tmp_path / "no.json"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "no.json" in done.stderr
