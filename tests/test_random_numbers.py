"""A run's random numbers are its own: seeded, kept apart from the process's, gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_bad_input import Folder
from test_resume import random_folder

from gmnet_pt import Solver
from gmnet_pt.solver.random_numbers import RandomNumbers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Fillers, dropout, crops and mirrors: every kind of random number."""
    monkeypatch.chdir(tmp_path)
    return random_folder(tmp_path)


def solver(seed: int | None) -> Solver:
    chosen = [] if seed is None else [f"random_seed={seed}"]
    return Solver("solver.prototxt", device="cpu", overrides=chosen)


def parameters(one: Solver) -> list[torch.Tensor]:
    return [blob.detach().clone() for blob in one.net.learnable]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def after(seed: int | None, steps: int = 4) -> list[torch.Tensor]:
    one = solver(seed)
    one.step(steps)
    return parameters(one)


def test_two_solvers_in_turn_are_what_each_is_alone(folder: Folder) -> None:
    alone = {seed: after(seed) for seed in (3, 4)}
    together = {seed: solver(seed) for seed in (3, 4)}
    for _ in range(4):
        for one in together.values():
            one.step()
    for seed, one in together.items():
        assert same(parameters(one), alone[seed])
    assert not same(alone[3], alone[4])


def test_the_process_keeps_its_numbers(folder: Folder) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    solver(3).step(2)
    solver(None).step(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_process_does_not_reach_into_a_run(folder: Folder) -> None:
    one = solver(3)
    for _ in range(4):
        torch.manual_seed(1)
        one.step()
    assert same(parameters(one), after(3))


@pytest.mark.parametrize("seed", [0, 5])
def test_a_seed_decides_fillers_and_data(seed: int, folder: Folder) -> None:
    """Caffe seeds where random_seed is at least 0: 0 is a seed like any other."""
    one, other, unlike = solver(seed), solver(seed), solver(seed + 1)
    assert same(parameters(one), parameters(other))
    assert not same(parameters(one), parameters(unlike))
    feeds = [x.batches(x.net)[0].next()["data"] for x in (one, other, unlike)]
    assert torch.equal(feeds[0], feeds[1])
    assert not torch.equal(feeds[0], feeds[2])
    assert same(after(seed), after(seed))


def test_without_a_seed_every_run_is_another(folder: Folder) -> None:
    folder.write_solver()
    path = folder.path / "solver.prototxt"
    path.write_text(path.read_text().replace("random_seed: 1", ""))
    torch.manual_seed(7)
    first = parameters(solver(None))
    torch.manual_seed(7)
    assert not same(parameters(solver(None)), first)


def test_numbers_go_on_behind_an_error() -> None:
    plain, broken = (RandomNumbers(1, torch.device("cpu")) for _ in range(2))
    draws = []
    for one in (plain, broken):
        with one.entered():
            draws.append(torch.rand(3))
        if one is broken:
            with pytest.raises(KeyError), one.entered():
                raise KeyError
        with one.entered():
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[2])
    assert torch.equal(draws[1], draws[3])
    assert not torch.equal(draws[0], draws[1])


def test_a_foreign_state_is_refused_and_changes_nothing() -> None:
    one = RandomNumbers(1, torch.device("cpu"))
    outer, before = torch.get_rng_state(), one.state()
    with pytest.raises((RuntimeError, TypeError)):
        one.restore({"cpu": torch.zeros(3, dtype=torch.uint8)})
    assert torch.equal(torch.get_rng_state(), outer)
    assert torch.equal(one.state()["cpu"], before["cpu"])
