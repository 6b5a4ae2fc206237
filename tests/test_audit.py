"""The audit: Table 1's figures for every reading, computed from the prototxt alone."""

from __future__ import annotations

import re

import pytest

from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_text
from prototxt_gen.audit import Cost, audit, describe, net_cost
from prototxt_gen.options import Options
from prototxt_gen.recipes import find_dataset
from prototxt_gen.render import net_text
from prototxt_gen.variants import VARIANTS, find_variant

# parameters, depth, multiply-adds in units of 0.1M: GMNET.md's table.
TOTALS = [
    ("bua", Options(), 1_737_290, 27, 4150),
    ("bua", Options(reading="table"), 1_547_338, 27, 3857),
    ("bub", Options(), 1_737_290, 27, 4150),
    ("bub", Options(reading="table"), 1_547_338, 27, 3857),
    ("baseline", Options(), 921_418, 23, 2067),
    ("baseline", Options(reading="table"), 659_786, 23, 1590),
]


def parsed(variant: str, options: Options) -> pb.NetParameter:
    text = net_text(find_variant(variant), find_dataset("cifar10"), options)
    return parse_text(text, pb.NetParameter(), variant)


@pytest.mark.parametrize(("variant", "options", "parameters", "depth", "multiply_adds"), TOTALS)
def test_totals(
    variant: str, options: Options, parameters: int, depth: int, multiply_adds: int
) -> None:
    cost = net_cost(parsed(variant, options)).total
    assert (cost.parameters, cost.depth) == (parameters, depth)
    assert round(cost.multiply_adds / 1e5) == multiply_adds


@pytest.mark.parametrize("reading", ["text", "table"])
def test_29_layers_come_with_bu_s_units(reading: str) -> None:
    cost = net_cost(parsed("bua", Options(bu_s="units", reading=reading))).total
    assert cost.depth == 29
    assert cost.parameters == {"text": 1_869_386, "table": 1_679_434}[reading]


def conv(kernel: int, inputs: int, outputs: int, group: int) -> int:
    """Equation (1) of the paper, then BatchNorm's scale and shift."""
    return kernel * kernel * inputs // group * outputs + 2 * outputs


def test_parts_are_table_1() -> None:
    """Each part by hand, reading text: parameters, layers, the output's height and width."""
    cost = net_cost(parsed("bua", Options()))
    found = {part.name: (part.cost.parameters, part.cost.depth, part.height) for part in cost.parts}

    def units(inputs: int, middle: int, outputs: int, group: int) -> int:
        first = conv(1, inputs, middle, 1) + conv(3, middle, outputs, group)
        return first + 2 * (conv(1, outputs, middle, 1) + conv(3, middle, outputs, group))

    assert found == {
        "bu_i": (conv(3, 3, 64, 1) + units(64, 64, 128, 8) + conv(3, 128, 128, 4), 8, 16),
        "bu_f": (units(128, 128, 256, 1), 6, 16),
        "bu_s": (conv(1, 128, 256, 1) + 3 * conv(3, 256, 256, 256), 4, 16),
        "au": (conv(3, 256, 256, 4), 1, 8),
        "bu_e": (units(256, 192, 384, 8) + conv(1, 384, 384, 4), 7, 8),
        "fc": (3850, 1, 1),
    }
    for place in range(3):
        assert sum(part.cost[place] for part in cost.parts) == cost.total[place]


def test_cost_follows_the_prototxt_not_the_generator() -> None:
    text = net_text(find_variant("bua"), find_dataset("cifar10"), Options())
    before = net_cost(parse_text(text, pb.NetParameter(), "net")).total
    # The last grouped convolution that is a BU_e unit's: 384 outputs, 192 inputs.
    changed = re.sub(r"group: 8(?!.*group: 8)", "group: 4", text, flags=re.S)
    after = net_cost(parse_text(changed, pb.NetParameter(), "net")).total
    assert after.parameters - before.parameters == 9 * 192 * 384 // 8
    assert after.depth == before.depth


def test_describe_sets_the_papers_figures_beside() -> None:
    line = describe(find_variant("baseline"), Cost(921_418, 23, 206_704_384))
    assert line == (
        "921,418 parameters (paper: 0.7M), depth 23 (paper: 23), "
        "206.7M multiply-adds an image (paper: not given)"
    )
    assert "(paper: not given), depth" in describe(find_variant("bua_concat"), Cost(1, 2, 3))


def test_audit_prints_every_reading_and_variant() -> None:
    text = audit()
    for figure in (
        "1,737,290",
        "1,547,338",
        "1,869,386",
        "1,679,434",
        "921,418",
        "659,786",
        "3,893,834",
        "1,353,562",
        "2,457,178",
        "415.0M",
        "385.7M",
        "206.7M",
        "159.0M",
    ):
        assert figure in text, figure
    for name in VARIANTS:
        assert len(re.findall(rf"^{name} +(text|table) ", text, flags=re.M)) == 2, name
    assert re.search(r"^paper +1\.5M +29 ", text, flags=re.M)
    assert re.search(r"^paper +0\.7M +23 ", text, flags=re.M)
    assert all(line == line.rstrip() for line in text.splitlines())


def test_audit_tells_the_label_of_8_4_16_8_from_the_prose() -> None:
    """Channels a group: 64/8 and 128/16 in units, 128/4 and 256/8 in adaption units."""
    text = " ".join(audit().split())
    assert "the label gives 8 (bu_i) and 8 (bu_m) in units and 32 (bu_i) and 32 (bu_m)" in text
    assert "16 channels would need other groups: 8 in bu_i, 16 in bu_m." in text
