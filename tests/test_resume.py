"""A run that is stopped, killed or interrupted goes on as if it never had been, bit for bit."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_bad_input import TRAIN, Folder

from converters.errors import CaffeError
from converters.formats.caffemodel import read_caffemodel
from converters.records.datum import encode_datum
from converters.records.lmdb_writer import create_lmdb
from gmnet_pt import Solver
from gmnet_pt.log.events import Display, Event, MultiStep, Scores

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


# A recurrent layer whose state outlives a pass, beside the net above; in the test net too.
EVERYTHING = (
    NET
    + """
layer { name: "ones" type: "DummyData" top: "x" top: "cont" dummy_data_param {
  shape { dim: 2 dim: 1 dim: 3 } shape { dim: 2 dim: 1 }
  data_filler { value: 1 } data_filler { value: 1 } } }
layer { name: "rnn" type: "RNN" bottom: "x" bottom: "cont" top: "h"
  recurrent_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Reduction" bottom: "h" top: "sum" loss_weight: 0.5 }
"""
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return random_folder(tmp_path)


def random_folder(path: Path) -> Folder:
    """A run with every kind of random number; its images are noise, so that a crop shows."""
    made = Folder(path)
    (path / "net.prototxt").write_text(NET)
    shutil.rmtree(path / "db")
    random = np.random.default_rng(0)
    with create_lmdb(path / "db") as writer:
        for number in range(64):
            image = random.integers(0, 256, (1, 6, 6)).astype(np.uint8)
            writer.put(b"%08d" % number, encode_datum(image, number % 3))
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


def shown(path: str, snapshot: str | None = None, **settings: object) -> list[Event]:
    """What a run tells of losses, rates, steps and scores; without the speed."""
    seen: list[Event] = []
    Solver(path, snapshot=snapshot, device="cpu", show=seen.append, **settings).solve()
    numbers = (Display, Scores, MultiStep)
    return [
        replace(event, speed=None) if isinstance(event, Display) else event
        for event in seen
        if isinstance(event, numbers)
    ]


def from_iteration(events: list[Event], first: int) -> list[Event]:
    return [event for event in events if event.iteration >= first]  # type: ignore[attr-defined]


RATES = """snapshot: 3 test_iter: 1 test_interval: 2 momentum: 0.9
lr_policy: "multistep" gamma: 0.5 stepvalue: 1 stepvalue: 2"""


@pytest.mark.parametrize(
    "overrides",
    [(), ("base_lr=0",), ("snapshot_format=HDF5",)],
    ids=["all", "data and hidden state alone", "HDF5"],
)
def test_what_is_shown_is_as_without_a_stop(overrides: tuple[str, ...], folder: Folder) -> None:
    """Rates and their step, scores of a test net on its next batches, a recurrent layer's state."""
    (folder.path / "net.prototxt").write_text(EVERYTHING)
    folder.write_solver(max_iter=8)
    path = folder.path / "solver.prototxt"
    path.write_text(path.read_text().replace('lr_policy: "fixed"', RATES))
    whole = shown("solver.prototxt", overrides=overrides)
    suffix = ".h5" if "snapshot_format=HDF5" in overrides else ""
    parts = shown("solver.prototxt", f"out/s_iter_3.solverstate{suffix}", overrides=overrides)
    assert parts == from_iteration(whole, 3)
    displays = [event for event in parts if isinstance(event, Display)]
    scores = [event for event in parts if isinstance(event, Scores)]
    assert [event.iteration for event in displays] == [3, 4, 5, 6, 7, 8]
    assert [event.iteration for event in scores] == [4, 6, 8]
    # A batch or a hidden state of another moment would show in each of these.
    assert len({event.loss for event in displays}) == len(displays)
    assert len({event.outputs for event in scores}) == len(scores)
    if not overrides:
        assert displays[0].rate == pytest.approx(0.01 * 0.25)


def test_a_resumed_run_begins_a_new_window_of_average_loss(folder: Folder) -> None:
    """As Caffe's Step does, and its slots are counted from there: 5 is not 0 mod 3."""
    folder.write_solver(extra="snapshot: 5", max_iter=12)
    shown("solver.prototxt")
    state = "out/s_iter_5.solverstate"
    plain = [e.loss for e in shown("solver.prototxt", state) if isinstance(e, Display)]
    smooth = [
        e.loss
        for e in shown("solver.prototxt", state, overrides=["average_loss=3"])
        if isinstance(e, Display)
    ]
    assert len(plain) == len(smooth) == 8
    for place, found in enumerate(smooth):
        assert found == pytest.approx(np.mean(plain[max(0, place - 2) : place + 1]), rel=1e-5)


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
