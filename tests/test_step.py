"""gmnet_pt.solver.step: an iteration by itself, whole or in phases, and nothing but tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_case import GOLDEN
from test_solver import SETTINGS
from test_solver_rules import NET
from test_updates import RULES
from torch.utils._python_dispatch import TorchDispatchMode

from gmnet_pt import Solver
from gmnet_pt.solver.step import TrainingStep

Feed = dict[str, torch.Tensor]


class NoNumbers(TorchDispatchMode):
    """Refuses to make a Python number of a tensor, as a CUDA graph would."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def golden(name: str) -> tuple[Solver, Iterator[Feed]]:
    folder = GOLDEN / "solvers" / name
    arrays = dict(np.load(folder / "golden.npz"))
    pairs = zip(arrays["data"], arrays["label"])
    feeds = ({"data": torch.from_numpy(x), "label": torch.from_numpy(y)} for x, y in pairs)
    return Solver(folder / "solver.prototxt", folder / "init.caffemodel", device="cpu"), feeds


def number(value: float) -> torch.Tensor:
    return torch.tensor(value)


@pytest.mark.parametrize("name", SETTINGS)
def test_phases_by_hand_are_the_solvers_step(name: str) -> None:
    """With the rate of each iteration as the policy gives it."""
    (whole, feeds), (parts, _) = golden(name), golden(name)
    step = TrainingStep(parts.net, parts.updater, torch.device("cpu"))
    for iteration, feed in zip(range(4), feeds):
        rate, parts.current_step = parts._rate(iteration, parts.current_step)
        wanted = whole.step(feed)
        step.clear()
        passes = [step.forward_backward(feed).loss for _ in range(parts.param.iter_size)]
        step.update(number(rate), number(iteration))
        assert torch.equal(sum(passes[1:], passes[0]) / len(passes), wanted)
        for one, other in zip(parts.net.learnable, whole.net.learnable, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("rule", RULES)
def test_no_tensor_becomes_a_python_number(rule: str, tmp_path: Path) -> None:
    """Clipping and all; the net's layers look at no label."""
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "net.prototxt" type: "{rule}" base_lr: 1 lr_policy: "fixed" iter_size: 2 '
        "clip_gradients: 1 weight_decay: 0.1 max_iter: 1"
    )
    solver = Solver(tmp_path / "solver.prototxt", device="cpu")
    before = [blob.detach().clone() for blob in solver.net.learnable]
    feed = {"x": torch.ones(4, 3), "t": torch.ones(4, 2)}
    rate, iteration = number(0.5), number(3)
    with NoNumbers():
        solver.training([feed, feed], rate, iteration)
        with pytest.raises(AssertionError):
            float(rate)
    for old, new in zip(before, solver.net.learnable, strict=True):
        assert not torch.equal(old, new)


def test_a_call_is_a_whole_iteration() -> None:
    (one, feeds), (other, _) = golden("sgd_plain"), golden("sgd_plain")
    first, second = next(feeds), next(feeds)
    step = TrainingStep(one.net, one.updater, torch.device("cpu"))
    passed = step([first, second], number(0.5), number(0))
    losses = []
    other.training.clear()
    for feed in (first, second):
        loss, outputs = other.training.forward_backward(feed)
        losses.append(float(loss))
    other.training.update(number(0.5), number(0))
    assert float(passed.loss) == pytest.approx(np.mean(losses), rel=1e-6)
    assert passed.loss.shape == ()
    assert not passed.loss.requires_grad
    assert passed.outputs.keys() == outputs.keys()
    assert all(torch.equal(passed.outputs[name], outputs[name]) for name in outputs)
    for a, b in zip(one.net.learnable, other.net.learnable, strict=True):
        assert torch.equal(a, b)


def test_a_step_where_the_caller_wants_no_gradients_is_the_same() -> None:
    (outside, feeds), (inside, _) = golden("sgd_plain"), golden("sgd_plain")
    feed = next(feeds)
    outside.step(feed)
    with torch.no_grad():
        inside.step(feed)
        assert not torch.is_grad_enabled()
    for one, other in zip(outside.net.learnable, inside.net.learnable, strict=True):
        assert torch.equal(one, other)


def test_gradients_of_before_do_not_count() -> None:
    (one, feeds), (other, _) = golden("sgd_plain"), golden("sgd_plain")
    feed = next(feeds)
    for blob in one.net.learnable:
        blob.grad = torch.full_like(blob, 100.0)
    for solver in (one, other):
        solver.training([feed], number(0.5), number(0))
    for a, b in zip(one.net.learnable, other.net.learnable, strict=True):
        assert torch.equal(a, b)


def test_n_steps_read_n_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_bad_input import Folder

    from converters.errors import SolverError

    monkeypatch.chdir(tmp_path)
    Folder(tmp_path)
    one, other = (Solver("solver.prototxt", device="cpu") for _ in range(2))
    losses = [other.step() for _ in range(3)]
    assert torch.equal(one.step(3), losses[-1])
    assert one.iter == 3
    assert one.batches(one.net)[0].state() == other.batches(other.net)[0].state()
    for a, b in zip(one.net.learnable, other.net.learnable, strict=True):
        assert torch.equal(a, b)
    feed = {"data": torch.ones(4, 1, 6, 6), "label": torch.zeros(4)}
    assert torch.equal(one.step(feed), other.step(inputs=feed))
    assert one.step(n=1, inputs=feed).shape == ()
    for wrong in (
        {"n": 0},
        {"n": 1.5},
        {"n": "3"},
        {"n": torch.ones(4, 1, 6, 6)},
        {"n": 2, "inputs": feed},
        {"n": feed, "inputs": feed},
    ):
        with pytest.raises(SolverError, match="step takes a number from 1 on, or inputs"):
            one.step(**wrong)
    assert one.iter == 5
