"""Solver files: what is refused, what overrides what, and where snapshots go by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.errors import PrototxtError, SolverError
from converters.proto import caffe_pb2 as pb
from gmnet_pt.solver import solver_file


def solver(path: Path, text: str) -> Path:
    file = path / "lenet_solver.prototxt"
    file.write_text(text)
    return file


def read(path: Path, text: str, *overrides: str) -> pb.SolverParameter:
    return solver_file.read_solver_or_net(solver(path, text), None, overrides)[0]


def test_the_prefix_is_the_solvers_own_path_by_default(tmp_path: Path) -> None:
    assert read(tmp_path, 'net: "n"').snapshot_prefix == str(tmp_path / "lenet_solver")


def test_a_folder_as_prefix_gets_the_solvers_name(tmp_path: Path) -> None:
    found = read(tmp_path, f'net: "n" snapshot_prefix: "{tmp_path}"').snapshot_prefix
    assert found == str(tmp_path / "lenet_solver")


def test_overrides_win_and_repeated_fields_take_commas(tmp_path: Path) -> None:
    found = read(tmp_path, "base_lr: 1 stepvalue: 9", "base_lr=0.5", "stepvalue=3,4", "type=Adam")
    assert (found.base_lr, list(found.stepvalue), found.type) == (0.5, [3, 4], "Adam")


@pytest.mark.parametrize("setting", ["base_lrr=1", "base_lr", "base_lr=fast", "max_iter=1.5"])
def test_a_bad_override_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(SolverError, match="cannot set"):
        read(tmp_path, "base_lr: 1", setting)


def test_an_unknown_field_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PrototxtError, match=r"lenet_solver\.prototxt:2:1: .*base_lrate"):
        read(tmp_path, 'net: "n"\nbase_lrate: 1')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base_lr: 1", "names no net"),
        ('net: "a" train_net: "b"', "more than one net"),
        ('net: "a" test_iter: 1', "test_interval 0"),
        ('train_net: "a" test_net: "b" test_interval: 1', "0 test_iter for 1 test nets"),
        ('net: "a" test_iter: 0 test_interval: 1', "must be positive"),
        ('net: "a" test_iter: 1 test_interval: 1 test_state {} test_state {}', "2 test_state"),
        ('net: "a" average_loss: 0', "average_loss 0"),
        ('net: "a" iter_size: 0', "iter_size 0"),
        ('net: "a" max_iter: -1', "must not be negative"),
        ('net: "a" base_lr: nan', "base_lr nan"),
    ],
)
def test_contradictions_are_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SolverError, match=says):
        solver_file.check(read(tmp_path, text), "solver")
