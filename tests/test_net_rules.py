"""`converters.prototxt.net_rules` against Caffe's filtered layer lists and the splits of its
snapshots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converters.errors import NetError
from converters.proto import caffe_pb2 as pb
from converters.prototxt.net_rules import filter_net, insert_splits
from converters.prototxt.text import parse_net, read_net

GOLDEN = Path(__file__).parent / "golden"
STATES = json.loads((GOLDEN / "state" / "expected.json").read_text())
SNAPSHOTS = sorted(
    [*GOLDEN.glob("solvers/*/snap_*.caffemodel"), *GOLDEN.glob("training/*/snap_*.caffemodel")]
)


def case_id(case: dict[str, Any]) -> str:
    return f"{case['phase']}-{case['level']}-{'+'.join(case['stages'])}"


@pytest.mark.parametrize("case", STATES, ids=case_id)
def test_filtering_as_caffe(case: dict[str, Any]) -> None:
    net = read_net(GOLDEN / "state" / "net.prototxt")
    kept = filter_net(net, case["phase"], case["level"], case["stages"])
    assert [layer.name for layer in kept.layer] == case["layers"]
    originals = {layer.name: layer for layer in net.layer}
    assert all(layer == originals[layer.name] for layer in kept.layer)


def test_the_states_cover_both_phases_levels_and_stages() -> None:
    assert {case["phase"] for case in STATES} == {"TRAIN", "TEST"}
    assert {case["level"] for case in STATES} >= {0, 1, 2}


def test_the_nets_own_stages_count() -> None:
    net = parse_net('state { stage: "a" } layer { name: "x" include { stage: "a" stage: "b" } }')
    assert [layer.name for layer in filter_net(net, "TEST", stages=["b"]).layer] == ["x"]
    assert not filter_net(net, "TEST").layer


def test_include_beside_exclude_is_refused() -> None:
    net = parse_net('layer { name: "x" include { phase: TEST } exclude { stage: "a" } }')
    with pytest.raises(NetError, match=r'^n\.prototxt: layer "x" has 1 include and 1 exclude'):
        filter_net(net, "TEST", source="n.prototxt")


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_splits_as_in_caffes_snapshots(path: Path) -> None:
    stored = pb.NetParameter.FromString(path.read_bytes())
    net = insert_splits(filter_net(read_net(path.parent / "net.prototxt"), "TRAIN"))
    assert wiring(net) == wiring(stored)


def test_some_snapshot_has_splits() -> None:
    stored = pb.NetParameter.FromString(
        (GOLDEN / "training/gmnet_nesterov_multistep/snap_iter_16.caffemodel").read_bytes()
    )
    assert sum(layer.type == "Split" for layer in stored.layer) > 3


def wiring(net: pb.NetParameter) -> list[tuple[str, str, list[str], list[str]]]:
    return [(one.name, one.type, list(one.bottom), list(one.top)) for one in net.layer]


def test_a_loss_weight_counts_as_a_reader_and_moves_to_the_split() -> None:
    net = insert_splits(
        parse_net(
            'layer { name: "d" type: "Input" top: "d" }'
            'layer { name: "p" type: "Power" bottom: "d" top: "x" top: "y" loss_weight: 3 }'
            'layer { name: "q" type: "Power" bottom: "x" top: "z" loss_weight: 2 }'
        )
    )
    _, maker, split, reader = net.layer
    assert not maker.loss_weight
    assert split == pb.LayerParameter(
        name="x_p_0_split",
        type="Split",
        bottom=["x"],
        top=["x_p_0_split_0", "x_p_0_split_1"],
        loss_weight=[3, 0],
    )
    assert list(reader.bottom) == ["x_p_0_split_1"]
    assert list(reader.loss_weight) == [2]  # read by nobody else: it stays


def test_in_place_layers_are_split_after_the_last_of_them() -> None:
    net = insert_splits(
        parse_net(
            'layer { name: "d" type: "Input" top: "x" }'
            'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }'
            'layer { name: "a" type: "Eltwise" bottom: "x" bottom: "x" top: "y" }'
        )
    )
    assert [layer.name for layer in net.layer] == ["d", "r", "x_r_0_split", "a"]
    assert list(net.layer[3].bottom) == ["x_r_0_split_0", "x_r_0_split_1"]


INPUT = 'layer { name: "d" type: "Input" top: "x" top: "l" } '
REFUSED = [
    (
        'layer { name: "r" bottom: "x" bottom: "w" top: "y" }',
        r'layer "r": unknown bottom blob "w" \(bottom 1\); blobs made so far: x, l',
    ),
    (
        'layer { name: "r" bottom: "x" top: "y" } layer { name: "s" bottom: "l" top: "y" }',
        r'layer "s": top blob "y" is produced by multiple sources: layer "r"',
    ),
    # Another layer reads x before r overwrites it: the split renames r's bottom.
    (
        'layer { name: "a" bottom: "x" top: "y" } layer { name: "r" bottom: "x" top: "x" }',
        r'layer "r": top blob "x" is produced by multiple sources: layer "d"',
    ),
    ('layer { name: "r" bottom: "x" top: "y" top: "y" }', r'top blob "y".*layer "r" makes it'),
]


@pytest.mark.parametrize(("layers", "message"), REFUSED)
def test_refusals_name_layer_and_blob(layers: str, message: str) -> None:
    with pytest.raises(NetError, match=rf"^n\.prototxt: .*{message}"):
        insert_splits(parse_net(INPUT + layers), "n.prototxt")


def test_a_bottom_before_any_blob() -> None:
    with pytest.raises(NetError, match="no layer before it makes a blob"):
        insert_splits(parse_net('layer { name: "r" bottom: "x" top: "y" }'))
