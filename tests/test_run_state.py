"""Solver.state and Solver.load: a value that training does not change, and going on from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_bad_input import Folder
from test_resume import EVERYTHING, random_folder

from converters.errors import SolverError
from gmnet_pt import Solver
from gmnet_pt.solver.run_state import RunState


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    made = random_folder(tmp_path)
    (tmp_path / "net.prototxt").write_text(EVERYTHING)
    made.write_solver("Adam", extra="momentum: 0.9 test_iter: 1 test_interval: 2")
    return made


def flat(state: RunState) -> list[torch.Tensor]:
    """All that a state holds, as tensors."""
    found = [torch.tensor([state.iteration, state.current_step]), *state.history]
    found += [*state.random.values(), torch.tensor(state.smoothed_loss)]
    for net in state.nets:
        found += list(net.hidden.values())
        for position in net.readers or ():
            found.append(torch.tensor(list(position.values())))
    return found


def same(one: RunState, other: RunState) -> bool:
    pairs = list(zip(flat(one), flat(other), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_state_is_a_copy(folder: Folder) -> None:
    solver = Solver("solver.prototxt", device="cpu")
    solver.step(2)
    solver.test()
    state = solver.state()
    kept = [tensor.clone() for tensor in flat(state)]
    assert same(state, solver.state())
    solver.step(2)
    solver.test()
    assert all(torch.equal(a, b) for a, b in zip(flat(state), kept, strict=True))
    assert not same(state, solver.state())
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.iteration = 3  # type: ignore[misc]


def test_loading_goes_back_without_files(folder: Folder) -> None:
    solver = Solver("solver.prototxt", device="cpu")
    solver.step(2)
    solver.test()
    state, weights = solver.state(), [blob.detach().clone() for blob in solver.net.learnable]
    wanted = [solver.step() for _ in range(3)], solver.test()
    with torch.no_grad():
        for blob, value in zip(solver.net.learnable, weights, strict=True):
            blob.copy_(value)
    solver.load(state)
    assert same(solver.state(), state)
    found = [solver.step() for _ in range(3)], solver.test()
    assert all(torch.equal(a, b) for a, b in zip(found[0], wanted[0], strict=True))
    for one, other in zip(found[1], wanted[1], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_a_state_does_not_know_begins_afresh(folder: Folder) -> None:
    """Caffe's own state: hidden tensors are 0 and data starts at the first record."""
    solver = Solver("solver.prototxt", device="cpu")
    solver.step(2)
    solver.test()
    state = solver.state()
    solver.load(RunState(1, 0, state.history))
    assert solver.iter == 1
    assert all(not tensor.any() for net in solver.state().nets for tensor in net.hidden.values())
    for net in (solver.net, *solver.test_nets):
        assert solver.batches(net)[0].state()["batch"] == 0


def test_another_solvers_or_nets_state_is_refused(folder: Folder) -> None:
    solver = Solver("solver.prototxt", device="cpu")
    solver.step()
    state = solver.state()
    with pytest.raises(SolverError, match=r'x: was written by solver type "SGD", not "Adam"'):
        solver.load(dataclasses.replace(state, type="SGD"), "x")
    with pytest.raises(SolverError, match=r"x: holds 1 history blobs"):
        solver.load(dataclasses.replace(state, history=state.history[:1]), "x")
    short = dataclasses.replace(state.nets[0], readers=())
    with pytest.raises(SolverError, match=r"x: does not belong to this net"):
        solver.load(dataclasses.replace(state, nets=(short,)), "x")
    odd = dataclasses.replace(state.nets[0], hidden={"0/other": torch.zeros(1)})
    with pytest.raises(SolverError, match=r"x: does not belong to this net"):
        solver.load(dataclasses.replace(state, nets=(odd,)), "x")


def test_a_closed_solver_reads_from_the_first_record(folder: Folder) -> None:
    with Solver("solver.prototxt", device="cpu") as solver:
        solver.step(2)
        (batches,) = solver.batches(solver.net)
    with pytest.raises(ValueError, match="closed"):
        batches.next()
    solver.step()
    assert solver.batches(solver.net)[0].state()["batch"] == 1
