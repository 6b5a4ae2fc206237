"""gmnet_pt.test against means of batches, gmnet_pt.time, and what both refuse."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import GOLDEN

from converters import load_net
from converters.records.datum import decode_datum
from converters.records.lmdb_reader import LmdbReader
from gmnet_pt import test as test_command
from gmnet_pt import time as time_command
from gmnet_pt.log.caffe_log import parse_caffe_log

RUN = GOLDEN / "training" / "lenet_sgd_inv"
NET, WEIGHTS = str(RUN / "net.prototxt"), str(RUN / "snap_iter_100.caffemodel")
INPUT = """
name: "small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 3 dim: 2 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
"""


def test_the_lines_are_caffes(capsys: pytest.CaptureFixture[str]) -> None:
    """`caffe test`: outputs of each batch, then the mean loss and the means of the outputs."""
    arguments = [NET, "--weights", WEIGHTS, "--iterations", "3", "--device", "cpu"]
    assert test_command.main(arguments) == 0
    net = load_net(NET, weights=WEIGHTS)
    with LmdbReader(RUN.parent / "test_lmdb") as images:
        data = [decode_datum(value) for _, value in images]
        x = np.stack([datum.image() for datum in data]).astype(np.float32) / 256
        labels = np.array([datum.label for datum in data])
    scores = []
    for start in range(0, 300, 100):
        batch = slice(start, start + 100)
        outputs = net({"data": x[batch], "label": labels[batch]})
        scores.append([float(outputs[name].detach()) for name in ("accuracy", "loss")])
    accuracy, loss = np.mean(scores, 0)
    wanted = ["Running for 3 iterations."]
    for number, (right, lost) in enumerate(scores):
        wanted += [f"Batch {number}, accuracy = {right:g}", f"Batch {number}, loss = {lost:g}"]
    wanted += [
        f"Loss: {loss:g}",
        f"accuracy = {accuracy:g}",
        f"loss = {loss:g} (* 1 = {loss:g} loss)",
    ]
    found = capsys.readouterr().err.splitlines()[-len(wanted) :]
    assert all(re.match(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ caffe\.cpp:\d+\] ", x) for x in found)
    assert [line.split("] ", 1)[1] for line in found] == wanted


def test_what_was_loaded_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert test_command.main([NET, "--weights", WEIGHTS, "--iterations", "1"]) == 0
    assert "all 3 layers loaded\n" in capsys.readouterr().err


def test_a_deploy_net_has_no_data_to_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy = tmp_path / "deploy.prototxt"
    deploy.write_text(INPUT)
    assert test_command.main([str(deploy), "--weights", WEIGHTS]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"deploy\.prototxt: no data layer; this looks like a deploy net", error)


@pytest.mark.parametrize("arguments", [("--iterations", "0"), ("--iterations", "many")])
def test_iterations_are_a_positive_number(arguments: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as raised:
        test_command.main([NET, "--weights", WEIGHTS, *arguments])
    assert raised.value.code == 2


def table(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_time_lists_every_layer(phase: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert time_command.main([NET, "--iterations", "2", "--phase", phase, "--device", "cpu"]) == 0
    rows = table(capsys.readouterr().out)
    layers = ["data", "conv1", "pool1", "relu1", "ip1", "relu2", "ip2", "loss"]
    assert set(layers) < set(rows)
    assert ("accuracy" in rows) == (phase == "TEST")
    assert rows["conv1"][0] == "Convolution"
    forward, backward = map(float, rows["conv1"][1:3])
    assert forward > 0
    assert backward > 0
    shown = [rows[name] for name in rows if name in (*layers, "accuracy")]
    total = sum(float(row[1]) for row in shown)
    assert float(rows["all"][1]) == pytest.approx(total, abs=0.01)


def test_time_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away = tmp_path / "net.prototxt"
    away.write_text(Path(NET).read_text())
    assert time_command.main([str(away), "--iterations", "1"]) == 1
    assert "does not exist: build it, or give input shapes" in capsys.readouterr().err
    arguments = [str(away), "--iterations", "1", "--input-shape", "data=5,1,28,28"]
    assert time_command.main(arguments) == 0
    assert "ip2" in table(capsys.readouterr().out)


def test_time_feeds_inputs_with_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploy = tmp_path / "deploy.prototxt"
    deploy.write_text(INPUT)
    assert time_command.main([str(deploy), "--iterations", "1", "--phase", "TEST"]) == 0
    assert {"data", "conv", "relu"} < set(table(capsys.readouterr().out))


def test_time_in_caffes_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert time_command.main([NET, "--iterations", "1", "--log", "caffe"]) == 0
    lines = [line.split("] ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert any(re.fullmatch(r"     conv1\tforward: \S+ ms\.", line) for line in lines)
    assert any(re.fullmatch(r"Average Forward pass: \S+ ms\.", line) for line in lines)
    assert lines[-1] == "*** Benchmark ends ***"
    assert not parse_caffe_log("\n".join(lines))


SLOW = """
import time
import caffe

class Slow(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        time.now += 0.25
        top[0].data[...] = bottom[0].data

    def backward(self, top, propagate_down, bottom):
        time.now += 0.5
        bottom[0].diff[...] = top[0].diff
"""
SLOW_LAYERS = """
layer { name: "slow" type: "Python" bottom: "conv" top: "slow"
  python_param { module: "slow_layer" layer: "Slow" } }
layer { name: "mean" type: "Reduction" bottom: "slow" top: "mean" include { phase: TRAIN } }
layer { name: "loss" type: "Power" bottom: "mean" top: "loss" loss_weight: 1
  include { phase: TRAIN } }
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command on a net where time passes in one layer only: 250 ms forward, 500 backward."""
    monkeypatch.setattr(time, "now", 0.0, raising=False)
    monkeypatch.setattr(time, "perf_counter", lambda: vars(time)["now"])
    (tmp_path / "slow_layer.py").write_text(SLOW)
    (tmp_path / "net.prototxt").write_text(INPUT + SLOW_LAYERS)
    return [str(tmp_path / "net.prototxt"), "--allow-python-layers", "--device", "cpu"]


def test_time_is_told_of_the_layer_that_took_it(
    slow: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As in Caffe, the mean of 50 passes in TRAIN after one that is not counted."""
    assert time_command.main(slow) == 0
    rows, _, last = capsys.readouterr().out.partition("\n\n")
    nothing, took = ["0.000", "0.000"], ["250.000", "500.000"]
    assert table(rows) == {
        "layer": ["type", "forward", "backward", "share"],
        "data": ["Input", *nothing, "0.0%"],
        "conv": ["Convolution", *nothing, "0.0%"],
        "relu": ["ReLU", *nothing, "0.0%"],
        "slow": ["Python", *took, "100.0%"],
        "mean": ["Reduction", *nothing, "0.0%"],
        "loss": ["Power", *nothing, "0.0%"],
        "all": ["layers", *took],
        "whole": ["graph", *took],
    }
    assert last == (
        "small (TRAIN, cpu): milliseconds a pass, mean of 50; forward and backward of the whole "
        "graph 750.000 ms, 4 items a second\n"
    )


def test_times_in_caffes_lines(slow: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert time_command.main([*slow, "--iterations", "2", "--log", "caffe"]) == 0
    lines = [line.split("] ", 1)[-1] for line in capsys.readouterr().err.splitlines()]
    wanted = [
        "Testing for 2 iterations.",
        "Average time per layer: ",
        *(
            f"{name:>10}\t{way}: {milliseconds if name == 'slow' else 0} ms."
            for name in ("data", "conv", "relu", "slow", "mean", "loss")
            for way, milliseconds in (("forward", 250), ("backward", 500))
        ),
        "Average Forward pass: 250 ms.",
        "Average Backward pass: 500 ms.",
        "Average Forward-Backward: 750 ms.",
        "Total Time: 1500 ms.",
        "*** Benchmark ends ***",
    ]
    assert lines[-len(wanted) :] == wanted


def test_a_stopwatch_counts_laps() -> None:
    watch = time_command.Stopwatch(torch.device("cpu"))
    assert 0 <= watch.lap() < 1000
