"""What generated nets cost beside what the paper says: Table 1 and the other variants.

Every figure is computed from the generated prototxt, parsed with Caffe's schema; what the generator
meant to write plays no part. A part is what the layers' names begin with (`bu_i/…`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from converters.command_line.table import aligned
from converters.layers import LAYERS
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.net.summary import SummaryRow, summarize
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_text
from prototxt_gen.options import READINGS, Options
from prototxt_gen.recipes import find_dataset
from prototxt_gen.render import net_text
from prototxt_gen.variants import VARIANTS, Variant, find_variant

_NOT_GIVEN = "not given"


class Cost(NamedTuple):
    """Parameters (BatchNorm's statistics are none), convolution and fc layers, multiply-adds."""

    parameters: int
    depth: int
    multiply_adds: int


class Part(NamedTuple):
    """A part of Table 1, the height and width of its last blob, and what it costs."""

    name: str
    height: int
    width: int
    cost: Cost


class NetCost(NamedTuple):
    """A net's parts in the order of their first layers, and the whole."""

    parts: tuple[Part, ...]
    total: Cost


def net_cost(net: pb.NetParameter) -> NetCost:
    """What a deploy net costs for one image.

    Raises:
        NetError, ShapeError: the net does not fit together.
    """
    summary = summarize(plan_net(NetChoice("<net>", net)))
    rows: dict[str, list[SummaryRow]] = {}
    for row in summary.rows:
        rows.setdefault(row.name.split("/")[0], []).append(row)
    costs = {name: _cost(members) for name, members in rows.items()}
    parts = tuple(
        Part(name, *_size(rows[name][-1]), cost) for name, cost in costs.items() if cost.depth
    )
    depth = sum(cost.depth for cost in costs.values())
    return NetCost(parts, Cost(summary.parameters, depth, summary.multiply_adds))


def _cost(rows: Iterable[SummaryRow]) -> Cost:
    parameters = depth = multiply_adds = 0
    for row in rows:
        parameters += row.learnable_parameters
        depth += LAYERS[row.type].counts_as_depth
        multiply_adds += row.multiply_adds
    return Cost(parameters, depth, multiply_adds)


def _size(row: SummaryRow) -> tuple[int, int]:
    height, width = (*row.top_shapes[0], 1, 1)[2:4]
    return height, width


def describe(variant: Variant, cost: Cost) -> str:
    """One line: a net's cost beside the paper's figures for the variant."""
    parameters, depth = variant.paper or (_NOT_GIVEN, _NOT_GIVEN)
    return (
        f"{cost.parameters:,} parameters (paper: {parameters}), "
        f"depth {cost.depth} (paper: {depth}), "
        f"{_millions(cost.multiply_adds)} multiply-adds an image (paper: {_NOT_GIVEN})"
    )


def audit() -> str:
    """Table 1 for every reading, then the totals of all variants, then what does not fit."""
    sections = [
        "Computed from the generated deploy.prototxt for CIFAR-10: parameters with BatchNorm's\n"
        "scale and shift, depth as convolution and fc layers, multiply-adds of both for an image."
    ]
    sections += [_table1(find_variant(name)) for name in ("bua", "bub", "baseline", "baseline_bub")]
    sections += [_totals(), _notes()]
    return "\n\n".join(sections)


class Counted(NamedTuple):
    """A way to read the paper, in the generator's words, and what the net costs then."""

    reading: str
    bu_s: str
    cost: NetCost

    @property
    def heading(self) -> str:
        """`reading table, bu_s units`."""
        return f"reading {self.reading}" + (", bu_s units" if self.bu_s == "units" else "")


def count_readings(variant: Variant) -> list[Counted]:
    """What a net of Table 1 costs in each reading, for CIFAR-10 at full width."""
    forms = ("table", "units") if variant.two_paths else ("table",)
    return [
        Counted(reading, bu_s, net_cost(_deploy(variant, Options(reading=reading, bu_s=bu_s))))
        for bu_s in forms
        for reading in READINGS
    ]


def _table1(variant: Variant) -> str:
    columns = count_readings(variant)
    rows = [("part", "output", *("parameters  depth  mult-adds" for _ in columns))]
    for parts in zip(*(column.cost.parts for column in columns), strict=True):
        size = f"{parts[0].height}x{parts[0].width}"
        rows.append((parts[0].name, size, *(_cells(part.cost) for part in parts)))
    rows.append(("total", "", *(_cells(column.cost.total) for column in columns)))
    paper = _NOT_GIVEN
    if variant.paper:
        paper = f"{variant.paper.parameters:>10}  {variant.paper.depth:>5}  {_NOT_GIVEN}"
    rows.append(("paper", "", *(paper for _ in columns)))
    heading = ("", "", *(column.heading for column in columns))
    return f"{variant.name}: {variant.summary} ({variant.source})\n{_table([heading, *rows])}"


def _cells(cost: Cost) -> str:
    return f"{cost.parameters:>10,}  {cost.depth:>5}  {_millions(cost.multiply_adds):>9}"


def _totals() -> str:
    rows = [("variant", "reading", "source", "parameters", "depth", "mult-adds", "paper")]
    for variant in VARIANTS.values():
        paper = variant.paper
        said = f"{paper.parameters}, {paper.depth}" if paper else ""
        for reading in READINGS:
            cost = net_cost(_deploy(variant, Options(reading=reading))).total
            rows.append(
                (
                    variant.name,
                    reading,
                    variant.source,
                    f"{cost.parameters:>10,}",
                    f"{cost.depth:>5}",
                    f"{_millions(cost.multiply_adds):>9}",
                    said,
                )
            )
    concat = net_cost(_deploy(find_variant("bua_concat"), Options(adaption_groups=1))).total
    return (
        f"All variants\n{_table(rows)}\n"
        f"bua_concat with --adaption-groups 1: {concat.parameters:,} parameters"
    )


def _notes() -> str:
    units = _channels_per_group("baseline_8_4_16_8", "/unit")
    adaption = _channels_per_group("baseline_8_4_16_8", "/au/")
    wanted = ", ".join(
        f"{channels * groups // 16} in {part}" for part, (channels, groups) in adaption.items()
    )
    return "\n".join(
        (
            "What does not fit",
            "- Table 1's parameter counts are those of reading table, its depth 29 that of bu_s",
            "  units; section 3.3 and Figure 4 describe reading text. No reading gives both 29",
            "  layers and 1.5M parameters.",
            "- baseline_8_4_16_8 has the groups of Table 3's label. The prose asks for 8 channels",
            f"  a group in units and 16 in adaption units; the label gives {_shown(units)} in",
            f"  units and {_shown(adaption)} in adaption units, where 16 channels",
            f"  would need other groups: {wanted}.",
        )
    )


def _channels_per_group(variant: str, place: str) -> dict[str, tuple[int, int]]:
    """Input channels a group and groups of the 3×3 convolutions at `place` in BU_i and BU_m."""
    net = _deploy(find_variant(variant), Options())
    groups = {layer.name: layer.convolution_param.group for layer in net.layer}
    return {
        row.name.split("/")[0]: (row.blob_shapes[0][1], groups[row.name])
        for row in summarize(plan_net(NetChoice("<net>", net))).rows
        if row.type == "Convolution"
        and place in row.name
        and row.blob_shapes[0][2] == 3
        and not row.name.startswith("bu_e")
    }


def _shown(parts: dict[str, tuple[int, int]]) -> str:
    return " and ".join(f"{channels} ({part})" for part, (channels, _) in parts.items())


def _deploy(variant: Variant, options: Options) -> pb.NetParameter:
    text = net_text(variant, find_dataset("cifar10"), options)
    return parse_text(text, pb.NetParameter(), variant.name)


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f}M"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(aligned(rows, gap="   "))
