"""The demo's report: the last test of the record counts, and too low an accuracy is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.errors import CaffeError
from gmnet_pt.demo import report
from gmnet_pt.log.events import Event, Message, Output, Scores, Snapshot
from gmnet_pt.log.run_record import record_line


def record(folder: Path, *events: Event) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(record_line(event) + "\n" for event in events))
    return path


def scores(iteration: int, accuracy: float) -> Scores:
    return Scores(iteration, 0, (Output("loss", 0.1, 1.0), Output("accuracy", accuracy)))


def test_report_gives_the_last_accuracy_and_the_files(tmp_path: Path) -> None:
    path = record(
        tmp_path, scores(0, 0.1), scores(322, 0.9861), Snapshot("a.caffemodel", "a.state")
    )
    text = report(path)
    assert "98.61% after 322 iterations" in text
    assert all(name in text for name in ("a.caffemodel", "a.state", "train.log", str(path)))


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([scores(0, 0.99), scores(322, 0.9)], "test accuracy 90.00%, at least 97%"),
        ([scores(322, float("nan"))], "test accuracy nan%"),
        ([Message("hello")], "no test accuracy"),
    ],
)
def test_a_failed_demo_is_an_error(tmp_path: Path, events: list[Event], reason: str) -> None:
    with pytest.raises(CaffeError, match=reason):
        report(record(tmp_path, *events))


def test_of_a_demo_with_options_nothing_is_expected(tmp_path: Path) -> None:
    text = report(record(tmp_path, Message("hello"), Snapshot("a.caffemodel", "a.state")), False)
    assert text.startswith("No test was due") and "a.caffemodel" in text
    assert "90.00% after 20" in report(record(tmp_path, scores(20, 0.9)), False)


def test_no_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaffeError, match=r"none\.jsonl: cannot be read"):
        report(tmp_path / "none.jsonl")
