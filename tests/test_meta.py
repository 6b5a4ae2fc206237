"""The step on torch's meta device: shapes without values, so whoever needs a value fails here.

A number made of a tensor would make a GPU's host wait, or fix in a CUDA graph what is to change; a
tensor made on the CPU would be copied in each pass. Neither shows on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from golden_case import GOLDEN, READY, case_folder
from small_net import load_text
from stand_in_graphs import refuse_waiting, tensors
from test_layers import CASES
from test_resume import EVERYTHING
from test_updates import RULES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from converters import CaffeNet, load_net
from converters.layers import LAYERS, Layer
from converters.proto import caffe_pb2 as pb
from gmnet_pt.solver.precision import FP32
from gmnet_pt.solver.step import TrainingStep
from gmnet_pt.solver.updates import Updater

META = torch.device("meta")
# Their results have as many items as the data say, or they need the host for themselves.
NEED_HOST = {name for name, layer in LAYERS.items() if layer.needs_host}


class OnDevice(TorchDispatchMode):
    """Refuses operations on tensors that are not on the meta device, and those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        refuse_waiting(function, args)
        result = function(*args, **(kwargs or {}))
        for x in tensors((args, kwargs, result)):
            assert x.device == META, f"{function} has a tensor on {x.device}"
        self.operations += 1
        return result


def on_meta(net: CaffeNet) -> tuple[CaffeNet, dict[str, Tensor]]:
    """The net there, and inputs of its shapes."""
    shapes = net.plan.input_shapes()
    return net.to(META), {name: torch.empty(shape, device=META) for name, shape in shapes.items()}


def iterate(net: CaffeNet, solver: pb.SolverParameter) -> int:
    """A whole iteration with its update; how many operations it took."""
    learnables = net.plan.learnables
    net, feed = on_meta(net)
    updater = Updater(
        net.learnable,
        [entry.lr_mult for entry in learnables],
        [entry.decay_mult for entry in learnables],
        solver,
    )
    # The device is for autocast, which knows no meta.
    step = TrainingStep(net, updater, torch.device("cpu"), FP32)
    rate, iteration = (torch.empty((), dtype=d, device=META) for d in (None, torch.float64))
    with OnDevice() as there:
        passed = step([feed] * solver.iter_size, rate, iteration)
    assert all(x.device == META for x in (passed.loss, *passed.outputs.values()))
    assert all(x.device == META for x in updater.updates)
    return there.operations


@pytest.mark.parametrize("rule", RULES)
def test_a_whole_iteration(rule: str) -> None:
    """Clipping, decay and iter_size with each rule; dropout, statistics, a hidden state."""
    shapes = {"data": (5, 1, 5, 5), "label": (5,)}
    net = load_text(EVERYTHING, "TRAIN", input_shapes=shapes)
    solver = pb.SolverParameter(
        type=rule, iter_size=2, clip_gradients=1, weight_decay=0.1, regularization_type="L1"
    )
    assert iterate(net, solver) > 100


@pytest.mark.parametrize("name", ["net_lenet", "net_gmnet_bua", "net_quick_lrn", "net_grouped_bn"])
def test_an_iteration_of_a_known_net(name: str) -> None:
    net = load_net(GOLDEN / "layers" / name / "net.prototxt", "TRAIN")
    assert iterate(net, pb.SolverParameter(type="Nesterov", momentum=0.9)) > 50


def golden_nets() -> Iterator[tuple[str, CaffeNet]]:
    for name in CASES:
        yield name, load_net(GOLDEN / "layers" / name / "net.prototxt", "TRAIN")


# bua's halves: bua itself is there.
LONG = ("net_gmnet_baseline", "net_gmnet_bub")


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.long) if x in LONG else x for x in (*CASES, *READY)],
)
def test_every_layer_forward_and_backward(name: str) -> None:
    net = load_net(case_folder(name) / "net.prototxt", "TRAIN")
    net, feed = on_meta(net)
    waits = NEED_HOST & {position.layer.type for position in net.plan.layers}
    stops = pytest.raises(RuntimeError, match="waits for the device") if waits else nullcontext()
    with stops, OnDevice() as there:
        blobs = net({name: x.requires_grad_() for name, x in feed.items()}, blobs="all")
        for total in [x.float().sum() for x in blobs.values() if x.requires_grad]:
            total.backward(retain_graph=True)
    assert waits or there.operations


def test_every_type_is_among_them() -> None:
    """Of Caffe's 61, but for those that read data or need the host."""
    known = {p.layer.type for _, net in golden_nets() for p in net.plan.layers}
    data = {"Data", "ImageData", "WindowData", "HDF5Data", "MemoryData"}
    caffes = {name for name, layer in LAYERS.items() if layer.origin == Layer.origin}
    assert caffes - known - NEED_HOST == data
    assert {"Filter", "HDF5Output", "Python"} == NEED_HOST & caffes
