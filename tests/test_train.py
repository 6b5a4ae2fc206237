"""gmnet_pt.train: fine-tuning and its report, states, signals and exit codes."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_bad_input import Folder

from converters import load_net, save_caffemodel
from converters.formats.caffemodel import read_caffemodel
from gmnet_pt.log.events import Message, Run
from gmnet_pt.log.run_record import parse_record
from gmnet_pt.solver.choices import Request
from gmnet_pt.train import Signals, main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.chdir(tmp_path)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    yield Folder(tmp_path)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def train(*options: str) -> int:
    return main(["solver.prototxt", "--device", "cpu", "--log", "caffe", *options])


def weights_of(path: str) -> dict[str, list[np.ndarray]]:
    return {layer.name: list(map(np.array, layer.blobs)) for layer in read_caffemodel(path).layers}


def test_fine_tuning_says_what_became_of_every_layer(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = (
        'layer { name: "hidden" type: "InnerProduct" bottom: "data" top: "hidden" '
        'inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }\n'
    )
    folder.write_net('layer { name: "fc"', hidden + 'layer { name: "fc"')
    save_caffemodel(load_net("net.prototxt"), "old.caffemodel")
    old = weights_of("old.caffemodel")
    text = (folder.path / "net.prototxt").read_text()
    new = text.replace('name: "fc"', 'name: "fc_new"').replace("num_output: 3", "num_output: 5")
    (folder.path / "net.prototxt").write_text(new)
    # A rate of 0: what was loaded is still there at the end.
    assert train("--weights", "old.caffemodel", "--set", "base_lr=0") == 0
    lines = [line.split("] ", 1)[-1] for line in capsys.readouterr().err.splitlines()]
    assert "Finetuning from old.caffemodel" in lines
    assert "1 of 2 layers loaded" in lines
    assert "Layers kept at their fillers (in no weights file): fc_new" in lines
    assert "Layers skipped (not in the net): fc" in lines
    found = weights_of("out/s_iter_3.caffemodel")
    np.testing.assert_array_equal(found["hidden"][0], old["hidden"][0])
    assert found["fc_new"][0].shape == (5, 36)
    record = (folder.path / "out" / "train.jsonl").read_text()
    assert "1 of 2 layers loaded" in record


def test_a_shape_mismatch_shows_both(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    save_caffemodel(load_net("net.prototxt"), "old.caffemodel")
    folder.write_net("num_output: 3", "num_output: 5")
    assert train("--weights", "old.caffemodel") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r'layer "fc" blob 0 has shape \(3, 36\), net\.prototxt needs \(5, 36\)', error)


def test_given_weights_replace_the_solvers_own(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    save_caffemodel(load_net("net.prototxt"), "given.caffemodel")
    folder.write_solver(extra='weights: "absent.caffemodel"')
    assert train() == 1
    assert "absent.caffemodel" in capsys.readouterr().err
    assert train("--weights", "given.caffemodel") == 0
    assert train("--snapshot", "out/s_iter_3.solverstate", "--max-iter", "4") == 0


def test_several_weights_with_commas(folder: Folder) -> None:
    for name in ("a", "b"):
        save_caffemodel(load_net("net.prototxt"), f"{name}.caffemodel")
    assert train("--weights", "a.caffemodel,b.caffemodel", "--set", "base_lr=0") == 0
    found, last = weights_of("out/s_iter_3.caffemodel"), weights_of("b.caffemodel")
    np.testing.assert_array_equal(found["fc"][0], last["fc"][0])


def test_layers_of_a_test_net_alone_are_loaded_too(folder: Folder) -> None:
    """As Caffe does: the weights go into every net of the solver."""
    from gmnet_pt import Solver

    extra = 'layer { name: "again" type: "InnerProduct" bottom: "fc" top: "again" '
    extra += 'inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }'
    text = (folder.path / "net.prototxt").read_text()
    (folder.path / "test.prototxt").write_text(text + extra)
    net = load_net("test.prototxt")
    # No filler makes these.
    for name, value in (("fc", 0.25), ("again", -0.5)):
        net.params[name][0].data.fill_(value)
    save_caffemodel(net, "old.caffemodel")
    folder.write_solver(extra='test_net: "test.prototxt" test_iter: 1 test_interval: 1')
    solver = Solver("solver.prototxt", weights="old.caffemodel", device="cpu")
    (test_net,) = solver.test_nets
    for name, value in (("fc", 0.25), ("again", -0.5)):
        assert (test_net.params[name][0] == value).all()
    assert test_net.params["fc"][0] is solver.net.params["fc"][0]


def test_level_and_stages_choose_layers(folder: Folder) -> None:
    more = 'layer { name: "relu" type: "ReLU" bottom: "data" top: "data" '
    more += 'include { stage: "a" min_level: 2 } }\nlayer { name: "fc"'
    folder.write_net('layer { name: "fc"', more)
    counts = []
    for options in ((), ("--stage", "b,a"), ("--stage", "a", "--level", "2")):
        assert train(*options) == 0
        counts.append(len(read_caffemodel("out/s_iter_3.caffemodel").layers))
    assert counts[0] == counts[1] == counts[2] - 1


def test_signals_become_requests(folder: Folder) -> None:
    signals = Signals(Request.NONE, Request.SNAPSHOT)
    signal.raise_signal(signal.SIGINT)
    assert (signals(), signals.received) == (Request.NONE, None)
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGINT)
    # What has no effect takes no request away, and a stop outranks a snapshot.
    assert (signals(), signals()) == (Request.SNAPSHOT, Request.NONE)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGHUP)
    assert (signals(), signals.received) == (Request.STOP, signal.SIGTERM)


def test_a_second_interrupt_ends_at_once(folder: Folder) -> None:
    Signals(Request.STOP, Request.SNAPSHOT)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def log_lines() -> list[str]:
    return [line.split("] ", 1)[-1] for line in Path("out/train.log").read_text().splitlines()]


def test_an_error_while_building_leaves_a_log_of_it(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was said before the error, and the error itself, in train.log and train.jsonl."""
    save_caffemodel(load_net("net.prototxt"), "old.caffemodel")
    folder.write_net("num_output: 3", "num_output: 5")
    assert train("--weights", "old.caffemodel") == 1
    shown = capsys.readouterr().err.splitlines()
    (error,) = [line.removeprefix("error: ") for line in shown if line.startswith("error: ")]
    assert 'layer "fc" blob 0 has shape' in error
    lines = log_lines()
    assert {"Use CPU.", "Finetuning from old.caffemodel"} < set(lines)
    assert lines[-1] == error
    assert Path("out/train.log").read_text().splitlines()[-1].startswith("E")
    events = parse_record(Path("out/train.jsonl").read_text())
    assert isinstance(events[0], Run)
    assert events[-1] == Message(error, severity="E")


def test_an_error_in_the_run_is_in_the_log_too(folder: Folder) -> None:
    rates = ("base_lr=1", "lr_policy=step", "gamma=3e38", "stepsize=2")
    assert train(*(part for setting in rates for part in ("--set", setting))) == 1
    assert "is not finite" in log_lines()[-1]


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "exit status: 0 trained to max_iter; 1 a clear error" in words
    assert "130 stopped early by SIGINT, 143 by SIGTERM, 129 by SIGHUP" in words
