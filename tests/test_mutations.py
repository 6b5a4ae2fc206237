"""Nets and solvers with something changed at random: a net or one of our own errors, never else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_case import GOLDEN, READY, case_folder
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters.errors import CaffeError
from converters.layers import LAYERS
from converters.net.caffe_net import build_net
from converters.net.choice import NetChoice
from converters.net.plan import NetPlan, plan_net
from converters.proto import caffe_pb2 as pb
from converters.proto.forks import fork_of
from converters.prototxt.text import parse_net, parse_text, read_net, to_text
from converters.prototxt.upgrade import upgrade_solver
from gmnet_pt.solver import solver_file

LARGEST = 200_000
"""Nets of more values than this are planned and not run: the test is about errors, not memory."""

NETS = {
    path.parent.name: path.read_text()
    for path in [
        *sorted((GOLDEN / "layers").glob("*/net.prototxt")),
        *(case_folder(name) / "net.prototxt" for name in READY),
    ]
    if not path.parent.name.startswith("net_gmnet")
}
SOLVERS = [path.read_text() for path in sorted((GOLDEN / "solvers").glob("*/solver.prototxt"))]
NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "65536",
    "4294967295",
    "-2147483648",
    "1e38",
    "nan",
    "inf",
]
WORDS = ['"x"', '""', '"../../x"', "true", "false", "MAX", "{", "}", "#", ":", '"', "\\", "\0", "é"]


def mutate_text(draw: st.DrawFn, text: str) -> str:
    """Replace, remove, repeat or insert tokens."""
    tokens = re.findall(r'"[^"]*"|[\w.+-]+|\S|\s+', text)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(tokens) - 1))
        change = draw(st.sampled_from(["number", "word", "remove", "repeat", "type"]))
        if change == "number":
            numbers = [i for i, token in enumerate(tokens) if re.fullmatch(r"-?[\d.]+", token)]
            if numbers:
                tokens[numbers[place % len(numbers)]] = draw(st.sampled_from(NUMBERS))
        elif change == "word":
            tokens[place] = draw(st.sampled_from(WORDS))
        elif change == "remove":
            end = draw(st.integers(place, min(place + 12, len(tokens))))
            del tokens[place:end]
            tokens = tokens or [" "]
        elif change == "repeat":
            tokens.insert(place, tokens[draw(st.integers(0, len(tokens) - 1))])
        else:
            types = [i for i, token in enumerate(tokens) if token.strip('"') in LAYERS]
            if types:
                kind = draw(st.sampled_from(sorted(LAYERS)))
                tokens[types[place % len(types)]] = f'"{kind}"'
    return "".join(tokens)


def mutate_message(draw: st.DrawFn, message: Message) -> None:
    """Set or clear a field somewhere below `message`, within its type."""
    fields = list(message.DESCRIPTOR.fields)
    if isinstance(message, pb.LayerParameter):
        read = LAYERS[message.type].params if message.type in LAYERS else ()
        fields = [f for f in fields if f.name in read or not (fork_of(f) and f.message_type)]
    field = draw(st.sampled_from(fields))
    value: Any = getattr(message, field.name)
    if field.message_type is not None:
        if not field.is_repeated:
            mutate_message(draw, value)
        elif len(value):
            mutate_message(draw, value[draw(st.integers(0, len(value) - 1))])
        return
    if draw(st.booleans()):
        message.ClearField(field.name)
        return
    made = draw(_value_of(field))
    if field.is_repeated:
        value.append(made)
    else:
        setattr(message, field.name, made)


def _value_of(field: Any) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    kinds: dict[int, st.SearchStrategy[Any]] = {
        field.CPPTYPE_INT32: st.integers(-3, 9) | st.just(-(2**31)),
        field.CPPTYPE_UINT32: st.integers(0, 9) | st.just(2**32 - 1),
        field.CPPTYPE_INT64: st.integers(-3, 9) | st.just(2**62),
        field.CPPTYPE_FLOAT: st.sampled_from([0.0, 1.0, -1.0, 0.5, math.inf, math.nan, 3e38]),
        field.CPPTYPE_BOOL: st.booleans(),
        field.CPPTYPE_STRING: st.sampled_from(["", "x", "y", "data", "../x", "ReLU", "é/ "]),
    }
    return kinds[field.cpp_type]


def size_of(plan: NetPlan) -> int:
    tops = sum(math.prod(shape) for layer in plan.layers for shape in layer.top_shapes)
    return tops + sum(math.prod(entry.spec.shape) for entry in plan.learnables)


def use(net: pb.NetParameter, folder: str) -> None:
    """Plan the net in both phases; build it and run it forward and backward if it is small."""
    for phase in ("TRAIN", "TEST"):
        source = f"{folder}/net.prototxt"
        choice = NetChoice(source, net, phase)
        plan = plan_net(choice)
        if size_of(plan) > LARGEST:
            continue
        torch.manual_seed(0)
        built = build_net(choice)
        shapes = built.plan.input_shapes()
        feed = {name: torch.rand(shape) for name, shape in shapes.items()}
        loss, _ = built.loss(feed)
        if loss.requires_grad:
            loss.backward()


def outcome(act: Callable[[], Any]) -> str:
    """ "" or the message of our own error, which must be one line that says something."""
    try:
        with np.errstate(all="ignore"):
            act()
    except CaffeError as error:
        message = str(error)
        assert len(message) > 20 and "\n" not in message, message
        assert ".prototxt" in message, message
        return message
    return ""


# Nothing may be written: the names in mutated nets are relative, HDF5Output's too.
COMMON = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@COMMON
@given(st.data())
def test_a_mutated_text_gives_a_net_or_our_error(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    folder = str(tmp_path_factory.getbasetemp())
    text = mutate_text(data.draw, data.draw(st.sampled_from(sorted(NETS.values()))))
    outcome(lambda: use(parse_net(text, "net.prototxt"), folder))


@COMMON
@given(st.data())
def test_a_mutated_message_gives_a_net_or_our_error(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    folder = str(tmp_path_factory.getbasetemp())
    net = parse_net(data.draw(st.sampled_from(sorted(NETS.values()))), "net.prototxt")
    for _ in range(data.draw(st.integers(1, 3))):
        mutate_message(data.draw, net.layer[data.draw(st.integers(0, len(net.layer) - 1))])
    outcome(lambda: use(parse_net(to_text(net), "net.prototxt"), folder))


@COMMON
@given(st.data())
def test_a_mutated_solver_is_read_or_refused(data: st.DataObject) -> None:
    text = mutate_text(data.draw, data.draw(st.sampled_from(SOLVERS)))

    def read() -> None:
        solver = upgrade_solver(parse_text(text, pb.SolverParameter(), "s.prototxt"), "s.prototxt")
        solver_file.check(solver, "s.prototxt")

    outcome(read)


@COMMON
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_at_all_is_a_net_or_our_error(text: str) -> None:
    outcome(lambda: parse_net(text, "net.prototxt"))


@COMMON
@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_a_net_or_our_error(tmp_path_factory: Any, content: bytes) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "bytes.prototxt"
    path.write_bytes(content)
    outcome(lambda: read_net(path))
