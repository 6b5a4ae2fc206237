"""What Caffe does to a net's layer list before it builds anything: filtering and splitting.

`filter_net` keeps the layers of a phase, level and stages; `insert_splits` gives every reader of a
shared blob its own copy. Sources: Caffe net.cpp (FilterNet, StateMeetsRule, AppendTop,
AppendBottom) and util/insert_splits.cpp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from converters.errors import NetError
from converters.proto import caffe_pb2 as pb


def filter_net(
    net: pb.NetParameter,
    phase: str,
    level: int = 0,
    stages: Sequence[str] = (),
    source: str = "",
) -> pb.NetParameter:
    """A copy of `net` with the layers whose include/exclude rules admit this state.

    `phase` is "TRAIN" or "TEST". The net's own `state.stage`s count as well as `stages`, as they do
    in Caffe; its `state.level` is the caller's to pass.

    Raises:
        NetError: a layer has both include and exclude rules; `source` names the file.
    """
    state = State(pb.Phase.Value(phase), level, frozenset(stages) | frozenset(net.state.stage))
    kept = pb.NetParameter()
    kept.CopyFrom(net)
    kept.ClearField("layer")
    kept.layer.extend(layer for layer in net.layer if _is_included(layer, state, source))
    return kept


def insert_splits(net: pb.NetParameter, source: str = "") -> pb.NetParameter:
    """A copy of the filtered `net` with Caffe's automatic Split layers and renamed bottoms.

    A top read n > 1 times (its own non-zero loss_weight counts as a read) is followed by a Split
    layer BLOB_LAYER_INDEX_split with the tops …_split_0 to …_split_(n-1); its loss_weight moves to
    the first of them and, as in Caffe, all loss_weights of its layer are cleared.

    Raises:
        NetError: a bottom that no earlier layer makes, or a blob made by more than one layer, as
            Caffe sees it: a blob that one layer reads and another then overwrites in place is one.
    """
    reads = _trace_reads(net, source)
    split = pb.NetParameter()
    split.CopyFrom(net)
    split.ClearField("layer")
    given: Counter[Top] = Counter()
    for index, layer in enumerate(net.layer):
        reader = split.layer.add()
        reader.CopyFrom(layer)
        for position, top in enumerate(reads.tops_read[index]):
            if reads.counts[top] > 1:
                reader.bottom[position] = _copy_name(net, top, given[top])
                given[top] += 1
        for position in range(len(layer.top)):
            top = Top(index, position)
            if reads.counts[top] <= 1:
                continue
            split.layer.append(_split_layer(net, top, reads))
            if reads.loss_weights.get(top):
                reader.ClearField("loss_weight")
                given[top] += 1  # the first copy is the loss
    _check_single_sources(split, source or net.name)
    return split


class State(NamedTuple):
    """What the rules of a layer are compared with."""

    phase: int
    level: int
    stages: frozenset[str]


class Top(NamedTuple):
    """A top by the index of its layer and its place among the layer's tops."""

    layer: int
    position: int


class Reads(NamedTuple):
    """Which top each bottom reads, how often each top is read, and its explicit loss weight."""

    tops_read: list[list[Top]]
    counts: Counter[Top]
    loss_weights: dict[Top, float]


def _is_included(layer: pb.LayerParameter, state: State, source: str) -> bool:
    if layer.include and layer.exclude:
        raise NetError(
            f'{source}: layer "{layer.name}" has {len(layer.include)} include and '
            f"{len(layer.exclude)} exclude rules; give only one kind"
        )
    if layer.include:
        return any(_meets(state, rule) for rule in layer.include)
    return not any(_meets(state, rule) for rule in layer.exclude)


def _meets(state: State, rule: pb.NetStateRule) -> bool:
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and state.stages.issuperset(rule.stage)
        and state.stages.isdisjoint(rule.not_stage)
    )


def _trace_reads(net: pb.NetParameter, source: str) -> Reads:
    last_top: dict[str, Top] = {}
    reads = Reads([], Counter(), {})
    for index, layer in enumerate(net.layer):
        for position, blob in enumerate(layer.bottom):
            if blob not in last_top:
                raise NetError(
                    f'{source or net.name}: layer "{layer.name}": unknown bottom blob "{blob}" '
                    f"(bottom {position}); {_known(last_top)}"
                )
        reads.tops_read.append([last_top[blob] for blob in layer.bottom])
        reads.counts.update(reads.tops_read[-1])
        last_top |= {blob: Top(index, position) for position, blob in enumerate(layer.top)}
        for blob, weight in zip(layer.top, layer.loss_weight, strict=False):
            reads.loss_weights[last_top[blob]] = weight
            reads.counts[last_top[blob]] += bool(weight)
    return reads


def _split_layer(net: pb.NetParameter, top: Top, reads: Reads) -> pb.LayerParameter:
    copies = reads.counts[top]
    layer = pb.LayerParameter(
        name=_split_name(net, top),
        type="Split",
        bottom=[net.layer[top.layer].top[top.position]],
        top=[_copy_name(net, top, copy) for copy in range(copies)],
    )
    if weight := reads.loss_weights.get(top):
        layer.loss_weight.extend([weight, *[0.0] * (copies - 1)])
    return layer


def _split_name(net: pb.NetParameter, top: Top) -> str:
    layer = net.layer[top.layer]
    return f"{layer.top[top.position]}_{layer.name}_{top.position}_split"


def _copy_name(net: pb.NetParameter, top: Top, copy: int) -> str:
    return f"{_split_name(net, top)}_{copy}"


def _check_single_sources(net: pb.NetParameter, source: str) -> None:
    """Refuse a top whose name exists already, unless the layer works on it in place."""
    maker: dict[str, str] = {}
    for layer in net.layer:
        for position, blob in enumerate(layer.top):
            in_place = list(layer.bottom[position : position + 1]) == [blob]
            if blob in maker and not in_place:
                raise NetError(
                    f'{source}: layer "{layer.name}": top blob "{blob}" is produced by multiple '
                    f'sources: layer "{maker[blob]}" makes it already, and a layer may overwrite '
                    "it in place only if no other has read it; give the top a name of its own"
                )
            maker[blob] = layer.name


def _known(blobs: Iterable[str]) -> str:
    names = list(blobs)
    shown = ", ".join(names[-12:])
    more = f" and {len(names) - 12} before them" if len(names) > 12 else ""
    return f"blobs made so far: {shown}{more}" if names else "no layer before it makes a blob"
