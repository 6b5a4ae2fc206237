"""gmnet_pt.solver.compiled: the loss through torch.compile trains as the net itself does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_case import GOLDEN
from small_net import load_layer
from test_bad_input import Folder
from test_capture import FILTER, Run, assert_same, hook, noise, run
from test_resume import EVERYTHING, NET, random_folder
from test_solver import SETTINGS

from converters.errors import SolverError
from gmnet_pt import Solver
from gmnet_pt.log.events import Message

WITHOUT_DROPOUT = NET.replace(
    'layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }\n', ""
)
# What every compiler's result must be: sums in another order.
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def begin_anew() -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    made = random_folder(tmp_path)
    made.write_solver("SGD", "out/s", "momentum: 0.9", 40)
    return made


@pytest.fixture
def compiler() -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")


def compiled(backend: str, path: str | Path = "solver.prototxt", **settings: Any) -> Run:
    """A run whose loss goes through one of torch.compile's backends; "aot_eager" needs nothing."""
    made = run(path, False, **settings)
    made.solver._compile(backend)
    return made


def lines(one: Run) -> list[str]:
    return [e.text for e in one.told if isinstance(e, Message) and "compile" in e.text]


@pytest.mark.parametrize("name", SETTINGS[::5])
def test_golden_runs(name: str) -> None:
    folder = GOLDEN / "solvers" / name
    arrays = dict(np.load(folder / "golden.npz"))
    made = compiled("aot_eager", folder / "solver.prototxt", weights=folder / "init.caffemodel")
    pairs = zip(arrays["data"], arrays["label"])
    feeds = ({"data": torch.from_numpy(x), "label": torch.from_numpy(y)} for x, y in pairs)
    losses = [float(made.solver.step(feed)) for feed in feeds]
    assert losses == pytest.approx(arrays["loss"], rel=CLOSE)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not lines(made)


def test_generated_kernels(compiler: None, folder: Folder) -> None:
    """BatchNorm's statistics, two passes a step, and a recording of the kernels."""
    (folder.path / "net.prototxt").write_text(WITHOUT_DROPOUT)
    overrides = ["iter_size=2"]
    made = run("solver.prototxt", False, overrides=overrides, compile=True)
    plain = run("solver.prototxt", False, overrides=overrides)
    for _ in range(6):
        loss, other = made.solver.step(), plain.solver.step()
        assert float(loss) == pytest.approx(float(other), rel=CLOSE)
    for one, other in zip(made.solver.net.learnable, plain.solver.net.learnable, strict=True):
        assert (one - other).abs().max() <= CLOSE * other.abs().max().clamp(min=1)
    assert lines(made) == ["The loss runs through torch.compile: the first iterations take long."]


@pytest.mark.parametrize("windows", ["pad: 1"])
def test_means_over_windows_that_reach_beyond(windows: str, compiler: None) -> None:
    """Where torch's own compiled gradient is wrong: Caffe rounds the number of windows up."""
    settings = f"pooling_param {{ pool: AVE kernel_size: 3 stride: 2 {windows} }}"
    x = torch.randn(2, 3, 8, 7, requires_grad=True)
    net = load_layer("Pooling", settings, x)
    compiled = torch.compile(net.graph_module)
    dy = torch.randn(net({"b0": x})["t0"].shape)
    wanted = torch.autograd.grad(net({"b0": x})["t0"], x, dy)[0]
    found = torch.autograd.grad(compiled(x)[0], x, dy)[0]
    assert torch.allclose(found, wanted, rtol=0, atol=1e-6)


def test_a_resumed_run_is_the_run_that_never_stopped(compiler: None, folder: Folder) -> None:
    """Bit for bit, with the masks that the kernels draw."""
    whole = run("solver.prototxt", False, compile=True)
    whole.solver.step(5)
    state = whole.solver.snapshot()
    whole.solver.step(5)
    resumed = run("solver.prototxt", False, compile=True, snapshot=state)
    resumed.solver.step(5)
    assert_same(whole.solver, resumed.solver)


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (NET + FILTER, 'layer "choose" (Filter) has tops whose size depends on the data'),
        (NET, 'layer "fc" carries a hook'),
        (EVERYTHING, 'layer "rnn" (RNN) keeps a state from pass to pass'),
    ],
    ids=["Filter", "hook", "RNN"],
)
def test_what_cannot_be_compiled_runs_as_it_is(net: str, told: str, folder: Folder) -> None:
    (folder.path / "net.prototxt").write_text(net)
    made, plain = compiled("inductor"), run("solver.prototxt", False)
    for one in (made, plain):
        if "hook" in told:
            hook(one.solver)
        one.solver.step(3)
    assert_same(made.solver, plain.solver)
    assert lines(made) == [f"Iterations run uncompiled: {told}."]


def test_a_pass_is_compiled_once(folder: Folder) -> None:
    """Nothing that a pass counts or fills makes the next one another; statistics are among it."""
    dummy = EVERYTHING[: EVERYTHING.index('layer { name: "rnn"')].replace(NET, WITHOUT_DROPOUT)
    (folder.path / "net.prototxt").write_text(
        dummy + 'layer { name: "swallow" type: "Silence" bottom: "x" bottom: "cont" }'
    )
    made = compiled("aot_eager")
    made.solver.step(6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_another_batch_size(folder: Folder) -> None:
    (folder.path / "net.prototxt").write_text(WITHOUT_DROPOUT)
    made, plain = compiled("aot_eager"), run("solver.prototxt", False)
    for items in (5, 3, 5):
        losses = [float(one.solver.step(noise(items))) for one in (made, plain)]
        assert losses[0] == pytest.approx(losses[1], rel=CLOSE)


def test_no_compiler_is_said(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    with pytest.raises(SolverError, match=r"torch.compile fails .*; train without --compile"):
        Solver("solver.prototxt", device="cpu", compile=True).step()
