"""report.html: its tables, marks, charts and escapes, and how a browser lays it out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_case import full_report, made, maps, png, report_of, short_report, smoke_report

from converters.errors import OutputError
from gmnet_pt.reproduce import charts
from gmnet_pt.reproduce.budgets import find_budget
from gmnet_pt.reproduce.experiments import (
    BASELINE,
    BUA,
    EXHIBITS,
    FIGURE_3,
    FIGURE_4,
    FIGURE_5,
    TABLE_3,
    Exhibit,
    Net,
    Row,
)
from gmnet_pt.reproduce.report import Picture, Report, write_report
from gmnet_pt.reproduce.runs import Selection
from gmnet_pt.reproduce.tables import points
from prototxt_gen.audit import count_readings
from prototxt_gen.variants import find_variant

VOID = {"meta", "img", "br", "link"}
HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}"
FULL, SMOKE = find_budget("full"), find_budget("smoke")
CSS = Path(charts.__file__).with_name("report.css").read_text(encoding="utf-8")


@dataclass
class Element:
    """An element of the page, its children's text without the elements between."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it, spaces made one."""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join(" ".join(parts).split())

    def all(self, tag: str = "", kind: str = "") -> list[Element]:
        """The elements below it of a tag and a class."""
        return [
            one
            for one in self.walk()
            if tag in ("", one.tag)
            and (not kind or kind in one.attributes.get("class", "").split())
        ]

    def walk(self) -> Iterator[Element]:
        """All elements below it."""
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.walk()

    def by_id(self, name: str) -> Element:
        """The one element with this id."""
        (found,) = [one for one in self.walk() if one.attributes.get("id") == name]
        return found


class PageParser(HTMLParser):
    """Builds the tree; every element but the void ones must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def page_of(report: Report, folder: Path) -> Element:
    """Write a report and parse it."""
    path = folder / "report.html"
    write_report(report, path)
    return parsed(path)


def parsed(path: Path) -> Element:
    """The elements of a page."""
    parser = PageParser()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    (page,) = parser.open
    return page


def rows(page: Element, table: str) -> dict[str, list[str]]:
    """The body of a table: the text of the cells by the name of the row."""
    found = {}
    for row in page.by_id(table).all("tr"):
        cells = [cell for cell in row.children if isinstance(cell, Element)]
        if cells[0].attributes.get("scope") == "row":
            name = next(part.strip() for part in cells[0].children if isinstance(part, str))
            found[name] = [cell.text for cell in cells[1:]]
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("full")
    report, path = full_report(folder), folder / "report.html"
    write_report(report, path)
    return report, path


@pytest.fixture(scope="module")
def full(written: tuple[Report, Path]) -> Element:
    return parsed(written[1])


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Element:
    folder = tmp_path_factory.mktemp("short")
    return page_of(short_report(folder), folder)


def figure_5(folder: Path, seeds: tuple[int, ...] = (1, 2)) -> Report:
    """BU_A ends at 6.9 and 7.1, the concatenation at 8.0 and 8.2."""
    ends = {("bua", 1): 6.9, ("bua", 2): 7.1, ("bua_concat", 1): 8.0, ("bua_concat", 2): 8.2}
    return report_of(
        Selection(FULL, (FIGURE_5,), seeds=seeds),
        folder,
        errors=lambda run: (40, 20, 6.5, ends[run.net.variant, run.seed]),
    )


# --- the whole page ---


def test_the_page_is_valid_and_needs_nothing_else(full: Element) -> None:
    ids = [one.attributes["id"] for one in full.walk() if "id" in one.attributes]
    assert len(ids) == len(set(ids)) > 10
    (html,) = full.all("html")
    assert html.attributes["lang"] == "en"
    assert any(one.attributes.get("name") == "viewport" for one in full.all("meta"))
    for one in full.walk():
        for name in ("src", "href"):
            target = one.attributes.get(name, "#")
            assert target.startswith(("data:", "#")), target
            if target.startswith("#") and len(target) > 1:
                assert target[1:] in ids
    assert not full.all("link")
    assert "@import" not in CSS and "url(" not in CSS
    for table in full.all("table"):
        assert table.all("caption")[0].text
        assert all("scope" in head.attributes for head in table.all("th"))
        widths = {
            sum(int(c.attributes.get("colspan", 1)) for c in row.children if isinstance(c, Element))
            for row in table.all("tbody")[0].all("tr")
        }
        assert len(widths) == 1
    for image in full.all("img"):
        assert image.attributes["alt"]
    named = [one for one in full.walk() if "aria-labelledby" in one.attributes]
    assert all(one.attributes["aria-labelledby"] in ids for one in named)


def test_the_header_counts_the_runs(full: Element) -> None:
    facts = {one.all("dt")[0].text: one.all("dd")[0].text for one in full.all("dl")[0].all("div")}
    # 168 runs: 24 of SVHN; block 3 with three seeds; C100+ with 8 nets, of which 2 + 2·8 wait.
    assert facts["Runs"] == "123 done, 3 failed, 24 missing, 18 to do; 168 in all"
    assert facts["Time left"] == "about 3.0 h, 16 not timed yet"
    assert facts["Written"] == "2026-03-04 05:06:07 UTC"
    assert facts["Code"] == "0123456789"
    assert facts["Results from"] == "af5db80ae5"
    assert not full.all("div", "banner")


def test_a_banner_says_what_is_not_the_papers(short: Element) -> None:
    (banner,) = short.all("div", "banner")
    assert banner.text.startswith("These are not the paper’s experiments.")
    assert "Budget short: a quarter of the width, a few epochs." in banner.text
    assert "Trained and tested on cifar10_jpeg where the paper has C10." in banner.text


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/report\.html"):
        write_report(figure_5(tmp_path), tmp_path / "file" / "report.html")


def test_table_1_alone_is_a_report(tmp_path: Path) -> None:
    report = Report(FULL, (), True, (), (), (), "2026-03-04T05:06:07Z", "", {})
    page = page_of(report, tmp_path)
    assert "commit unknown" in page.all("dl")[0].text
    assert {one.attributes["id"] for one in page.all("section")} == {"table-1", "nets"}
    assert [one.text.split()[0] for one in page.by_id("nets").all("summary")] == ["bua", "baseline"]


# --- Table 1 ---


def test_table_1_is_the_audits(full: Element) -> None:
    fits = " as in the paper"
    assert rows(full, "table-1-table") == {
        "1×1 not grouped, BU_s with one 1×1": ["1.5M", "1,737,290", "29", "27", "415.0M"],
        "1×1 grouped, BU_s with one 1×1": ["1.5M", "1,547,338" + fits, "29", "27", "385.7M"],
        "1×1 not grouped, BU_s of three units": ["1.5M", "1,869,386", "29", "29" + fits, "448.6M"],
        "1×1 grouped, BU_s of three units": ["1.5M", "1,679,434", "29", "29" + fits, "419.2M"],
        "1×1 not grouped": ["0.7M", "921,418", "23", "23" + fits, "206.7M"],
        "1×1 grouped": ["0.7M", "659,786" + fits, "23", "23" + fits, "159.0M"],
    }
    parts = rows(full, "table-1-parts-1")
    assert parts["bu_i"][:4] == ["16×16", "88,256", "8", "88.8M"]
    assert parts["Total"][1:3] == ["1,737,290", "27"]


def test_bu_b_costs_what_bu_a_costs() -> None:
    bua, bub = (count_readings(find_variant(name)) for name in ("bua", "bub"))
    assert bua == bub


# --- the exhibits ---


def test_figure_5_beside_the_papers(tmp_path: Path) -> None:
    page = page_of(figure_5(tmp_path), tmp_path)
    # Two values d apart have a standard deviation of d/√2: 0.14.
    assert rows(page, "figure-5-table") == {
        "Summation (theirs)": [
            "6.81",
            "7.00 ± 0.14 +0.19 to paper best 6.50, 2 seeds",
            "–",
            "–",
        ],
        "Concatenation": ["–", "8.10 ± 0.14 best 6.50, 2 seeds", "+1.10", "+1.10"],
    }
    (command,) = page.by_id("figure-5").all("code", "command")
    assert command.text == "make reproduce FIGURE=5 BUDGET=full ARGS='--seeds 1,2'"


def test_table_2_has_a_column_a_set_and_all_kinds_of_rows(full: Element) -> None:
    table = full.by_id("table-2-table")
    assert [head.text for head in table.all("thead")[0].all("th")] == [
        *("Net", "MNIST", "C10", "C10+", "C100", "C100+", "SVHN")
    ]
    papers, readings, methods = table.all("tbody")
    assert [len(one.all("tr")) for one in (papers, readings, methods)] == [3, 1 + 5, 1 + 10]
    found = rows(full, "table-2-table")
    bua = found["BU_A"]
    assert re.fullmatch(
        r"\d\.\d\d ± 0\.\d\d paper 6\.81, [+−]?\d\.\d\d best \d\.\d\d, 3 seeds", bua[1]
    )
    assert bua[4].endswith("1 seed") and "±" not in bua[4]
    assert bua[5] == "missing paper 1.88"
    assert found["Wide ResNet"] == ["–", "–", "4.97", "–", "22.89", "–"]
    assert "apart" in methods.attributes["class"]
    assert "Other readings" in readings.text
    assert "the 1×1 grouped as well (Table 1, section 3.1)" in readings.text
    assert re.search(r"[+−]?\d\.\d\d to BU_A", found["BU_A, both"][1])


def test_table_3_shows_errors_and_says_so(full: Element) -> None:
    assert "The paper prints accuracies here; shown are errors" in full.by_id("table-3").text
    found = rows(full, "table-3-table")
    assert [row[0] for row in found.values()] == [
        *("7.45", "6.97", "6.99", "6.81", "7.14", "7.13", "7.65", "7.99")
    ]
    assert [row[2] for row in found.values()] == [
        *("+0.64", "+0.16", "+0.18", "–", "+0.01", "–", "+0.52", "+0.86")
    ]


def test_figure_4_has_the_papers_rises(full: Element) -> None:
    found = rows(full, "figure-4-table")
    assert [row[2] for row in found.values()] == ["+0.75", "+0.40", "–"]


def test_missing_results_are_short_and_their_reason_stands_once(full: Element) -> None:
    for cell in full.by_id("table-2-table").all("td", "missing"):
        assert cell.text.split(" paper")[0] in ("missing", "to do")
        assert cell.attributes["title"].startswith(("missing: give --source", "to do"))
    reason = "give --source svhn=PATH, or make lmdb DATASET=svhn"
    assert full.by_id("table-2").text.count(reason) == 1
    assert f"No result on SVHN – missing: {reason}" in full.by_id("table-2").text
    table_3 = full.by_id("table-3")
    assert rows(full, "table-3-table")["Groups in block 3"] == ["6.99", "failed", "+0.18", "failed"]
    assert "No result of Groups in block 3 on C10 – failed: the loss is nan" in table_3.text


def test_a_rise_needs_both_nets(tmp_path: Path) -> None:
    report = report_of(
        Selection(FULL, (FIGURE_5,)),
        tmp_path,
        lambda run: "done" if run.net.variant == "bua_concat" else "to do",
        lambda run: (8.0,),
    )
    row = rows(page_of(report, tmp_path), "figure-5-table")["Concatenation"]
    assert row[1:] == ["8.00 best 8.00, 1 seed", "+1.10", "missing"]


@pytest.mark.parametrize(("make", "marks"), [(short_report, "short"), (smoke_report, "smoke")])
def test_marks_are_in_every_cell_of_ours(make: object, marks: str, tmp_path: Path) -> None:
    assert callable(make)
    page = page_of(make(tmp_path), tmp_path)
    for name in ("table-2", "table-3", "figure-4", "figure-5", "figure-3"):
        cells = page.by_id(f"{name}-table").all("td", "number")
        assert cells
        for cell in cells:
            tags = [tag.text for tag in cell.all("span", "tag")]
            assert marks in tags, cell.text
            if marks == "smoke" or name != "table-2":
                assert {"digits", "cifar10_jpeg"} & set(tags)
    for caption in page.all("figcaption"):
        assert marks in [tag.text for tag in caption.all("span", "tag")]


def test_smoke_has_one_column_for_all_sets_and_no_other_authors(tmp_path: Path) -> None:
    page = page_of(smoke_report(tmp_path), tmp_path)
    table = page.by_id("table-2-table")
    assert "digits (for all six)" in table.text
    assert "paper" not in rows(page, "table-2-table")["BU_A"][0]
    assert len(table.all("tbody")) == 2


def test_an_exhibit_without_its_data_sets_says_so(tmp_path: Path) -> None:
    selection = Selection(FULL, EXHIBITS, datasets=frozenset({"mnist"}))
    page = page_of(report_of(selection, tmp_path, errors=lambda run: (0.5, 0.3)), tmp_path)
    assert "None of its data sets was asked for." in page.by_id("table-3").text
    assert rows(page, "table-2-table")["BU_A"] == ["0.30 paper 0.21, +0.09 best 0.30, 1 seed"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.75, "+0.75"), (-0.4, "−0.40"), (0.001, "0.00"), (-0.001, "0.00")]
)
def test_differences_have_signs(value: float, text: str) -> None:
    assert points(value) == text


# --- runs, pictures, nets ---


def test_runs_have_a_line_each(full: Element, tmp_path: Path) -> None:
    found = rows(full, "runs-table")
    assert len(found) == 168
    done = found["bua on cifar10, seed 1"]
    assert done[:2] == ["done", "100"]
    assert re.fullmatch(r"\d\.\d\d best \d\.\d\d at epoch \d+", done[2])
    assert done[3:7] == [
        "4.2 days in 2 parts",
        "2026-02-01 11:21:31 UTC",
        "NVIDIA H100 80GB HBM3 AMD EPYC 9654 16 threads",
        "af5db80ae5 python 3.11.7, torch 2.13.0, numpy 2.4.6",
    ]
    assert "python -m prototxt_gen bua --dataset cifar10" in done[7]
    failed = found["bua_groups_block3 on cifar10, seed 2"]
    assert failed == ["failed the loss is nan; --retry tries again", *[""] * 7]
    waiting = found["bua (BU_s of units) on cifar100_plus, seed 1"]
    assert waiting[0] == "to do about 1.5 h left"


def test_uncommitted_changes_are_marked(tmp_path: Path) -> None:
    selection = Selection(FULL, (FIGURE_5,))
    runs = selection.runs()
    results = [made(runs[0], (7.0,), commits=("abc-dirty", "abd")), made(runs[1], (7.0,))]
    page = page_of(report_of(selection, tmp_path, results=results), tmp_path)
    marked = [row for row in page.by_id("runs-table").all("tr") if "uncommitted" in row.text]
    assert len(marked) == 1
    (tag,) = marked[0].all("span", "tag")
    assert tag.text == "uncommitted changes"
    assert "abc with uncommitted changes, abd" in page.all("dl")[0].text


def test_pictures_are_inside_with_their_numbers(full: Element, tmp_path: Path) -> None:
    images = full.by_id("maps").all("img")
    assert all(one.attributes["src"].startswith("data:image/png;base64,") for one in images)
    assert [one.attributes["alt"] for one in images] == [
        "Feature maps: BU_A: what each unit sees (Figure 3)",
        "Feature maps: Sums and their parts (Figure 4)",
    ]
    assert rows(full, "maps-1-table")["unit 2 of BU_i"] == [
        *("bu_i/unit2/conv", "test image 7", "25.0 %", "0.25")
    ]


def test_pictures_that_are_not_there_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    pictures = (
        Picture("absent", tmp_path / "figure3.png", ()),
        Picture("text", tmp_path / "text.png", maps(4)),
    )
    selection = Selection(FULL, (FIGURE_5, FIGURE_3))
    results = [made(run, (7.0,), maps=(*maps(3), *maps(4))) for run in selection.runs()[:1]]
    page = page_of(
        report_of(selection, tmp_path, pictures=pictures, results=results), tmp_path
    ).by_id("maps")
    assert not page.all("img")
    assert "figure3.png cannot be read: No such file or directory" in page.text
    assert "text.png is no PNG picture" in page.text
    # The numbers of figure 3 have no picture, and are there for all that.
    assert "bua on cifar10, seed 1" in page.text
    assert len(rows(page, "maps-3-table")) == 4


def test_every_net_is_drawn(full: Element) -> None:
    details = full.by_id("nets").all("details")
    nets = {row.net for exhibit in EXHIBITS for row in exhibit.rows}
    assert len(details) == len(nets) == 16
    for one in details:
        (image,) = one.all("img")
        assert image.attributes["src"].startswith("data:image/svg+xml;base64,")
    assert details[0].text.startswith("bua GM-Net with BU_A units")


def test_whatever_comes_from_elsewhere_is_escaped(tmp_path: Path) -> None:
    exhibit = Exhibit(
        "figure",
        5,
        HOSTILE,
        ("cifar10",),
        (Row(HOSTILE, BUA, HOSTILE, {"cifar10": 7.0}), Row("other", BASELINE, HOSTILE, {}, BUA)),
    )
    selection = Selection(FULL, (exhibit,))
    first, second = selection.runs()
    hostile = made(
        first,
        (50.0, 7.0),
        commands=(HOSTILE,),
        hardware={"device": HOSTILE, "processor": HOSTILE},
        versions={"torch": HOSTILE},
        commits=(HOSTILE,),
        finished=HOSTILE,
    )
    report = report_of(
        selection,
        tmp_path,
        lambda run: "done" if run == first else "failed",
        pictures=(Picture(HOSTILE, png(tmp_path / "a.png", 8, 8), maps(3)),),
        results=[hostile],
        reasons={"failed": HOSTILE},
    )
    report = replace(report, written=HOSTILE, commit=HOSTILE, substitutes={HOSTILE: HOSTILE})
    page = page_of(report, tmp_path)
    kinds = [one.attributes.get("type", "ours") for one in page.all("script")]
    assert kinds == ["application/json", "ours"]
    known = {"src", "alt", "loading"}
    assert all(set(image.attributes) == known for image in page.all("img"))
    assert HOSTILE in page.by_id("runs-table").text
    assert HOSTILE in page.by_id("figure-5-table").text
    values = json.loads(page.by_id("chart-1").all("script")[0].children[0])
    assert values["lines"][0]["label"] == HOSTILE
    assert second.net == BASELINE


# --- charts ---


def numbers(text: str) -> list[float]:
    """All numbers of a path."""
    return [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_a_line_goes_through_its_values(tmp_path: Path) -> None:
    """By hand: four epochs on 334 pixels from 38 on, 40 % on 278 pixels up from 300."""
    page = page_of(figure_5(tmp_path, seeds=(1,)), tmp_path)
    wide, narrow = page.by_id("chart-1").all("svg")
    assert numbers(wide.attributes["viewbox"]) == [0, 0, 580, 340]
    styled = [one for one in wide.all("g") if "style" in one.attributes]
    concat, bua = [one for one in styled if one.all("path", "mean")]
    (path,) = bua.all("path", "mean")
    expected = [121.5, 22.0, 205.0, 161.0, 288.5, 300 - 278 * 6.5 / 40, 372.0, 300 - 278 * 6.9 / 40]
    # Coordinates have one decimal.
    assert numbers(path.attributes["d"]) == pytest.approx(expected, abs=0.051)
    assert bua.all("title")[0].text == "Summation (theirs): 6.90 % at epoch 4"
    ticks = [one.text for one in wide.all("text", "tick")]
    assert ticks == ["0", "10", "20", "30", "40", "0", "1", "2", "3", "4", "%", "epoch"]
    drops = [float(one.attributes["x1"]) for one in wide.all("line", "drop")]
    assert drops == [38 + 334 / 2, 38 + 334 * 3 / 4]
    assert [one.attributes["style"] for one in (concat, bua)] == [
        "--line:var(--pink)",
        "--line:var(--blue)",
    ]
    assert "narrow" in narrow.attributes["class"]
    assert "Summation (theirs) 6.90 %" in wide.attributes["aria-label"]


def test_several_seeds_are_thin_lines_and_a_mean(tmp_path: Path) -> None:
    page = page_of(figure_5(tmp_path), tmp_path)
    wide = page.by_id("chart-1").all("svg")[0]
    assert len(wide.all("path", "seed")) == 4
    assert len(wide.all("path", "mean")) == 2
    values = json.loads(page.by_id("chart-1").all("script")[0].text)
    assert values["epochs"] == [1, 2, 3, 4]
    assert [line["errors"][-1] for line in values["lines"]] == ["8.10 ± 0.14", "7.00 ± 0.14"]


def test_the_axis_begins_at_zero_and_says_where_it_cuts(tmp_path: Path) -> None:
    report = report_of(
        Selection(FULL, (FIGURE_5,)), tmp_path, errors=lambda run: (90, *[9.5] * 98, 8)
    )
    (chart,) = charts.charts(report.shown)
    assert (chart.last, chart.ceiling, chart.cut) == (100, 10, True)
    assert "The axis ends at 10 %" in page_of(report, tmp_path).by_id("chart-1").text


def test_a_chart_whose_lines_another_has_is_left_out(tmp_path: Path) -> None:
    def titles(*exhibits: Exhibit) -> list[str]:
        report = report_of(Selection(FULL, exhibits), tmp_path, errors=lambda run: (9.0, 8.0))
        return [chart.title for chart in charts.charts(report.shown)]

    assert titles(FIGURE_3) == ["Figure 3: test error on C10"]
    assert titles(FIGURE_3, FIGURE_5) == ["Figure 5: test error on C10"]
    assert len(titles(*EXHIBITS)) == 6 + 3


def test_seeds_that_end_earlier_end_the_mean(tmp_path: Path) -> None:
    lengths = {1: (9.0, 8.0, 7.0), 2: (9.0, 8.0)}
    report = report_of(
        Selection(FULL, (FIGURE_5,), seeds=(1, 2)), tmp_path, errors=lambda run: lengths[run.seed]
    )
    (chart,) = charts.charts(report.shown)
    assert [[epoch for epoch, _ in line.means] for line in chart.lines] == [[1, 2], [1, 2]]


def test_every_net_has_a_line_of_its_own() -> None:
    nets = {row.net for exhibit in EXHIBITS for row in exhibit.rows}
    assert set(charts.STROKES) == nets
    assert len(set(charts.STROKES.values())) == len(nets)
    assert {look.hue for look in charts.STROKES.values()} == set(charts.HUES)
    assert charts.stroke(Net("unknown")).hue in charts.HUES
    for exhibit in (TABLE_3, FIGURE_4, FIGURE_5):
        looks = [charts.stroke(row.net) for row in exhibit.rows]
        assert len(set(looks)) == len(looks)


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """WCAG 2's contrast, 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_lines_and_text_stand_out(scheme: int) -> None:
    """WCAG 2 asks 3 of graphics and 4.5 of text."""
    named = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in CSS.split("@media")[:2]]
    colours = named[scheme]
    for hues in charts.HUES.values():
        assert contrast(hues[scheme], colours["page"]) >= 3
    for name in ("ink", "quiet", "link"):
        assert contrast(colours[name], colours["page"]) >= 4.5
    assert contrast(colours["mark-ink"], colours["mark-page"]) >= 4.5


@pytest.mark.parametrize("layout", [charts.WIDE, charts.NARROW])
def test_labels_do_not_overlap(layout: charts.Layout, full: Element) -> None:
    for figure in full.all("figure", "errors"):
        (drawn,) = full.by_id(figure.attributes["id"]).all("svg", layout.name)
        lines = [
            [float(row.attributes["y"]) for row in label.all("tspan") if "y" in row.attributes]
            for label in drawn.all("text", "label")
        ]
        assert lines
        assert all(below[0] - above[-1] >= layout.font for above, below in pairwise(lines))
        assert lines[0][0] > layout.font * 0.8 and lines[-1][-1] < layout.height - 10


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(5, 30)), min_size=1, max_size=9),
)
def test_spread_moves_boxes_apart_and_no_further(boxes: list[tuple[float, float]]) -> None:
    wanted = sorted(place for place, _ in boxes)
    heights = [height for _, height in boxes]
    placed = charts.spread(wanted, heights, 0, 300)
    tops = [place - height / 2 for place, height in zip(placed, heights)]
    bottoms = [place + height / 2 for place, height in zip(placed, heights)]
    # Sums of floats of up to 300.
    assert all(bottom <= top + 1e-9 for bottom, top in zip(bottoms, tops[1:]))
    assert tops[0] >= -1e-9 and bottoms[-1] <= 300 + 1e-9
    free = all(
        wanted[n + 1] - wanted[n] >= (heights[n] + heights[n + 1]) / 2
        for n in range(len(wanted) - 1)
    )
    if free and wanted[0] >= heights[0] / 2 and wanted[-1] <= 300 - heights[-1] / 2:
        assert placed == pytest.approx(wanted)


def test_spread_by_hand() -> None:
    assert charts.spread([], [], 0, 100) == []
    assert charts.spread([50, 50], [10, 10], 0, 100) == [45, 55]
    assert charts.spread([99, 99, 99], [10, 10, 10], 0, 100) == [75, 85, 95]
    assert charts.spread([50, 50, 80], [10, 30, 10], 0, 100) == [40, 60, 80]


@pytest.mark.parametrize(
    ("span", "most", "step"),
    [(300, 6, 50), (300, 3, 100), (10, 6, 2), (1.4, 6, 0.5), (41.67, 6, 10), (0, 6, 1)],
)
def test_ticks_are_round(span: float, most: int, step: float) -> None:
    assert charts.tick_step(span, most) == pytest.approx(step)


# --- in a browser ---

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
ERRORS = """<script>
window.found = {errors: []};
window.onerror = (message) => { window.found.errors.push(String(message)); };
document.addEventListener("securitypolicyviolation", (e) => {
  window.found.errors.push(`policy: ${e.violatedDirective} ${e.blockedURI}`);
});
</script>"""
CHECKS = """<script>
window.addEventListener("load", () => {
  const found = window.found;
  const root = document.documentElement;
  found.width = innerWidth;
  // Without the scroll bar that a headless browser has beside the page.
  found.overflow = root.scrollWidth - root.clientWidth;
  found.dark = getComputedStyle(document.body).backgroundColor;
  found.rows = Object.fromEntries([...document.querySelectorAll("table")].map(
    (table) => [table.id, table.querySelectorAll("tbody tr").length]));
  found.charts = [...document.querySelectorAll("figure.errors")].map((figure) => {
    const chart = [...figure.querySelectorAll("svg.chart")].find((one) => one.clientWidth > 0);
    chart.scrollIntoView();
    const box = chart.getBoundingClientRect();
    const labels = [...chart.querySelectorAll("text.label")].map((label) => {
      const {left, right, top, bottom} = label.getBoundingClientRect();
      return [left - box.left, right - box.left, top - box.top, bottom - box.top];
    });
    const scale = box.width / chart.viewBox.baseVal.width;
    const path = chart.querySelector("path.mean").getAttribute("d");
    const x = Number(path.slice(1).split("L")[1].split(" ")[0]);
    const tip = figure.querySelector(".tip");
    const shown = () => [...tip.children].map((one) => one.textContent);
    const before = tip.hidden;
    const over = {bubbles: true, clientX: box.left + x * scale, clientY: box.top + 100};
    chart.dispatchEvent(new PointerEvent("pointermove", over));
    const side = tip.getBoundingClientRect();
    const pointed = shown();
    chart.dispatchEvent(new PointerEvent("pointerleave", over));
    const left = tip.hidden;
    chart.focus();
    for (const key of ["End", "ArrowLeft"])
      chart.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    const keyed = shown();
    chart.blur();
    return {size: [box.width, box.height], scale, labels, before, pointed, left, keyed,
            tip: [side.left, side.right, side.width], after: tip.hidden};
  });
  for (const one of document.querySelectorAll("details")) one.open = true;
  found.opened = root.scrollWidth - root.clientWidth;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
FRAME = """<!doctype html><body><iframe src="checked.html" width="{0}" height="{1}"></iframe>
<pre id="found"></pre>
<script>onmessage = (e) => {{ document.getElementById("found").textContent = e.data; }};</script>"""


def look(page: Path, width: int, height: int, dark: bool, folder: Path) -> dict[str, object]:
    """What a browser finds in the page at that size: headless windows have a least width."""
    text = page.read_text(encoding="utf-8")
    checked = text.replace("<head>", "<head>" + ERRORS).replace("</body>", CHECKS + "</body>")
    (folder / "checked.html").write_text(checked, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width, height), encoding="utf-8")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *("--virtual-time-budget=10000", "--dump-dom", frame.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    parser = PageParser()
    parser.feed(match[0])
    found = json.loads(parser.open[0].text)
    assert isinstance(found, dict)
    return found


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_browser_shows_it(
    width: int, height: int, dark: bool, written: tuple[Report, Path], tmp_path: Path
) -> None:
    report, page = written
    found = look(page, width, height, dark, tmp_path)
    assert found["errors"] == []
    assert found["width"] == width
    assert (found["overflow"], found["opened"]) == (0, 0)
    assert found["dark"] == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    expected = {"table-1-table": 8, "table-2-table": 3 + 6 + 11, "table-3-table": 8}
    expected |= {"figure-3-table": 1, "figure-4-table": 3, "figure-5-table": 2, "runs-table": 168}
    counts = found["rows"]
    assert isinstance(counts, dict)
    assert {name: counts[name] for name in expected} == expected
    drawn = charts.charts(report.shown)
    seen = found["charts"]
    assert isinstance(seen, list)
    assert len(seen) == len(drawn) == 8
    for chart, one in zip(drawn, seen):
        assert one["before"] and one["left"] and one["after"]
        assert 0.9 <= one["scale"] <= 1.35
        assert one["pointed"] == shown_at(chart, 2.0)
        assert one["keyed"] == shown_at(chart, chart.last - 1)
        assert one["tip"][0] >= 0 and one["tip"][1] <= width and one["tip"][2] > 60
        assert len(one["labels"]) == len(chart.lines)
        for left, right, top, bottom in one["labels"]:
            assert left >= 0 and right <= one["size"][0] and top >= 0 and bottom <= one["size"][1]
        for first, second in combinations(sorted(one["labels"], key=lambda box: box[2]), 2):
            # A line box has some air above and below its letters.
            assert second[2] >= first[3] - 4


def shown_at(chart: charts.Chart, epoch: float) -> list[str]:
    """A tooltip's text: the epoch, then each net that has a test there."""
    return [f"Epoch {epoch:g}"] + [f"{line.label}{dict(line.means)[epoch]}" for line in chart.lines]
