"""A run that is stopped, killed or interrupted goes on as if it never had been, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_bad_input import TRAIN, Folder

from converters.errors import CaffeError
from converters.formats.caffemodel import read_caffemodel
from gmnet_pt import Solver

NET = """
name: "shuffled"
layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { crop_size: 5 mirror: true scale: 0.01 }
  data_param { source: "db" batch_size: 5 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    made = Folder(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    return made


def blobs(path: Path) -> list[np.ndarray]:
    return [np.array(blob) for layer in read_caffemodel(path).layers for blob in layer.blobs]


def assert_same(one: Path, other: Path) -> None:
    pairs = list(zip(blobs(one), blobs(other), strict=True))
    assert pairs
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "Adam"])
def test_resume_equals_never_having_stopped(kind: str, folder: Folder) -> None:
    """Dropout, random crops, mirrors and the data position included (64 records, batches of 5)."""
    folder.write_solver(kind, "whole/s", "momentum: 0.9 snapshot: 17", 40)
    Solver("solver.prototxt", device="cpu").solve()
    folder.write_solver(kind, "parts/s", "momentum: 0.9 snapshot: 17", 40)
    Solver(
        "solver.prototxt", snapshot=folder.path / "whole" / "s_iter_17.solverstate", device="cpu"
    ).solve()
    assert_same(
        folder.path / "whole" / "s_iter_40.caffemodel",
        folder.path / "parts" / "s_iter_40.caffemodel",
    )


def test_a_killed_run_goes_on(folder: Folder) -> None:
    folder.write_solver("SGD", "whole/s", "momentum: 0.9 snapshot: 25", 600)
    assert folder.run(*TRAIN).returncode == 0
    folder.write_solver("SGD", "killed/s", "momentum: 0.9 snapshot: 25", 600)
    process = start(folder)
    state = wait_for(folder, "killed/s_iter_*.solverstate")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder.path / "killed" / "s_iter_600.solverstate").exists()
    done = folder.run(*TRAIN, "--snapshot", str(state))
    assert done.returncode == 0, done.stderr
    assert_same(
        folder.path / "whole" / "s_iter_600.caffemodel",
        folder.path / "killed" / "s_iter_600.caffemodel",
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_snapshots_and_stops(number: int, status: int, folder: Folder) -> None:
    folder.write_solver("SGD", "out/s", "snapshot: 50", 100_000)
    process = start(folder)
    wait_for(folder, "out/s_iter_50.solverstate")
    process.send_signal(number)
    assert process.wait(60) == status
    states = sorted((folder.path / "out").glob("s_iter_*.solverstate"))
    last = max(int(state.stem.rsplit("_", 1)[1]) for state in states)
    assert last < 100_000
    solver = Solver(
        "solver.prototxt", snapshot=folder.path / "out" / f"s_iter_{last}.solverstate", device="cpu"
    )
    assert solver.iter == last


def test_signals_do_what_they_are_told(folder: Folder) -> None:
    """SIGINT snapshots between two iterations and the run goes on; SIGHUP stops without one."""
    folder.write_solver("SGD", "out/s", "snapshot_after_train: false", 1_000_000)
    process = start(folder, "--sigint-effect", "snapshot", "--sighup-effect", "stop")
    wait_for(folder, "out/train.jsonl")
    while '"Display"' not in (folder.path / "out" / "train.jsonl").read_text():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    state = wait_for(folder, "out/s_iter_*.solverstate")
    assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert list((folder.path / "out").glob("*.solverstate")) == [state]


def test_without_our_file_data_starts_at_the_first_record(folder: Folder) -> None:
    folder.write_solver("SGD", "out/s", "snapshot: 3", 3)
    Solver("solver.prototxt", device="cpu").solve()
    (folder.path / "out" / "s_iter_3.state.npz").unlink()
    solver = Solver(
        "solver.prototxt", snapshot=folder.path / "out" / "s_iter_3.solverstate", device="cpu"
    )
    assert solver.iter == 3
    assert solver.batches(solver.net)[0].state()["position"] == 0


@pytest.mark.parametrize("suffix", [".solverstate", ".caffemodel", ".state.npz"])
def test_a_truncated_snapshot_is_refused(suffix: str, folder: Folder) -> None:
    folder.write_solver("SGD", "out/s", "snapshot: 3", 3)
    Solver("solver.prototxt", device="cpu").solve()
    path = folder.path / "out" / f"s_iter_3{suffix}"
    path.write_bytes(path.read_bytes()[:-7])
    state = folder.path / "out" / "s_iter_3.solverstate"
    with pytest.raises(CaffeError, match=f"s_iter_3{suffix}"):
        Solver("solver.prototxt", snapshot=state, device="cpu")


def start(folder: Folder, *options: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-m", *TRAIN, *options],
        cwd=folder.path,
        env={"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PATH": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(folder: Folder, pattern: str) -> Path:
    for _ in range(1200):
        found = sorted(folder.path.glob(pattern))
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"{pattern} never appeared")
