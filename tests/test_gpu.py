"""The same arrays of real Caffe on a CUDA device; a resumed run; the demo. Skipped without one.

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
from golden_case import GoldenCase, relative_error
from test_layers import PHASES
from test_resume import blobs, random_folder
from test_solver import RUNS, SETTINGS, Setting, check_whole_run

from gmnet_pt import Solver
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


@pytest.mark.parametrize("name", SETTINGS)
def test_solvers_follow_caffe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(name, tmp_path, monkeypatch, DEVICE, SLACK)
    setting.check_steps()
    assert setting.check_resume().device.type == DEVICE


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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
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
