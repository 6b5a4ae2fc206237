"""The nets that a solver file names, each in its state. Source: Caffe solver.cpp, InitTrainNet,
InitTestNets.
"""

from __future__ import annotations

from pathlib import Path

from converters.environment import find_file
from converters.errors import CaffeError, SolverError
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import read_net
from converters.prototxt.upgrade import upgrade_net


def train_net(solver: pb.SolverParameter, source: Path) -> NetChoice:
    """The net to train with its state: solver default < net's state < train_state.

    Raises:
        SolverError: the solver names none, or one that does not exist.
    """
    fields = ("train_net_param", "train_net", "net_param", "net")
    name = next((field for field in fields if solver.HasField(field)), None)
    if name is None:
        raise SolverError(f"{source}: names no net; give one of {', '.join(fields)}")
    state = pb.NetState(phase=pb.TRAIN)
    return _net(getattr(solver, name), f"{source}: {name}", source, state, solver.train_state)


def test_nets(solver: pb.SolverParameter, source: Path) -> list[NetChoice]:
    """The test nets in Caffe's order: test_net_params, test_nets, then the general net again."""
    nets: list[pb.NetParameter | str] = [*solver.test_net_param, *solver.test_net]
    remaining = len(solver.test_iter) - len(nets)
    if remaining:
        nets += [solver.net_param if solver.HasField("net_param") else solver.net] * remaining
    states = list(solver.test_state) or [pb.NetState()] * len(nets)
    return [
        _net(net, f"{source}: test net #{index}", source, pb.NetState(phase=pb.TEST), state)
        for index, (net, state) in enumerate(zip(nets, states))
    ]


def _net(
    given: pb.NetParameter | str,
    inline: str,
    source: Path,
    default: pb.NetState,
    state: pb.NetState,
) -> NetChoice:
    if isinstance(given, str):
        path = find_file(given, source.parent)
        try:
            message, name = read_net(path), str(path)
        except CaffeError as error:
            if path.exists():
                raise
            raise SolverError(f"{source}: its net {given} does not exist") from error
    else:
        message = pb.NetParameter()
        message.CopyFrom(given)
        # Paths in an inline net are relative to the solver file.
        message, name = upgrade_net(message, inline), str(source)
    merged = pb.NetState()
    for one in (default, message.state, state):
        merged.MergeFrom(one)
    phase = pb.Phase.Name(merged.phase)
    return NetChoice(name, message, phase, merged.level, tuple(merged.stage))
