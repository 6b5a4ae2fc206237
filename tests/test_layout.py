"""The memory format of a run: chosen once, kept in its snapshots, and of no effect on values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_net import load_text
from test_bad_input import Folder
from test_resume import EVERYTHING, assert_same, random_folder

from converters import CaffeNet, save_caffemodel
from converters.errors import CaffeError
from gmnet_pt import Solver
from gmnet_pt.log.events import Event, Message
from gmnet_pt.solver import layout as layouts
from gmnet_pt.solver import snapshot as snapshots
from gmnet_pt.solver.layout import LAYOUTS

TALL = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "drop" type: "Dropout" bottom: "bn" top: "drop" }
layer { name: "fc" type: "InnerProduct" bottom: "drop" top: "fc" loss_weight: 1
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    made = random_folder(tmp_path)
    (tmp_path / "net.prototxt").write_text(EVERYTHING)
    return made


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nets of any size are measured."""
    monkeypatch.setattr(layouts, "_LEAST", 0)
    yield


def faster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a clock say that forward and backward take longer in the other format."""
    real = layouts._seconds

    def seconds(net: CaffeNet, *rest: Any) -> float:
        real(net, *rest)
        return 1.0 if net.layout is LAYOUTS[name] else 2.0

    monkeypatch.setattr(layouts, "_seconds", seconds)


def told(events: list[Event]) -> list[str]:
    texts = [event.text for event in events if isinstance(event, Message)]
    return [text for text in texts if text.startswith("Memory layout")]


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_faster_one_is_taken_told_once_and_kept(
    name: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster(name, monkeypatch)
    folder.write_solver("SGD", "s", "momentum: 0.9", 3)
    events: list[Event] = []
    solver = Solver("solver.prototxt", device="cpu", show=events.append)
    assert solver.layout is None and solver.state().layout is None
    solver.solve()
    (line,) = told(events)
    assert line.startswith(f"Memory layout: {name} (milliseconds")
    assert solver.net.layout is LAYOUTS[name]
    weight = solver.net.params["conv"][0]
    history = solver.updater.history[0]
    for tensor in (weight, history):
        assert tensor.is_contiguous(memory_format=LAYOUTS[name])
    state = snapshots.read(solver.snapshot())
    assert state.layout == name


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_resumed_run_takes_the_snapshots_and_is_the_run_that_never_stopped(
    name: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster(name, monkeypatch)
    folder.write_solver("Adam", "whole/s", "momentum: 0.9 snapshot: 3", 6)
    Solver("solver.prototxt", device="cpu").solve()

    def never(*_: object) -> float:
        raise AssertionError("a resumed run measured again")

    monkeypatch.setattr(layouts, "_seconds", never)
    folder.write_solver("Adam", "parts/s", "momentum: 0.9", 6)
    state = folder.path / "whole" / "s_iter_3.solverstate"
    solver = Solver("solver.prototxt", snapshot=state, device="cpu")
    solver.solve()
    assert solver.layout == name
    assert_same(
        folder.path / "whole/s_iter_6.caffemodel", folder.path / "parts/s_iter_6.caffemodel"
    )


def test_a_given_one_wins_over_the_snapshots(folder: Folder) -> None:
    folder.write_solver("SGD", "s", "momentum: 0.9 snapshot: 2", 2)
    Solver("solver.prototxt", device="cpu", layout="channels_last").solve()
    other = Solver(
        "solver.prototxt",
        snapshot=folder.path / "s_iter_2.solverstate",
        device="cpu",
        layout="contiguous",
    )
    assert other.layout == "contiguous" and other.net.layout is torch.contiguous_format


@pytest.mark.parametrize("name", LAYOUTS)
def test_measuring_changes_nothing_of_the_run(
    name: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout's numbers, BatchNorm's statistics and an RNN's state are those of a fixed layout."""
    folder.write_solver("SGD", "fixed/s", "momentum: 0.9", 4)
    Solver("solver.prototxt", device="cpu", layout=name).solve()
    faster(name, monkeypatch)
    monkeypatch.setattr(layouts, "_LEAST", 0)
    folder.write_solver("SGD", "chosen/s", "momentum: 0.9", 4)
    chosen = Solver("solver.prototxt", device="cpu")
    chosen.solve()
    assert chosen.layout == name
    assert_same(
        folder.path / "fixed/s_iter_4.caffemodel", folder.path / "chosen/s_iter_4.caffemodel"
    )
    runs = ("fixed", "chosen")
    states = [dict(np.load(folder.path / run / "s_iter_4.state.npz")) for run in runs]
    digests = [{k: v for k, v in state.items() if "digest" not in k} for state in states]
    assert digests[0].keys() == digests[1].keys()
    for key, value in digests[0].items():
        np.testing.assert_array_equal(digests[1][key], value, err_msg=key)


@pytest.mark.usefixtures("measured")
def test_gradients_that_were_there_stay(folder: Folder) -> None:
    folder.write_solver("SGD", "s", "momentum: 0.9", 4)
    solver = Solver("solver.prototxt", device="cpu")
    feed = solver._fed[0].next()
    solver.training.forward_backward(feed)
    before = [(p.grad, None if p.grad is None else p.grad.clone()) for p in solver.net.parameters()]
    assert any(gradient is not None for gradient, _ in before)
    run = partial(solver.training.forward_backward, feed)
    layouts.choose(solver.net, solver.device, run)
    for parameter, (gradient, value) in zip(solver.net.parameters(), before, strict=True):
        assert parameter.grad is gradient
        assert value is None or parameter.grad.equal(value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda net: None, "too small"),
        (lambda net: net.layers["conv"].register_forward_hook(lambda *_: None), "hooks"),
    ],
)
def test_where_nothing_is_measured(
    change: Callable[..., object], reason: str, folder: Folder
) -> None:
    folder.write_solver("SGD", "s", "momentum: 0.9", 1)
    events: list[Event] = []
    solver = Solver("solver.prototxt", device="cpu", show=events.append)
    change(solver.net)
    solver.step()
    (line,) = told(events)
    assert line.startswith("Memory layout: contiguous (") and reason in line


def test_a_layer_that_would_notice_is_named(folder: Folder) -> None:
    net = EVERYTHING.replace(
        'name: "drop" type: "Dropout"', 'name: "user" type: "Python" python_param { %s }'
    )
    (folder.path / "net.prototxt").write_text(net % 'module: "user" layer: "Same"')
    (folder.path / "user.py").write_text(
        "import caffe\n"
        "class Same(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = bottom[0].data\n"
        "    def backward(self, top, down, bottom): bottom[0].diff[...] = top[0].diff\n"
    )
    folder.write_solver("SGD", "s", "momentum: 0.9", 1)
    events: list[Event] = []
    with Solver(
        "solver.prototxt", device="cpu", show=events.append, allow_python_layers=True
    ) as solver:
        solver.step()
    assert told(events) == ['Memory layout: contiguous (layer "user" would notice a trial).']


def test_an_unknown_one_is_refused(folder: Folder) -> None:
    folder.write_solver("SGD", "s", "momentum: 0.9", 1)
    with pytest.raises(CaffeError, match="--layout nhwc: one of auto, contiguous, channels_last"):
        Solver("solver.prototxt", device="cpu", layout="nhwc")


def test_a_damaged_name_in_a_snapshot_is_refused(folder: Folder) -> None:
    folder.write_solver("SGD", "s", "momentum: 0.9 snapshot: 1", 1)
    Solver("solver.prototxt", device="cpu", layout="channels_last").solve()
    path = folder.path / "s_iter_1.state.npz"
    np.savez(path, **{**np.load(path), "layout": np.array("nhwc")})
    with pytest.raises(CaffeError, match="layout is nhwc, not one of contiguous, channels_last"):
        snapshots.read(folder.path / "s_iter_1.solverstate")


def test_files_and_values_are_those_of_the_other_format(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = load_text(TALL)
    blobs = {key: [b.detach().clone() for b in blobs] for key, blobs in net.params.items()}
    save_caffemodel(net, tmp_path / "one.caffemodel")
    net.lay_out(torch.channels_last)
    assert not net.params["conv"][0].is_contiguous()
    save_caffemodel(net, tmp_path / "two.caffemodel")
    assert (tmp_path / "one.caffemodel").read_bytes() == (tmp_path / "two.caffemodel").read_bytes()
    with torch.no_grad():
        for key, values in net.params.items():
            for blob, value in zip(values, blobs[key], strict=True):
                assert blob.equal(value)
                blob.zero_()
    net.load_weights(tmp_path / "one.caffemodel")
    for key, values in net.params.items():
        for blob, value in zip(values, blobs[key], strict=True):
            assert blob.equal(value)


def test_the_top_lies_as_it_was_asked_for() -> None:
    net = load_text(TALL)
    net.lay_out(torch.channels_last)
    top = net(torch.rand(4, 3, 8, 8), blobs="conv")["conv"]
    assert top.is_contiguous(memory_format=torch.channels_last)
