"""The nets that can be generated: named variants, and the arithmetic from one to a model.

A `Variant` says what the paper says about a net; `build_model` adds the options and computes every
channel number, group and blob name. `templates/gmnet.prototxt.j2` only lays the model out.
Sources: the paper's Table 1 (nets), Figure 1 (basic units), Table 3, Figures 4 and 5 (variants).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from converters.nearest import known_names
from prototxt_gen import GeneratorError
from prototxt_gen.options import MOST_WIDTH, Options


class Groups(NamedTuple):
    """Group numbers of a part: of its units' 3×3 convolutions, and of its adaption unit."""

    unit: int
    adaption: int


class Growths(NamedTuple):
    """Channels that each unit adds where units are concatenated (Figure 5)."""

    bu_i: int
    middle: int
    bu_e: int


class Paper(NamedTuple):
    """What Table 1 and Table 2 say about a net."""

    parameters: str
    depth: int


_GROUPED = Groups(8, 4)
_UNGROUPED = Groups(1, 1)
_FULL = Groups(1, 4)  # BU_f's convolutions, and the adaption unit behind


@dataclass(frozen=True)
class Variant:
    """A net of the paper; the defaults are GM-Net's with BU_A.

    `form` is how a basic unit joins its three units: dense (BU_A), straight (BU_B) or separate (not
    at all). `two_paths`: BU_f beside BU_s in the middle, else BU_m; `middle` are the groups of BU_f
    or BU_m and of the adaption unit behind. `grouped_1x1` is reading `table`, whatever the option.
    """

    name: str
    summary: str
    source: str
    paper: Paper | None = None
    form: str = "dense"
    two_paths: bool = True
    bu_i: Groups = _GROUPED
    middle: Groups = _FULL
    bu_e: Groups = _GROUPED
    grouped_1x1: bool = False
    growths: Growths | None = None


def _by_name(*variants: Variant) -> Mapping[str, Variant]:
    table = {variant.name: variant for variant in variants}
    if len(table) != len(variants):
        raise ValueError("two variants have the same name")
    return table


_Baseline = partial(Variant, two_paths=False, middle=_GROUPED)

VARIANTS = _by_name(
    Variant("bua", "GM-Net with BU_A units", "Table 1", Paper("1.5M", 29)),
    Variant("bub", "GM-Net with BU_B units", "Table 1", Paper("1.5M", 29), form="straight"),
    _Baseline("baseline", "one path, BU_A units", "Table 1", Paper("0.7M", 23)),
    _Baseline("baseline_bub", "one path, BU_B units", "Table 1", form="straight"),
    Variant(
        "bua_no_groups", "no groups in BU_i and BU_e", "Table 3", bu_i=_UNGROUPED, bu_e=_UNGROUPED
    ),
    Variant("bua_groups_block1", "groups in BU_i, not in BU_e", "Table 3", bu_e=_UNGROUPED),
    Variant("bua_groups_block3", "groups in BU_e, not in BU_i", "Table 3", bu_i=_UNGROUPED),
    _Baseline(
        "baseline_8_2",
        "8 unit and 2 adaption groups in BU_i and BU_m",
        "Table 3",
        bu_i=Groups(8, 2),
        middle=Groups(8, 2),
    ),
    _Baseline(
        "baseline_8_4_16_8",
        "8 and 4 groups in BU_i, 16 and 8 in BU_m",
        "Table 3",
        bu_i=_GROUPED,
        middle=Groups(16, 8),
    ),
    _Baseline(
        "baseline_4_4_4_4",
        "4 unit and 4 adaption groups in BU_i and BU_m",
        "Table 3",
        bu_i=Groups(4, 4),
        middle=Groups(4, 4),
    ),
    _Baseline(
        "baseline_no_operation_merge", "the 1×1 grouped as well", "Figure 4", grouped_1x1=True
    ),
    _Baseline("baseline_no_unit_merge", "no sums inside a basic unit", "Figure 4", form="separate"),
    Variant(
        "bua_concat",
        "concatenation for sums, no groups in units",
        "Figure 5",
        bu_i=Groups(1, 4),
        bu_e=Groups(1, 4),
        growths=Growths(20, 40, 60),
    ),
)


def find_variant(name: str) -> Variant:
    """The variant called `name`; raises GeneratorError, which names what may have been meant."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise GeneratorError(f"unknown variant {name!r}{known_names(name, VARIANTS)}") from None


@dataclass(frozen=True)
class Conv:
    """A convolution that keeps the image's size, with BatchNorm, Scale and ReLU in place."""

    top: str
    kernel: int
    inputs: int
    outputs: int
    group: int = 1

    @property
    def pad(self) -> int:
        """(kernel - 1) / 2."""
        return self.kernel // 2

    def __str__(self) -> str:
        group = f" g={self.group}" if self.group > 1 else ""
        return f"{self.kernel}x{self.kernel}x{self.outputs}{group}"


@dataclass(frozen=True)
class Unit:
    """One convolution unit, a C of Figure 1: its convolutions in a row, then dropout."""

    convs: tuple[Conv, ...]
    dropout: float

    @property
    def top(self) -> str:
        """The blob that the unit leaves."""
        return self.convs[-1].top

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.convs))}]"


FORMS = {
    "dense": "BU_A",
    "straight": "BU_B",
    "separate": "no sums",
    "concatenated": "concatenated",
}
"""How a basic unit joins its units: the template's macros, and what the paper calls them."""


@dataclass(frozen=True)
class BasicUnit:
    """Three units and how they are joined; `top` and `outputs` are the blob it leaves.

    `join1` and `join2` are the blobs of the joins behind the first and second unit, if there are.
    """

    form: str
    units: tuple[Unit, Unit, Unit]
    join1: str
    join2: str
    top: str
    outputs: int

    def __str__(self) -> str:
        return f"3 x {self.units[1]}, {FORMS[self.form]}"


@dataclass(frozen=True)
class Adaption:
    """An adaption unit: a convolution, then 2×2 average pooling unless it is BU_e's."""

    conv: Conv
    pool: str | None

    @property
    def top(self) -> str:
        """The blob that the unit leaves."""
        return self.pool or self.conv.top

    def __str__(self) -> str:
        return f"{self.conv}, 2x2 average pooling" if self.pool else str(self.conv)


@dataclass(frozen=True)
class TwoPaths:
    """GM-Net's middle: BU_f beside BU_s (whose `bu_s_entry` is its one 1×1, if there is one)."""

    bu_f: BasicUnit
    bu_s_entry: Conv | None
    bu_s: BasicUnit
    concatenated: bool
    top: str = "au/merge"

    def __str__(self) -> str:
        return f"{self.bu_s_entry}, {self.bu_s}" if self.bu_s_entry else str(self.bu_s)


@dataclass(frozen=True)
class Model:
    """A net with all its numbers; `middle` is BU_m alone, or two paths."""

    name: str
    stem: Conv
    bu_i: BasicUnit
    bu_i_adaption: Adaption
    middle: BasicUnit | TwoPaths
    middle_adaption: Adaption
    bu_e: BasicUnit
    bu_e_adaption: Adaption

    @property
    def two_paths(self) -> bool:
        """True for GM-Net, False for a baseline."""
        return isinstance(self.middle, TwoPaths)


def build_model(variant: Variant, channels: int, options: Options) -> Model:
    """The model of `variant` for images of `channels` planes.

    Raises:
        GeneratorError: an option that the variant has no use for, or channel numbers that their
            group does not divide; the latter lists the nearest widths that work.
    """
    parts = (variant.bu_i, variant.middle, variant.bu_e)
    if options.unit_groups and all(part.unit == 1 for part in parts):
        raise GeneratorError(
            f"{variant.name}: has no grouped units, --unit-groups does not apply; "
            "--adaption-groups does"
        )
    if options.bu_s != "table" and not variant.two_paths:
        raise GeneratorError(
            f"{variant.name}: has no BU_s, --bu-s {options.bu_s} does not apply; bua and bub have"
        )
    try:
        return _Builder(variant, options, options.width).model(channels)
    except _UnevenError as error:
        near = _nearest_widths(variant, options)
        raise GeneratorError(f"{variant.name}: width {options.width:g}: {error}; {near}") from None


class _UnevenError(Exception):
    """Channels that are no whole number, or that their group does not divide."""


# All channel numbers of Table 1 are multiples of 64, so only these widths leave whole numbers.
_WIDTH_STEP = 1 / 64


def _nearest_widths(variant: Variant, options: Options) -> str:
    steps, most = int(options.width / _WIDTH_STEP), int(MOST_WIDTH / _WIDTH_STEP)
    works = partial(_works, variant, options)
    found = [
        next(filter(works, range(steps, 0, -1)), None),
        next(filter(works, range(steps + 1, most + 1)), None),
    ]
    widths = [f"{step * _WIDTH_STEP:.9g}" for step in found if step]
    if not widths:
        return f"no width up to {MOST_WIDTH} works with these groups"
    return f"the nearest widths that work: {', '.join(widths)}"


def _works(variant: Variant, options: Options, steps: int) -> bool:
    try:
        _Builder(variant, options, steps * _WIDTH_STEP).model(3)
    except _UnevenError:
        return False
    return True


class _Builder:
    """Builds one model: Table 1 with the variant's groups, at one width."""

    def __init__(self, variant: Variant, options: Options, width: float) -> None:
        self.variant = variant
        self.options = options
        self.width = width
        self.grouped_1x1 = variant.grouped_1x1 or options.reading == "table"

    def model(self, channels: int) -> Model:
        """Table 1, from top to bottom."""
        growths = self.variant.growths or Growths(0, 0, 0)
        dropout = self.options.dropout
        groups = self.variant.bu_i
        stem = self._conv("bu_i/conv3x3", 3, channels, self._scaled(64))
        bu_i = self._bottlenecks("bu_i", stem.outputs, 64, 128, groups, growths.bu_i, dropout)
        bu_i_adaption = self._adaption("bu_i/au", 3, bu_i.outputs, 128, groups)
        groups, inputs = self.variant.middle, bu_i_adaption.conv.outputs
        middle: BasicUnit | TwoPaths
        if self.variant.two_paths:
            bu_f = self._bottlenecks("bu_f", inputs, 128, 256, groups, growths.middle)
            entry, bu_s = self._single_channel_unit(inputs)
            concatenated = self.variant.growths is not None
            middle = TwoPaths(bu_f, entry, bu_s, concatenated)
            inputs = bu_f.outputs + bu_s.outputs if concatenated else bu_f.outputs
            middle_adaption = self._adaption("au", 3, inputs, 256, groups)
        else:
            middle = self._bottlenecks("bu_m", inputs, 128, 256, groups, growths.middle)
            middle_adaption = self._adaption("bu_m/au", 3, middle.outputs, 256, groups)
        groups, inputs = self.variant.bu_e, middle_adaption.conv.outputs
        bu_e = self._bottlenecks("bu_e", inputs, 192, 384, groups, growths.bu_e, dropout)
        bu_e_adaption = self._adaption("bu_e/au", 1, bu_e.outputs, 384, groups)
        return Model(
            self.variant.name,
            stem,
            bu_i,
            bu_i_adaption,
            middle,
            middle_adaption,
            bu_e,
            bu_e_adaption,
        )

    def _bottlenecks(
        self,
        name: str,
        inputs: int,
        middle: int,
        outputs: int,
        groups: Groups,
        growth: int = 0,
        dropout: float = 0.0,
    ) -> BasicUnit:
        """Three times 1×1 to `middle`, 3×3 to `outputs`; with a growth, a small DenseNet block."""
        group = self._overridden(groups.unit, self.options.unit_groups)
        if growth:
            wide = self._growth(growth)
            sizes = [(inputs + wide * place, 4 * wide, wide) for place in range(3)]
            form, total = "concatenated", inputs + 3 * wide
        else:
            wide, narrow = self._scaled(outputs), self._scaled(middle)
            sizes = [(inputs, narrow, wide), (wide, narrow, wide), (wide, narrow, wide)]
            form, total = self.variant.form, wide
        first, second, third = (
            Unit(
                (
                    self._conv(
                        f"{name}/unit{number}/conv1x1",
                        1,
                        before,
                        between,
                        group if self.grouped_1x1 else 1,
                    ),
                    self._conv(f"{name}/unit{number}/conv3x3", 3, between, after, group),
                ),
                dropout,
            )
            for number, (before, between, after) in enumerate(sizes, 1)
        )
        return _joined(name, form, (first, second, third), total)

    def _single_channel_unit(self, inputs: int) -> tuple[Conv | None, BasicUnit]:
        """BU_s: 3×3 convolutions of one channel a group, behind one 1×1, or each behind its own."""
        wide = self._scaled(256)
        each = self.options.bu_s == "units"
        entry = None if each else self._conv("bu_s/conv1x1", 1, inputs, wide)
        units = []
        for number in (1, 2, 3):
            name = f"bu_s/unit{number}"
            convs = [self._conv(f"{name}/conv3x3", 3, wide, wide, wide)]
            if each:
                before = inputs if number == 1 else wide
                convs.insert(0, self._conv(f"{name}/conv1x1", 1, before, wide))
            units.append(Unit(tuple(convs), 0.0))
        first, second, third = units
        return entry, _joined("bu_s", self.variant.form, (first, second, third), wide)

    def _adaption(
        self, name: str, kernel: int, inputs: int, outputs: int, groups: Groups
    ) -> Adaption:
        group = self._overridden(groups.adaption, self.options.adaption_groups)
        conv = self._conv(
            f"{name}/conv{kernel}x{kernel}", kernel, inputs, self._scaled(outputs), group
        )
        return Adaption(conv, f"{name}/pool" if kernel > 1 else None)

    @staticmethod
    def _overridden(group: int, option: int | None) -> int:
        return option if option and group > 1 else group

    def _scaled(self, channels: int) -> int:
        scaled = channels * self.width
        if not scaled.is_integer():
            raise _UnevenError(f"{channels} channels become {scaled:g}, no whole number")
        return int(scaled)

    def _growth(self, growth: int) -> int:
        """The nearest multiple of 4, the larger of two, at least 4."""
        return max(4, 4 * int(growth * self.width / 4 + 0.5))

    @staticmethod
    def _conv(name: str, kernel: int, inputs: int, outputs: int, group: int = 1) -> Conv:
        for channels in (inputs, outputs):
            if channels % group:
                raise _UnevenError(
                    f'layer "{name}": {channels} channels are not divisible by group {group}'
                )
        return Conv(name, kernel, inputs, outputs, group)


def _joined(name: str, form: str, units: tuple[Unit, Unit, Unit], outputs: int) -> BasicUnit:
    join = "concat" if form == "concatenated" else "sum"
    top = units[-1].top if form == "separate" else f"{name}/{join}3"
    return BasicUnit(form, units, f"{name}/{join}1", f"{name}/{join}2", top, outputs)
