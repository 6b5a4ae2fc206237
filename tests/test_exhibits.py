"""Our figures beside the paper's: means over seeds, differences, marks, what is missing; pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from converters.errors import DataError
from gmnet_pt.reproduce.budgets import find_budget
from gmnet_pt.reproduce.exhibits import Mean, Shown, mean, show, widened
from gmnet_pt.reproduce.experiments import (
    BASELINE,
    BUA,
    EXHIBITS,
    FIGURE_4,
    FIGURE_5,
    TABLE_2,
    TABLE_3,
    Exhibit,
    Net,
)
from gmnet_pt.reproduce.pages import markdown, rows_of, text_tables, update_page
from gmnet_pt.reproduce.results import FORMAT, RESULTS, Result, read_results
from gmnet_pt.reproduce.runs import Run, Selection
from tests.report_case import result

ROOT = Path(__file__).parents[1]


def shown(exhibit: Exhibit, results: Sequence[Result], selection: Selection) -> Shown:
    return show(selection, exhibit, results, {})


def test_mean_and_spread() -> None:
    assert mean([2.0]) == Mean(2.0, None)
    value, spread = mean([1.0, 2.0, 4.0])
    assert value == pytest.approx(7 / 3)
    # By hand: deviations -4/3, -1/3, 5/3; squares 42/9; over n - 1.
    assert spread == pytest.approx((42 / 9 / 2) ** 0.5)
    assert str(mean([1.0, 2.0, 4.0])) == "2.33 ± 1.53"


def test_cells_of_the_full_budget() -> None:
    selection = Selection(find_budget("full"), (TABLE_2,), frozenset({"mnist"}), (1, 2))
    results = [
        result("full", BUA, "mnist", [0.5, 0.2, 0.3]),
        result("full", BUA, "mnist", [0.4, 0.5], 2),
        result("full", BASELINE, "mnist", [0.6]),
    ]
    table = shown(TABLE_2, results, selection)
    rows = {row.row.label: row for row in table.rows}
    cell = rows["BU_A"].cells[0]
    assert (cell.reported, cell.seeds, cell.marks, cell.state) == (0.21, 2, (), "")
    assert cell.last is not None and cell.best is not None
    assert cell.last.value == pytest.approx(0.4) and cell.best.value == pytest.approx(0.3)
    assert cell.difference == pytest.approx(0.4 - 0.21)
    assert (cell.rise, cell.reported_rise) == (pytest.approx(-0.2), pytest.approx(-0.09))
    assert rows["BU_A"].beside == "Baseline"
    missing = rows["BU_B"].cells[0]
    assert missing.last is None and missing.reported == 0.22 and missing.state == "not done"
    assert rows["BU_A, 1×1 grouped"].cells[0].reported is None
    assert [(c.label, c.seed, c.points) for c in table.curves] == [
        ("Baseline", 1, ((1, 0.6),)),
        ("BU_A", 1, ((1, 0.5), (2, 0.2), (3, 0.3))),
        ("BU_A", 2, ((1, 0.4), (2, 0.5))),
    ]
    assert len(table.methods) == 10


def test_what_is_not_the_papers_experiment_is_marked() -> None:
    selection = Selection(
        find_budget("short"), EXHIBITS, substitutes={"cifar10": "cifar10_jpeg"}, precision="bf16"
    )
    run = Run(find_budget("short"), BUA, "cifar10_jpeg", 1, "bf16")
    found = result("short", BUA, "cifar10_jpeg", [30.0])
    assert not found.belongs_to(run)
    found = Result(**{**vars(found), "precision": "bf16"})
    cell = shown(FIGURE_5, [found], selection).rows[0].cells[0]
    assert cell.marks == ("short", "cifar10_jpeg", "bf16")
    table = shown(FIGURE_5, [found], selection)
    assert table.columns[0].label == "cifar10_jpeg (for C10)"
    assert "30.00 [short, cifar10_jpeg, bf16] / 6.81" in rows_of(table)[1]
    assert table.command == (
        "make reproduce FIGURE=5 BUDGET=short ARGS='--substitute cifar10=cifar10_jpeg "
        "--precision bf16'"
    )


def test_one_set_for_all_has_one_column() -> None:
    table = shown(
        TABLE_2, [result("smoke", BUA, "digits", [9.0])], Selection(find_budget("smoke"), EXHIBITS)
    )
    assert [column.label for column in table.columns] == ["digits (for all six)"]
    # Six reported errors for one of ours: none is shown.
    assert {cell.reported for row in table.rows for cell in row.cells} == {None}


def test_rises_of_figures() -> None:
    selection = Selection(find_budget("full"), EXHIBITS)
    results = [
        result("full", BASELINE, "cifar10", [8.0]),
        result("full", Net("baseline_no_operation_merge"), "cifar10", [8.5]),
    ]
    rows = rows_of(shown(FIGURE_4, results, selection))
    assert rows[1] == [
        "No merging in operations",
        "8.50 / –",
        "+0.50 / +0.75 (Both levels (theirs))",
    ]
    assert rows[2] == ["No merging in units", "– / –", "– / +0.40 (Both levels (theirs))"]
    assert rows[3] == ["Both levels (theirs)", "8.00 / 7.13", ""]
    # Table 3 gives accuracies: its rises are differences of those.
    rises = {
        row.row.label: row.cells[0].reported_rise for row in shown(TABLE_3, [], selection).rows
    }
    assert rises["No groups"] == pytest.approx(93.19 - 92.55)
    assert rises["4+4 & 4+4"] == pytest.approx(92.87 - 92.01)


def test_reports_show_all_seeds_and_stand_ins() -> None:
    results = [
        result("short", BUA, "cifar10_jpeg", [30.0], 3),
        result("short", BUA, "mnist", [1.0]),
    ]
    wide = widened(Selection(find_budget("short"), EXHIBITS), results)
    assert wide.seeds == (1, 3)
    assert wide.substitutes == {"cifar10": "cifar10_jpeg"}
    real = [*results, result("short", BUA, "cifar10", [20.0])]
    assert widened(Selection(find_budget("short"), EXHIBITS), real).substitutes == {}


def test_pages() -> None:
    results = [
        result("short", BUA, "mnist", [1.5]),
        result("smoke", BUA, "digits", [9.0]),
        Result(**{**vars(result("short", BASELINE, "mnist", [2.5])), "commits": ("a-dirty",)}),
    ]
    text = markdown(results)
    assert "| BU_A | 1.50 [short] / 0.21 |" in text
    assert "2.50" not in text and "9.00" not in text
    assert "1 of 56 runs are done, in 1.0 hours; 55 are left." in text
    assert "a &#124; processor, 1 thread" in text
    assert "Not run yet: Baseline; BU_B;" in text
    assert markdown([]) == "Nothing has been run yet."
    lines = "\n".join(text_tables([shown(FIGURE_5, [], Selection(find_budget("full"), EXHIBITS))]))
    assert "Figure 5: Summation and concatenation" in lines


def test_a_page_keeps_its_prose(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- from results/ -->\nold\n<!-- end -->\nafter\n")
    update_page(page, [result("short", BUA, "mnist", [1.5])])
    text = page.read_text()
    assert text.startswith("before\n<!-- from") and text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text and "1.50" in text
    page.write_text("no marks")
    with pytest.raises(DataError, match=r"page\.md: has not the marks"):
        update_page(page, [])
    with pytest.raises(DataError, match=r"none\.md: cannot be read"):
        update_page(tmp_path / "none.md", [])


def test_the_projects_page_is_that_of_its_results(tmp_path: Path) -> None:
    """`python -m gmnet_pt.reproduce --page docs/reproduction.md` after new results."""
    page = tmp_path / "reproduction.md"
    page.write_bytes((ROOT / "docs" / "reproduction.md").read_bytes())
    update_page(page, list(read_results(ROOT / RESULTS)))
    assert page.read_text() == (ROOT / "docs" / "reproduction.md").read_text()
    assert all(one.format == FORMAT for one in read_results(ROOT / RESULTS))
