"""--threads, and how the threads of a command wait for each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_bad_input import Folder

import gmnet_pt.classify
import gmnet_pt.features
import gmnet_pt.test
import gmnet_pt.time
import gmnet_pt.train
from converters import load_net, save_caffemodel
from converters.command_line import starting

DEPLOY = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 6 dim: 6 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
COMMANDS = {
    gmnet_pt.train: ("solver.prototxt",),
    gmnet_pt.test: ("net.prototxt", "--weights", "w.caffemodel", "--iterations", "1"),
    gmnet_pt.time: ("net.prototxt", "--iterations", "1"),
    gmnet_pt.classify: ("deploy.prototxt", "w.caffemodel", "image.png"),
    gmnet_pt.features: (
        *("net.prototxt", "--weights", "w.caffemodel", "--blobs", "fc"),
        *("--out", "x.npz", "--iterations", "1"),
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    folder = Folder(tmp_path)
    save_caffemodel(load_net("net.prototxt"), "w.caffemodel")
    Path("deploy.prototxt").write_text(DEPLOY)
    cv2.imwrite("image.png", np.zeros((6, 6), np.uint8))
    yield folder
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_computes_with_as_many_threads_as_it_is_told(
    command: object, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*COMMANDS[command], "--device", "cpu"]  # type: ignore[index]
    torch.set_num_threads(2)
    assert command.main(arguments) == 0  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 2
    assert command.main([*arguments, "--threads", "1"]) == 0  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 1
    assert command.main([*arguments, "--threads", "100000"]) == 1  # type: ignore[attr-defined]
    assert f"--threads 100000: this machine has {os.cpu_count()} pro" in capsys.readouterr().err


BUSY = "1.96 1.20 0.90 3/412 999"


@pytest.mark.parametrize(
    ("load", "given", "found"),
    [
        (BUSY, {}, {"GOMP_SPINCOUNT": "1000"}),
        ("0.10 2.00 2.00 3/412 999", {}, {}),  # busy in this moment alone
        ("1.96 1.20 0.90 1/412 999", {}, {}),  # no longer: we ourselves are running
        ("1.96 1.20 0.90 1/412", {}, {}),
        ("", {}, {}),
        ("a b c d/e", {}, {}),
        (BUSY, {"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        (BUSY, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_wait_asleep_on_a_busy_machine(
    load: str, given: dict[str, str], found: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(given))
    starting.wait_asleep(load, cores=2)
    assert os.environ == found


def test_that_is_decided_before_torch_is_loaded() -> None:
    code = (
        "import sys; from converters.command_line import starting; "
        "starting.wait_asleep = lambda load, cores: "
        "print(len(load.split()), 'torch' in sys.modules); "
        "starting.begin()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "5 False\n"
