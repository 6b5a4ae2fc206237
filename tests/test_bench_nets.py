"""The bench's yardsticks are the nets that they are measured beside; other processes are read."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import peak, trainer_bench
from bench.agreement import check
from bench.cases import CASES, Images, write_database, write_training
from bench.hand_written.classifier import folded
from bench.hand_written.rule import Rates, cifar10_full_rates
from bench.hand_written.training import Loop, optimizer
from bench.inference_bench import OpenCV, hand_written, trained
from bench.nets.builder import deploy
from bench.train_bench import batches, best_loop, fresh, scratch
from converters import load_net
from converters.errors import DataError, NetError
from converters.records.datum import decode_batch
from converters.records.lmdb_reader import LmdbReader
from gmnet_pt import Solver

# What the papers and Caffe's own files give.
PARAMETERS = {
    "bua": 1_737_290,
    "baseline": 921_418,
    "lenet": 431_080,
    "cifar10_full": 89_578,
    "alexnet": 60_965_224,
    "googlenet": 13_378_280,
    "resnet50": 25_557_032,
}


@pytest.mark.parametrize("name", CASES)
def test_hand_written_net_has_the_nets_parameters(name: str) -> None:
    assert sum(x.numel() for x in CASES[name].module().parameters()) == PARAMETERS[name]


# Each of the others takes minutes; the bench checks all before it times them.
@pytest.mark.parametrize("name", ["lenet", "cifar10_full"])
def test_hand_written_net_trains_as_the_converted_one(name: str) -> None:
    check(CASES[name], CASES[name].module())


def test_a_wrong_rule_is_seen() -> None:
    case = CASES["lenet"]
    wrong = case.module()
    wrong.layers[6] = nn.GELU()
    with pytest.raises(NetError, match="lenet: loss, gradients or updates differ"):
        check(case, wrong)


@pytest.mark.parametrize("name", ["layers.0.bias", "layers.12.weight"])
def test_a_wrong_rate_is_seen(name: str) -> None:
    case = replace(
        CASES["cifar10_full"],
        rates=lambda own: Rates(1, 1) if own == name else cifar10_full_rates(own),
    )
    with pytest.raises(NetError, match="updates differ"):
        check(case, case.module())


def test_other_parameters_are_refused() -> None:
    with pytest.raises(NetError, match="other parameters"):
        check(CASES["lenet"], CASES["cifar10_full"].module())


# What is measured --------------------------------------------------------------------------------


@pytest.mark.long
def test_the_best_loop_starts_with_the_solvers_weights_and_data() -> None:
    case = CASES["lenet"]
    with scratch(case, batch=8) as files, Solver(files.solver, device="cpu") as solver:
        given = batches(files, 2)
        best = best_loop(case, fresh(case, solver), given, budget=0.0)
        ways = {f"{layout}, fused SGD" for layout in ("contiguous", "channels_last")}
        assert ways < set(best.tried) and best.name in best.tried and len(best.tried) == 3
        assert given[0].images.shape == (8, 1, 28, 28) and given[0].labels.dtype == torch.int64
        assert float(given[0].images.min()) >= 0 and float(given[0].images.max()) < 1  # scaled
        # From the same weights the first loss is the solver's own on that batch.
        module = fresh(case, solver)()
        rule = optimizer(module, case.rule, case.rates, fused=True)
        start = Loop(module, rule, given, torch.channels_last)
        ours = solver.step({"data": given[0].images, "label": given[0].labels})
        torch.testing.assert_close(start.step(), ours)
        assert start.step() != ours  # the next batch


def test_databases_hold_what_the_net_reads(tmp_path: Path) -> None:
    write_database(tmp_path / "jpeg", Images(3, 32, 32), 10, 4, jpeg=True)
    write_database(tmp_path / "plain", Images(1, 28, 28), 10, 4, jpeg=False)
    for name, shape in (("jpeg", (4, 3, 32, 32)), ("plain", (4, 1, 28, 28))):
        with LmdbReader(tmp_path / name) as reader:
            pixels, labels = decode_batch([bytes(value) for _, value in reader])
        assert pixels.shape == shape and len(labels) == 4
        assert pixels.std() > 10


@pytest.mark.parametrize("name", ["lenet", "bua"])
def test_folded_module_computes_what_the_test_net_does(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    with trained(case) as made, torch.no_grad():
        path = tmp_path / "deploy.prototxt"
        path.write_text(str(deploy(case.layers(), case.images.batch(2))))
        images = torch.rand(case.images.batch(2)) - 0.5
        ours = load_net(path, weights=made.weights)(images)["prob"]
        torch.testing.assert_close(made.module(images), ours, atol=1e-5, rtol=1e-4)
        assert not any(isinstance(x, nn.BatchNorm2d | nn.Dropout) for x in made.module.modules())
        assert (
            0.01 < float(ours.max()) < 0.99
        )  # nothing is saturated: the comparison says something
        assert float((ours[0] - ours[1]).abs().max()) > 1e-6


def test_ways_of_inference_agree() -> None:
    case = CASES["lenet"]
    images = torch.rand(case.images.batch(2))
    with trained(case) as made, torch.no_grad():
        ways = hand_written(made.module, images)
        assert set(ways) == {
            f"{way}, {layout}"
            for way in ("eager", "frozen")
            for layout in ("contiguous", "channels_last")
        }
        for way in ways.values():
            torch.testing.assert_close(way(), made.module(images))


def test_folding_leaves_the_trained_module_alone() -> None:
    module = CASES["bua"].module()
    layers = len(list(module.modules()))
    folded(module)
    assert len(list(module.modules())) == layers and module.training


def test_deploy_of_googlenet_has_no_auxiliary_classifier() -> None:
    net = deploy(CASES["googlenet"].layers(), (1, 3, 224, 224))
    assert not [layer.name for layer in net.layer if layer.name.startswith(("loss1", "loss2"))]
    assert [net.layer[0].type, net.layer[-1].type] == ["Input", "Softmax"]
    assert sum(layer.type == "Convolution" for layer in net.layer) == 57


# Other processes ---------------------------------------------------------------------------------

CAFFE_LOG = """\
I1126 01:00:00.1 1 solver.cpp:239] Iteration 0 (-1.4013e-45 iter/s, 0s/100 iters), loss = 2.3
I1126 01:00:02.1 1 solver.cpp:239] Iteration 100 (50 iter/s, 2s/100 iters), loss = 0.3
I1126 01:00:04.6 1 solver.cpp:239] Iteration 200 (40 iter/s, 2.5s/100 iters), loss = 0.2
I1126 01:00:04.6 1 caffe.cpp:397] Average Forward pass: 6.5 ms.
I1126 01:00:04.6 1 caffe.cpp:399] Average Backward pass: 5.5 ms.
I1126 01:00:04.6 1 caffe.cpp:401] Average Forward-Backward: 12.5 ms.
"""


def test_caffes_logs_are_read() -> None:
    assert trainer_bench.caffe_speeds(CAFFE_LOG) == [(0.0, 0), (2.0, 100), (2.5, 100)]
    assert trainer_bench.caffe_average(CAFFE_LOG) == 0.0125
    with pytest.raises(DataError, match="no average"):
        trainer_bench.caffe_average("killed")


def test_first_interval_of_the_trainer_does_not_count(tmp_path: Path) -> None:
    files = write_training(CASES["lenet"], tmp_path, 4, solver="display: 2 max_iter: 9")
    assert 0 < trainer_bench.trained(files) < 5
    log = tmp_path / "caffe"
    log.write_text(f"#!{sys.executable}\nprint({CAFFE_LOG!r})\n")
    log.chmod(0o755)
    assert trainer_bench.trained_by_caffe(log, files) == 0.025
    assert trainer_bench.timed_by_caffe(log, files) == 0.0125


def test_a_caffe_that_fails_is_told(tmp_path: Path) -> None:
    files = write_training(CASES["lenet"], tmp_path, 4)
    with pytest.raises(DataError, match="exit status 1"):
        trainer_bench.trained_by_caffe(Path("/bin/false"), files)


@pytest.mark.parametrize("side", ["ours", "contiguous"])
def test_peaks_are_those_of_their_own_process(
    side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_training(CASES["lenet"], tmp_path, 4)
    given = [str(files.solver)] if side == "ours" else ["lenet.LeNet", "4,1,28,28", "10"]
    monkeypatch.setattr(sys, "argv", ["peak", side, "2", *given])
    peak.main()
    assert int(capsys.readouterr().out) > 50e6


def test_an_opencv_that_is_none_is_told(tmp_path: Path) -> None:
    images = torch.zeros(1, 1, 28, 28)
    with pytest.raises(DataError, match="OpenCV ended"):
        OpenCV(Path(sys.executable), tmp_path / "no.prototxt", tmp_path / "no", images)
