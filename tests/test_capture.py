"""gmnet_pt.solver.capture: a recorded iteration is the iteration, bit for bit.

On a CPU, with a stand-in for CUDA graphs; test_gpu.py has the graphs themselves.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from golden_case import GOLDEN
from stand_in_graphs import StandInGraphs
from test_bad_input import Folder
from test_resume import EVERYTHING, RATES, random_folder
from test_solver import SETTINGS
from torch import Tensor, nn

from converters.command_line.parser import CommandParser
from converters.errors import SolverError
from gmnet_pt import Solver, train
from gmnet_pt.log.events import Display, Event, Message, MultiStep, Scores
from gmnet_pt.options.train import configure
from gmnet_pt.solver.capture import WARM_UP
from gmnet_pt.solver.precision import PRECISIONS

Feed = Mapping[str, Any]


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks at values on a CPU (labels, masks) is left out, as in code that is compiled."""
    # First: it remembers the function by which it is recognised.
    importlib.import_module("torch._dynamo")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


class Run(NamedTuple):
    """A solver, what records for it (None: nothing does), and what it told."""

    solver: Solver
    graphs: StandInGraphs | None
    told: list[Event]

    @property
    def lines(self) -> list[str]:
        return [
            event.text
            for event in self.told
            if isinstance(event, Message) and "without a CUDA graph" in event.text
        ]


def run(path: str | Path, captured: bool, *arguments: Any, **settings: Any) -> Run:
    told: list[Event] = []
    solver = Solver(path, *arguments, device="cpu", show=told.append, **settings)
    solver.updater.reads_rate = False  # as on a device
    graphs = StandInGraphs() if captured else None
    if graphs is not None:
        solver._capture(graphs)
    return Run(solver, graphs, told)


def pair(path: str | Path, *arguments: Any, **settings: Any) -> tuple[Run, Run]:
    """The same run captured and not."""
    return run(path, True, *arguments, **settings), run(path, False, *arguments, **settings)


def left(solver: Solver) -> list[Tensor]:
    """All that an iteration may change, and what it leaves behind."""
    net, updater = solver.net, solver.updater
    grads = [blob.grad for blob in net.learnable if blob.grad is not None]
    hidden = [x for module in net.layer_modules for x in module.state.values()]
    norm = [] if updater.gradient_norm is None else [updater.gradient_norm]
    random = list(solver.random.state().values())
    return [*net.learnable, *updater.history, *updater.updates, *grads, *hidden, *norm, *random]


def assert_same(one: Solver, other: Solver) -> None:
    pairs = list(zip(left(one), left(other), strict=True))
    assert pairs
    for a, b in pairs:
        assert torch.equal(a, b)
    assert (one.iter, one.current_step) == (other.iter, other.current_step)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Dropout, BatchNorm, a recurrent layer's state, crops and mirrors."""
    monkeypatch.chdir(tmp_path)
    made = random_folder(tmp_path)
    (tmp_path / "net.prototxt").write_text(EVERYTHING)
    made.write_solver("Adam", "out/s", "momentum: 0.9 clip_gradients: 5 iter_size: 2", 40)
    return made


def noise(items: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """A batch for the net of `folder`."""
    random = torch.Generator().manual_seed(seed)
    data = torch.randn(items, 1, 5, 5, generator=random)
    return {"data": data, "label": torch.arange(items) % 3.0}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_rule_and_policy(name: str) -> None:
    folder = GOLDEN / "solvers" / name
    arrays = dict(np.load(folder / "golden.npz"))
    captured, plain = pair(folder / "solver.prototxt", folder / "init.caffemodel")
    losses = []
    for data, label in zip(arrays["data"], arrays["label"]):
        feed = {"data": torch.from_numpy(data), "label": torch.from_numpy(label)}
        loss, other = captured.solver.step(feed), plain.solver.step(feed)
        assert torch.equal(loss, other)
        losses.append(loss)
        assert_same(captured.solver, plain.solver)
    assert captured.graphs is not None
    # No Python of an iteration ran after the recording of the fourth.
    found = captured.graphs
    assert (found.aside_calls, found.recordings) == (WARM_UP, 1)
    assert found.replays == len(arrays["data"]) - WARM_UP
    # A loss is the caller's own: later iterations do not change it.
    assert len({float(loss) for loss in losses}) > 1
    assert [float(loss) for loss in losses] == pytest.approx(arrays["loss"], rel=1e-5)
    assert not captured.lines


def test_dropout_statistics_states_and_data(folder: Folder) -> None:
    """Every iteration has masks, crops and mirrors of its own."""
    captured, plain = pair("solver.prototxt")
    for _ in range(12):
        assert torch.equal(captured.solver.step(), plain.solver.step())
        assert_same(captured.solver, plain.solver)
    assert captured.graphs is not None and captured.graphs.replays == 9


def test_recording_alone_changes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth iteration records; if its replay does not come, it has not been."""
    captured, _ = pair("solver.prototxt")
    captured.solver.step(WARM_UP)
    before = [x.clone() for x in left_behind(captured.solver)]
    monkeypatch.setattr(StandInGraphs, "_replay", lambda self, recording: None)
    captured.solver.step()
    for x, y in zip(left_behind(captured.solver), before, strict=True):
        assert torch.equal(x, y)


def left_behind(solver: Solver) -> list[Tensor]:
    hidden = [x for module in solver.net.layer_modules for x in module.state.values()]
    random = list(solver.random.state().values())
    return [*solver.net.learnable, *solver.updater.history, *hidden, *random]


@pytest.mark.parametrize("at", [2, 7], ids=["while warming up", "while replaying"])
def test_a_resumed_run_is_the_run_that_never_stopped(at: int, folder: Folder) -> None:
    captured, plain = pair("solver.prototxt")
    captured.solver.step(at)
    snapshot = captured.solver.snapshot()
    captured.solver.step(15 - at)
    plain.solver.step(15)
    resumed = run("solver.prototxt", True, snapshot=snapshot)
    resumed.solver.step(15 - at)
    assert resumed.graphs is not None and resumed.graphs.replays == 15 - at - WARM_UP
    assert_same(resumed.solver, plain.solver)
    assert_same(captured.solver, plain.solver)


def test_going_back_to_a_state_replays_what_is_recorded(folder: Folder) -> None:
    """`load` writes where the recording reads."""
    captured, _ = pair("solver.prototxt")
    captured.solver.step(6)
    state = captured.solver.state()
    weights = [blob.detach().clone() for blob in captured.solver.net.learnable]
    wanted = [captured.solver.step() for _ in range(3)]
    with torch.no_grad():
        for blob, weight in zip(captured.solver.net.learnable, weights, strict=True):
            blob.copy_(weight)
    captured.solver.load(state)
    assert [captured.solver.step() for _ in range(3)] == wanted
    assert captured.graphs is not None and captured.graphs.recordings == 1


def shown(told: list[Event]) -> Iterator[tuple[Any, ...]]:
    for event in told:
        if isinstance(event, Display):
            yield event.iteration, event.loss, event.outputs, event.rate
        elif isinstance(event, (Scores, MultiStep)):
            yield (event,)


def test_what_is_shown_is_the_same(folder: Folder) -> None:
    """Losses, outputs, rates, their steps and test scores, in their order."""
    folder.write_solver(max_iter=12)
    path = folder.path / "solver.prototxt"
    path.write_text(path.read_text().replace('lr_policy: "fixed"', RATES))
    runs = pair("solver.prototxt", overrides=["average_loss=3", "snapshot=0"])
    for one in runs:
        assert one.solver.solve()
    found, wanted = (list(shown(one.told)) for one in runs)
    assert found == wanted
    assert len(found) > 12
    assert_same(runs[0].solver, runs[1].solver)


PARAMETER = """
layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 2 } } }
layer { name: "in" type: "DummyData" top: "t" dummy_data_param {
  shape { dim: 2 } data_filler { value: 1 } } }
layer { name: "sum" type: "Eltwise" bottom: "w" bottom: "t" top: "far"
  eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "loss" type: "Reduction" bottom: "far" top: "loss" loss_weight: 1
  reduction_param { operation: SUMSQ } }
layer { name: "again" type: "Split" bottom: "w" top: "shown" }
"""


def test_an_output_that_is_a_parameter_is_shown_as_before_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(PARAMETER)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" display: 1 max_iter: 8 '
        "snapshot_after_train: false"
    )
    runs = pair("solver.prototxt")
    for one in runs:
        assert one.solver.solve()
    found, wanted = (list(shown(one.told)) for one in runs)
    assert found == wanted
    assert len({outputs for _, _, outputs, _ in found}) > 5


def test_another_batch_size_runs_uncaptured(folder: Folder) -> None:
    """In between, and the recording holds behind it; it is told once."""
    captured, plain = pair("solver.prototxt")
    for items in (5, 5, 5, 5, 5, 3, 5, 3, 5):
        feed = noise(items, items)
        assert torch.equal(captured.solver.step(feed), plain.solver.step(feed))
        assert_same(captured.solver, plain.solver)
    (line,) = captured.lines
    assert "other input shapes" in line and "data (3, 1, 5, 5)" in line
    assert captured.graphs is not None
    assert (captured.graphs.recordings, captured.graphs.replays) == (1, 4)


@pytest.mark.parametrize("change", ["array", "gradient"])
def test_inputs_that_cannot_be_copied_run_uncaptured(change: str, folder: Folder) -> None:
    captured, plain = pair("solver.prototxt")
    feed: dict[str, Any] = noise()
    if change == "array":
        feed["data"] = feed["data"].numpy()
    else:
        feed["data"].requires_grad_()
    for _ in range(6):
        assert torch.equal(captured.solver.step(feed), plain.solver.step(feed))
    (line,) = captured.lines
    assert f'input "data" {"is given as an array" if change == "array" else "takes a grad"}' in line
    assert captured.graphs is not None and captured.graphs.recordings == 0


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def hook(solver: Solver) -> Callable[[], None]:
    return solver.net.layers["fc"].register_forward_hook(lambda *_: None).remove  # type: ignore[no-any-return]


def tensor_hook(solver: Solver) -> Callable[[], None]:
    return solver.net.params["fc"][0].register_hook(lambda grad: grad).remove  # type: ignore[no-any-return]


def any_hook(solver: Solver) -> Callable[[], None]:
    return nn.modules.module.register_module_forward_hook(lambda *_: None).remove  # type: ignore[no-any-return]


def replaced(solver: Solver) -> Callable[[], None]:
    own = solver.net.layers["scale"]
    solver.net.layers.add_module("scale", Doubled())
    return lambda: solver.net.layers.add_module("scale", own)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (hook, 'layer "fc" carries a hook'),
        (tensor_hook, 'a parameter of layer "fc" carries a hook'),
        (any_hook, "torch has a hook for every module"),
        (replaced, 'another module stands in the place of layer "scale"'),
    ],
)
def test_what_python_does_between_layers_is_done(
    change: Callable[[Solver], Callable[[], None]], told: str, folder: Folder
) -> None:
    """While it is there nothing is replayed; once it is gone, another recording is."""
    captured, plain = pair("solver.prototxt")
    for _ in range(2):
        for one in (captured, plain):
            one.solver.step(5)
            undo = change(one.solver)
            one.solver.step(3)
            undo()
        assert_same(captured.solver, plain.solver)
    assert captured.lines == [f"Iterations run without a CUDA graph: {told}."]
    assert captured.graphs is not None
    assert (captured.graphs.recordings, captured.graphs.replays) == (2, 4)


def test_a_hook_sees_every_pass(folder: Folder) -> None:
    captured, _ = pair("solver.prototxt")
    captured.solver.step(5)
    seen = []
    captured.solver.net.layers["fc"].register_forward_hook(lambda *_: seen.append(1))
    captured.solver.step(4)
    assert len(seen) == 8


def frozen(solver: Solver) -> None:
    solver.net.params["fc"][0].requires_grad_(False)


def evaluating(solver: Solver) -> None:
    solver.net.eval()


def elsewhere(solver: Solver) -> None:
    blob = solver.net.params["fc"][0]
    blob.data = blob.data.clone()


def laid_out(solver: Solver) -> None:
    solver._lay_out("channels_last")


def history_elsewhere(solver: Solver) -> None:
    solver.updater.history[:] = [x.clone() for x in solver.updater.history]


def state_elsewhere(solver: Solver) -> None:
    solver.net.layers["rnn"].state_h = solver.net.layers["rnn"].state["h"].clone()


def rounded(solver: Solver) -> None:
    solver.training.precision = PRECISIONS["bf16"]


CHANGES = [frozen, evaluating, elsewhere, laid_out, history_elsewhere, state_elsewhere, rounded]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_recording_has_fixed_is_recorded_anew(
    change: Callable[[Solver], None], folder: Folder
) -> None:
    captured, plain = pair("solver.prototxt")
    for one in (captured, plain):
        one.solver.step(5)
        change(one.solver)
        one.solver.step(5)
    assert_same(captured.solver, plain.solver)
    assert captured.graphs is not None and captured.graphs.recordings == 2
    assert not captured.lines


FILTER = """
layer { name: "choose" type: "Filter" bottom: "fc" bottom: "label" top: "chosen" }
layer { name: "all" type: "Reduction" bottom: "chosen" top: "all" loss_weight: 0.1 }
"""
OUTPUT = """
layer { name: "written" type: "HDF5Output" bottom: "fc" bottom: "label"
  hdf5_output_param { file_name: "last.h5" } }
"""
PYTHON = """
layer { name: "own" type: "Python" bottom: "fc" top: "own"
  python_param { module: "own_layer" layer: "Twice" } }
layer { name: "all" type: "Reduction" bottom: "own" top: "all" loss_weight: 0.1 }
"""
OWN_LAYER = """
import caffe

class Twice(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff
"""


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (FILTER, 'layer "choose" (Filter) has tops whose size depends on the data'),
        (OUTPUT, 'layer "written" (HDF5Output) writes a file in each pass'),
        (PYTHON, 'layer "own" (Python) runs code of its own'),
    ],
    ids=["Filter", "HDF5Output", "Python"],
)
def test_layers_that_need_the_host_run_uncaptured(layers: str, told: str, folder: Folder) -> None:
    if layers is OUTPUT:
        pytest.importorskip("h5py")
    (folder.path / "own_layer.py").write_text(OWN_LAYER)
    (folder.path / "net.prototxt").write_text(EVERYTHING + layers)
    captured, plain = pair("solver.prototxt", allow_python_layers=True)
    for one in (captured, plain):
        one.solver.step(6)
    assert_same(captured.solver, plain.solver)
    assert captured.lines == [f"Iterations run without a CUDA graph: {told}."]
    assert captured.graphs is not None
    assert (captured.graphs.aside_calls, captured.graphs.recordings) == (0, 0)


def test_debug_info_runs_uncaptured(folder: Folder) -> None:
    overrides = [
        "debug_info=true",
        "display=2",
        "max_iter=6",
        "snapshot_after_train=false",
        "iter_size=1",
    ]
    captured, plain = pair("solver.prototxt", overrides=overrides)
    for one in (captured, plain):
        assert one.solver.solve()
    lines = [[e.text for e in one.told if isinstance(e, Message)] for one in (captured, plain)]
    told = "Iterations run without a CUDA graph: debug_info shows each layer's values."
    assert captured.lines == [told]
    assert [line for line in lines[0] if line != told] == lines[1]
    assert captured.graphs is not None and captured.graphs.recordings == 0
    assert_same(captured.solver, plain.solver)


def test_a_recording_that_fails_says_how_to_go_on(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that looks at a value in each pass, unknown to its class."""
    from converters.layers.activation import Dropout

    forward = Dropout.forward

    def looking(self: Any, state: Any, *bottoms: Tensor) -> Tensor:
        assert float(bottoms[0].detach().sum()) < 1e9
        return forward(self, state, *bottoms)

    monkeypatch.setattr(Dropout, "forward", looking)
    captured, _ = pair("solver.prototxt")
    captured.solver.step(WARM_UP)
    with pytest.raises(SolverError, match=r"cannot be recorded .*waits for the dev.*--capture off"):
        captured.solver.step()


def test_two_runs_side_by_side_do_not_disturb_each_other(folder: Folder) -> None:
    """Each lends its own numbers to a replay, and leaves the process's as they were."""
    one, plain = pair("solver.prototxt")
    other, _ = pair("solver.prototxt", overrides=["random_seed=8"])
    outer = torch.get_rng_state()
    for _ in range(7):
        one.solver.step()
        other.solver.step()
        plain.solver.step()
    assert_same(one.solver, plain.solver)
    assert torch.equal(torch.get_rng_state(), outer)
    assert not torch.equal(one.solver.net.learnable[0], other.solver.net.learnable[0])


@pytest.mark.parametrize(("given", "captures"), [([], True), (["off"], False), (["on"], True)])
def test_the_command_line_says_whether(given: list[str], captures: bool, folder: Folder) -> None:
    parser = CommandParser()
    configure(parser)
    options = ["--capture", *given] if given else []
    assert train.solver_choice(parser.parse_args(["solver.prototxt", *options])).capture is captures


def test_only_a_gpu_captures_by_itself(folder: Folder) -> None:
    solver = Solver("solver.prototxt", device="cpu")
    assert solver.choice.capture
    assert solver._captured is None
