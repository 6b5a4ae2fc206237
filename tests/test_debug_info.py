"""debug_info line by line on a net of mental arithmetic, and that it changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_case import GOLDEN

from gmnet_pt import Solver
from gmnet_pt.log.caffe_log import caffe_lines
from gmnet_pt.log.events import Event

# y = 0.5·2 + 0.5·2 - 3 = -1, leaky -0.5; loss (-0.5 - 3)² / 2 = 6.125.
NET = """
name: "arithmetic"
layer { name: "x" type: "DummyData" top: "x"
  dummy_data_param { shape { dim: 1 dim: 2 } data_filler { value: 2 } } }
layer { name: "t" type: "DummyData" top: "t"
  dummy_data_param { shape { dim: 1 dim: 1 } data_filler { value: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" param { name: "w" }
  inner_product_param { num_output: 1 weight_filler { value: 0.5 } bias_filler { value: -3 } } }
layer { name: "leaky" type: "ReLU" bottom: "y" top: "y" relu_param { negative_slope: 0.5 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "l" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 display: 1
debug_info: true snapshot_after_train: false solver_mode: CPU"""
FORWARD = [
    "Layer x, top blob x data: 2",
    "Layer t, top blob t data: 3",
    "Layer ip, top blob y data: 1",
    "Layer ip, param blob w data: 0.5",
    "Layer ip, param blob 1 data: 3",
    "Layer leaky, top blob y data: 0.5",
    "Layer loss, top blob l data: 6.125",
]
# dl/dy = -0.5 - 3, through the slope -1.75; the weights' is that times x.
BACKWARD = [
    "Layer loss, bottom blob y diff: 3.5",
    "Layer leaky, bottom blob y diff: 1.75",
    "Layer ip, param blob 0 diff: 3.5",
    "Layer ip, param blob 1 diff: 1.75",
    "All net params (data, diff): L1 norm = (4, 8.75); L2 norm = (3.08221, 5.25)",
]


def test_every_line_in_caffes_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    seen: list[Event] = []
    assert Solver(tmp_path / "solver.prototxt", show=seen.append).solve()
    lines = [line.text for event in seen for line in caffe_lines(event)]
    first = lines.index(f"    [Forward] {FORWARD[0]}")
    wanted = [f"    [Forward] {text}" for text in FORWARD]
    wanted += [f"    [Backward] {text}" for text in BACKWARD]
    assert lines[first : first + len(wanted)] == wanted
    assert lines[first + len(wanted)].startswith("Iteration 0 (")


RUN = GOLDEN / "training" / "lenet_sgd_inv"
SETTINGS = ("max_iter=2", "display=2", "test_interval=2", "test_iter=1")


def weights_after(*settings: str) -> list[np.ndarray]:
    solver = Solver(
        RUN / "solver.prototxt",
        weights=RUN / "init.caffemodel",
        device="cpu",
        overrides=[*SETTINGS, *settings],
    )
    assert solver.solve()
    return [blob.detach().numpy() for blob in solver.net.learnable]


def test_looking_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for one, other in zip(weights_after("debug_info=true"), weights_after(), strict=True):
        # The fused graph rounds elsewhere.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
