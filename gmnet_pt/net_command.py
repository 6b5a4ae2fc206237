"""What the commands on a single net share: the net they open, and what feeds it.

They compute as Caffe does, in plain fp32 (`gmnet_pt.solver.precision.FP32`).
`gmnet_pt.test`, `gmnet_pt.time`, `gmnet_pt.features` and `gmnet_pt.classify` are such commands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from converters.errors import SolverError
from converters.memory import keep_freed
from converters.net.caffe_net import CaffeNet
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.proto import caffe_pb2 as pb
from gmnet_pt.log.events import Event, Finetune, Message
from gmnet_pt.solver.batches import Batches, closing, open_net_batches
from gmnet_pt.solver.device import device_message, named_device, solver_device


class OpenNet(NamedTuple):
    """A net on its device."""

    net: CaffeNet
    device: torch.device


def use_threads(number: int | None) -> None:
    """Compute with as many threads, if a number was given.

    Raises:
        SolverError: there are fewer processors.
    """
    if number is None:
        return
    if number > (processors := os.cpu_count() or number):
        raise SolverError(f"--threads {number}: this machine has {processors} processors")
    torch.set_num_threads(number)


def open_net(choice: NetChoice, wanted: str | None, show: Callable[[Event], None]) -> OpenNet:
    """The net of a choice on the device called `wanted`, or the best; tells what it does.

    Raises:
        CaffeError: as `load_net`; no such device.
    """
    default = solver_device(pb.SolverParameter())
    device = default if wanted is None else named_device(wanted)
    show(device_message(device))
    if device.type == "cpu":
        keep_freed()
    net = CaffeNet(plan_net(choice))
    report = net.initialize(choice.weights, choice.strict)
    for file in choice.weights:
        show(Finetune(file))
    if choice.weights:
        for line in report.lines():
            show(Message(line, "net.cpp:746"))
    return OpenNet(net.to(device), device)


@contextmanager
def opened_data(net: CaffeNet) -> Iterator[Sequence[Batches]]:
    """The feeders of the net's data layers, closed at the end.

    Raises:
        DataError: a data layer's files are absent or damaged, or it reads none.
    """
    with closing(open_net_batches(net)) as batches:
        yield batches
