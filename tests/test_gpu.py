"""The same arrays of real Caffe on a CUDA device, captured and not; a resumed run; the demo.

Skipped without such a device. A solver captures its iterations there unless it is told not to.

Caffe computed on a CPU. cuDNN chooses among algorithms (Winograd among them) that add in other
orders, and some of its backward passes add in no fixed order, so the bounds are those of the CPU's
tests times SLACK; a wrong formula is off by more than 1e-3 in every group.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_case import GoldenCase, relative_error
from test_layers import CASES, PHASES
from test_meta import NEED_HOST
from test_resume import EVERYTHING, NET, blobs, random_folder
from test_solver import RUNS, SETTINGS, Setting, check_whole_run

from gmnet_pt import Solver
from gmnet_pt.log.events import Display, Event, Message
from gmnet_pt.solver.capture import WARM_UP, CudaGraphs
from gmnet_pt.solver.precision import FP32

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
SLACK = 20


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_layers_follow_caffe(name: str, phase: str) -> None:
    case = GoldenCase(name, device=DEVICE)
    case.bounds = type(case.bounds)(*(bound * SLACK for bound in case.bounds))
    with FP32.kernels():
        assert case.check(phase) > 0


@pytest.mark.parametrize("name", CASES)
def test_layers_replay_what_they_compute(name: str) -> None:
    """Forward and backward of every layer type, recorded once; twice replayed it is the same."""
    case = GoldenCase(name, device=DEVICE)
    net = case.load("TRAIN")
    if NEED_HOST & {position.layer.type for position in net.plan.layers}:
        return
    graphs = CudaGraphs(torch.device(DEVICE))
    inputs = case.inputs(0)
    state = [*net.learnable, *(x for m in net.layer_modules for x in m.state.values())]
    before = [x.detach().clone() for x in state]

    @torch.no_grad()
    def put_back() -> None:
        torch.manual_seed(1)
        for x, value in zip(state, before, strict=True):
            x.copy_(value)

    def passes() -> list[torch.Tensor]:
        for leaf in (*inputs.values(), *net.learnable):
            leaf.grad = None
        found = net(inputs, blobs="all")
        tops = [x for x in found.values() if x.requires_grad and x.is_floating_point()]
        if tops:
            torch.stack([x.sum() for x in tops]).sum().backward()
        grads = [x.grad for x in (*inputs.values(), *net.learnable) if x.grad is not None]
        return [*(x.detach() for x in found.values()), *grads]

    with FP32.kernels():
        with graphs.aside():
            for _ in range(2):
                put_back()
                wanted = passes()
        wanted, after = ([x.detach().clone() for x in part] for part in (wanted, state))
        found, replay = graphs.record(passes)
        for _ in range(2):
            put_back()
            replay()
            for one, other in zip([*found, *state], [*wanted, *after], strict=True):
                assert relative_error(one.detach().cpu().numpy(), other.cpu().numpy()) <= 1e-5


@pytest.mark.parametrize("capture", [True, False], ids=["captured", "uncaptured"])
@pytest.mark.parametrize("name", SETTINGS)
def test_solvers_follow_caffe(
    name: str, capture: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(name, tmp_path, monkeypatch, DEVICE, SLACK)
    plain = setting.solver
    monkeypatch.setattr(setting, "solver", lambda **given: plain(capture=capture, **given))
    setting.check_steps()
    solver = setting.check_resume()
    assert solver.device.type == DEVICE
    assert (solver._captured is not None) == capture


@pytest.mark.parametrize("name", RUNS)
def test_whole_runs_follow_caffe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_whole_run(name, tmp_path, DEVICE, SLACK)


def test_a_resumed_run_is_the_run_that_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout's generator on the device and the data position among what is restored.

    Not bit for bit: some backward passes on a GPU add in no fixed order. Another dropout mask or
    batch at one iteration would differ by more than 1e-2.
    """
    monkeypatch.chdir(tmp_path)
    folder = random_folder(tmp_path)
    for part, state in (("whole", None), ("parts", tmp_path / "whole" / "s_iter_17.solverstate")):
        folder.write_solver("SGD", f"{part}/s", "momentum: 0.9 snapshot: 17", 40)
        Solver("solver.prototxt", snapshot=state, device=DEVICE).solve()
    ends = [blobs(tmp_path / part / "s_iter_40.caffemodel") for part in ("whole", "parts")]
    for one, other in zip(*ends, strict=True):
        assert relative_error(one, other) <= 1e-4


def everything(path: Path, extra: str = "") -> None:
    """Dropout, BatchNorm, a hidden state, crops and mirrors, in `path`, which is entered."""
    folder = random_folder(path)
    (path / "net.prototxt").write_text(EVERYTHING)
    folder.write_solver("SGD", "out/s", f"momentum: 0.9 {extra}", 30)


def run(capture: bool, *overrides: str, **settings: object) -> list[Event]:
    """What a whole run shows."""
    seen: list[Event] = []
    solver = Solver(
        "solver.prototxt",
        device=DEVICE,
        show=seen.append,
        overrides=["snapshot_after_train=false", *overrides],
        capture=capture,
        **settings,
    )
    with solver:
        assert solver.solve()
    return seen


def losses(seen: list[Event]) -> list[float]:
    return [event.loss for event in seen if isinstance(event, Display)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_replay_draws_what_the_iteration_would_have_drawn(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At rate 0 only masks, crops, mirrors, statistics and the hidden state move the loss."""
    monkeypatch.chdir(tmp_path)
    everything(tmp_path)
    found, wanted = (
        losses(run(capture, "base_lr=0", precision=precision)) for capture in (True, False)
    )
    # bf16 rounds some losses to one value.
    assert len(found) == 31 and len(set(found)) > 20
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_captured_run_is_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates and their steps, average_loss, iter_size, clipping, tests in between."""
    monkeypatch.chdir(tmp_path)
    everything(tmp_path, "test_iter: 2 test_interval: 7 iter_size: 2 clip_gradients: 1")
    rates = ("lr_policy=multistep", "gamma=0.5", "stepvalue=5,9", "average_loss=3")
    found, wanted = (run(capture, *rates) for capture in (True, False))
    assert [type(event) for event in found] == [type(event) for event in wanted]
    assert losses(found) == pytest.approx(losses(wanted), rel=1e-3)
    assert not [e for e in found if isinstance(e, Message) and "without a CUDA graph" in e.text]


@pytest.mark.parametrize("capture", [True, False], ids=["captured", "uncaptured"])
def test_no_iteration_waits_for_the_device(
    capture: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data layer included; a captured one is not recorded again either."""
    monkeypatch.chdir(tmp_path)
    everything(tmp_path)
    solver = Solver("solver.prototxt", device=DEVICE, capture=capture)
    solver.step(WARM_UP + 2)
    recording = solver._captured and solver._captured._recording
    assert (recording is not None) == capture
    torch.cuda.set_sync_debug_mode("error")
    try:
        solver.step(5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (solver._captured and solver._captured._recording) is recording


def test_compiled_kernels_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same losses without dropout; with it masks of their own, as in a resumed run."""
    pytest.importorskip("triton")
    monkeypatch.chdir(tmp_path)
    everything(tmp_path, "snapshot: 10")
    dropout = 'layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }'
    assert dropout in NET
    (tmp_path / "net.prototxt").write_text(NET.replace(dropout, ""))
    found, wanted = (losses(run(True, "snapshot=0", compile=one)) for one in (True, False))
    assert found == pytest.approx(wanted, rel=1e-3)
    (tmp_path / "net.prototxt").write_text(NET)
    whole = losses(run(True, "base_lr=0", compile=True))
    assert len(set(whole)) == len(whole)
    state = "out/s_iter_10.solverstate"
    resumed = losses(run(True, "base_lr=0", "snapshot=0", compile=True, snapshot=state))
    assert resumed == pytest.approx(whole[10:], rel=1e-5)


def test_another_batch_size_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    everything(tmp_path)
    ends = []
    for capture in (True, False):
        solver = Solver("solver.prototxt", device=DEVICE, capture=capture)
        for items in (5, 5, 5, 5, 5, 3, 5, 3, 5):
            torch.manual_seed(items)
            feed = {"data": torch.randn(items, 1, 5, 5), "label": torch.arange(items) % 3.0}
            loss = solver.step({name: x.to(DEVICE) for name, x in feed.items()})
        ends.append([loss, *solver.net.learnable])
    for one, other in zip(*ends, strict=True):
        assert relative_error(one.detach().cpu().numpy(), other.detach().cpu().numpy()) <= 1e-4


def test_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    name = "bua_digits_w0.25"
    generate = "prototxt_gen bua --dataset digits --width 0.25 --dropout 0"
    commands = [
        "converters lmdb digits",
        f"{generate} --moving-average-fraction 0.9 --random-seed 1",
        f"gmnet_pt.train prototxt/{name}/net.prototxt --device {DEVICE}",
        f"gmnet_pt.demo runs/{name}/train.jsonl",
    ]
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
    assert "Test accuracy" in done.stdout
