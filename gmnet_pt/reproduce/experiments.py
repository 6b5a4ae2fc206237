"""What the paper reports, as one table: its rows and curves, their nets, and the figures it gives.

Test errors in %; where the paper gives an accuracy (Table 3), 100 minus it. Rows that only name a
difference (Figures 4 and 5) have `rise`, in points above the net they are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Net:
    """A net of the paper in one reading, as the generator names it (`prototxt_gen.options`)."""

    variant: str
    reading: str = "text"
    bu_s: str = "table"


@dataclass(frozen=True)
class Row:
    """A row of a table or a curve of a figure.

    `reported` are test errors in % by data set, empty where the paper has no such row: those are
    readings of its text, `source` says which. `beside` is the net that the paper compares it with;
    `rise` is the error's distance from that net's in points, where the paper gives that alone.
    """

    label: str
    net: Net
    source: str
    reported: Mapping[str, float] = field(default_factory=dict)
    beside: Net | None = None
    rise: float | None = None

    @property
    def is_reading(self) -> bool:
        """Not a row of the paper's, but another way to read one."""
        return not self.reported and self.rise is None


@dataclass(frozen=True)
class Exhibit:
    """A table or figure that needs nets trained: its data sets' columns, and its rows."""

    kind: str
    number: int
    title: str
    datasets: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """`Table 2`, `Figure 5`."""
        return f"{self.kind.capitalize()} {self.number}"


BUA, BUB, BASELINE = Net("bua"), Net("bub"), Net("baseline")
# A baseline with its 1×1 grouped is reading `table`, and also Figure 4's net without merging inside
# operations.
BASELINE_GROUPED = Net("baseline_no_operation_merge")

DATASETS = {
    "mnist": "MNIST",
    "cifar10": "C10",
    "cifar10_plus": "C10+",
    "cifar100": "C100",
    "cifar100_plus": "C100+",
    "svhn": "SVHN",
}
"""The sets of Table 2 by the names that the paper gives them; + is with augmentation."""

STAND_INS = {"cifar10": "cifar10_jpeg"}
"""Sets that hold a paper's set in another form: reports show them where they have no other."""


def _errors(
    mnist: float, c10: float, c10_plus: float, c100: float, c100_plus: float, svhn: float
) -> dict[str, float]:
    return dict(zip(DATASETS, (mnist, c10, c10_plus, c100, c100_plus, svhn), strict=True))


def _accuracy(percent: float) -> dict[str, float]:
    return {"cifar10": round(100 - percent, 2)}


_GROUPED_1X1 = "the 1×1 grouped as well (Table 1, section 3.1)"
_UNITS = "BU_s of three units (the depth of 29)"

TABLE_2 = Exhibit(
    "table",
    2,
    "Test error on the paper's data sets",
    tuple(DATASETS),
    (
        Row("Baseline", BASELINE, "Table 2", _errors(0.30, 7.13, 5.98, 27.59, 25.81, 2.39)),
        Row("BU_A", BUA, "Table 2", _errors(0.21, 6.81, 5.15, 27.09, 24.97, 1.88), BASELINE),
        Row("BU_B", BUB, "Table 2", _errors(0.22, 6.77, 5.62, 27.08, 25.22, 1.92), BASELINE),
        Row("Baseline, 1×1 grouped", BASELINE_GROUPED, _GROUPED_1X1, beside=BASELINE),
        Row("BU_A, 1×1 grouped", Net("bua", "table"), _GROUPED_1X1, beside=BUA),
        Row("BU_B, 1×1 grouped", Net("bub", "table"), _GROUPED_1X1, beside=BUB),
        Row("BU_A, BU_s of units", Net("bua", bu_s="units"), _UNITS, beside=BUA),
        Row("BU_A, both", Net("bua", "table", "units"), "both of these at once", beside=BUA),
    ),
)

TABLE_3 = Exhibit(
    "table",
    3,
    "Groups of the convolutions",
    ("cifar10",),
    (
        Row("No groups", Net("bua_no_groups"), "Table 3", _accuracy(92.55), BUA),
        Row("Groups in block 1", Net("bua_groups_block1"), "Table 3", _accuracy(93.03), BUA),
        Row("Groups in block 3", Net("bua_groups_block3"), "Table 3", _accuracy(93.01), BUA),
        Row("Both (theirs)", BUA, "Table 3", _accuracy(93.19)),
        Row("8+2", Net("baseline_8_2"), "Table 3, baseline", _accuracy(92.86), BASELINE),
        Row("8+4 (theirs)", BASELINE, "Table 3, baseline", _accuracy(92.87)),
        Row(
            "8+4 & 16+8", Net("baseline_8_4_16_8"), "Table 3, baseline", _accuracy(92.35), BASELINE
        ),
        Row("4+4 & 4+4", Net("baseline_4_4_4_4"), "Table 3, baseline", _accuracy(92.01), BASELINE),
    ),
)

_NO_UNIT_MERGE = Net("baseline_no_unit_merge")

FIGURE_4 = Exhibit(
    "figure",
    4,
    "Merging taken out of the baseline",
    ("cifar10",),
    (
        Row("No merging in operations", BASELINE_GROUPED, "Figure 4, left", {}, BASELINE, 0.75),
        Row("No merging in units", _NO_UNIT_MERGE, "Figure 4, middle", {}, BASELINE, 0.4),
        Row("Both levels (theirs)", BASELINE, "Figure 4, right", {"cifar10": 7.13}),
    ),
)

FIGURE_5 = Exhibit(
    "figure",
    5,
    "Summation and concatenation",
    ("cifar10",),
    (
        Row("Summation (theirs)", BUA, "Figure 5", {"cifar10": 6.81}),
        Row("Concatenation", Net("bua_concat"), "Figure 5", {}, BUA, 1.1),
    ),
)

FIGURE_3 = Exhibit(
    "figure", 3, "Feature maps", ("cifar10",), (Row("BU_A", BUA, "Figure 3", {"cifar10": 6.81}),)
)

EXHIBITS = (TABLE_2, TABLE_3, FIGURE_3, FIGURE_4, FIGURE_5)
"""All that needs training; Table 1 is counted from the prototxts (`prototxt_gen.audit`)."""


class Method(NamedTuple):
    """Another author's net as Table 2 prints it: depth, parameters, errors in %, "-" for none."""

    name: str
    depth: str
    parameters: str
    errors: Mapping[str, str]


def _method(
    name: str,
    depth: str,
    size: str,
    c10: str,
    c10p: str,
    c100: str,
    c100p: str,
    svhn: str,
    mnist: str,
) -> Method:
    """The columns in the order of the paper's table."""
    errors = dict(zip(DATASETS, (mnist, c10, c10p, c100, c100p, svhn), strict=True))
    return Method(name, depth, size, errors)


METHODS = (
    _method("Network in Network", "-", "-", "10.41", "8.81", "35.68", "-", "2.35", "0.45"),
    _method("DropConnect", "-", "-", "-", "9.32", "-", "-", "1.94", "0.23"),
    _method("Highway Network", "19", "2.3M", "-", "7.72", "-", "32.39", "-", "0.45"),
    _method("ResNet", "110", "1.7M", "-", "6.61", "-", "-", "-", "-"),
    _method("Stochastic Depth", "110", "1.7M", "11.66", "5.23", "37.8", "24.58", "1.75", "-"),
    _method("Fractal Net", "21", "38.6M", "10.18", "5.22", "35.34", "23.3", "2.01", "-"),
    _method("Wide ResNet", "16", "8.9M", "-", "4.97", "-", "22.89", "-", "-"),
    _method("Fitnet4-LSUV", "17", "2.5M", "-", "6.06", "-", "27.66", "-", "-"),
    _method("Tree+Max-Avg", "-", "-", "7.62", "6.05", "32.37", "-", "1.69", "0.31"),
    _method("DenseNet (growth 12)", "40", "1M", "7", "5.24", "27.55", "24.42", "1.79", "-"),
)
