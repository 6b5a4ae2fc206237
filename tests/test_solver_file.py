"""Solver files: what is refused, what overrides what, and where snapshots go by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

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


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ('test_state={level: 1, stage: "a"}', 'test_state { level: 1 stage: "a" }'),
        ('test_state={stage: ["a", "b"]}, {}', 'test_state { stage: ["a", "b"] } test_state {}'),
        ('weights="a,b"', 'weights: "a,b"'),
        ('weights="a", b', 'weights: ["a", "b"]'),
        ('test_net=["a", "b"]', 'test_net: ["a", "b"]'),
        ("test_iter=[3, 4]", "test_iter: [3, 4]"),
        ("test_iter=3 # three", "test_iter: 3"),
    ],
)
def test_commas_within_a_value_separate_nothing(setting: str, wanted: str, tmp_path: Path) -> None:
    found = read(tmp_path, 'net: "n" weights: "w" test_iter: 9', setting)
    name = setting.partition("=")[0]
    expected = text_format.Parse(wanted, pb.SolverParameter())
    assert list(getattr(found, name)) == list(getattr(expected, name))


@pytest.mark.parametrize("setting", ["base_lrr=1", "base_lr", "base_lr=fast", "max_iter=1.5"])
def test_a_bad_override_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(SolverError, match="cannot set"):
        read(tmp_path, "base_lr: 1", setting)


def test_an_unknown_field_names_the_nearest(tmp_path: Path) -> None:
    told = r"'max_itr=3': there is no such field; did you mean 'max_iter'\?$"
    with pytest.raises(SolverError, match=told):
        read(tmp_path, "base_lr: 1", "max_itr=3")
    with pytest.raises(SolverError, match=r"'zzz': it is not FIELD=VALUE; .* and \d+ more$"):
        read(tmp_path, "base_lr: 1", "zzz")


@pytest.mark.parametrize(
    ("setting", "others"),
    [
        ("display=1 max_iter: 77", "display, max_iter"),
        ('type="SGD" base_lr: 3', "base_lr, type"),
        ("test_iter=1 test_interval: 2,3", "test_iter, test_interval"),
    ],
)
def test_a_setting_sets_one_field(setting: str, others: str, tmp_path: Path) -> None:
    with pytest.raises(SolverError, match=f"cannot set .*one sets {others}; give each its own"):
        read(tmp_path, 'net: "n" base_lr: 1', setting)


def test_a_string_is_taken_as_it_stands(tmp_path: Path) -> None:
    found = read(tmp_path, 'net: "n" base_lr: 1', "snapshot_prefix=a b: 3", "net=x, y.prototxt")
    assert (found.snapshot_prefix, found.net, found.base_lr) == ("a b: 3", "x, y.prototxt", 1)


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


def inline(name: str) -> str:
    return f'{{ name: "{name}" layer {{ name: "i" type: "Input" top: "x" }} }}'


def test_test_nets_are_in_caffes_order(tmp_path: Path) -> None:
    """test_net_params, then test_nets, then the general net for each test_iter that is left."""
    for name in ("a", "b", "general"):
        (tmp_path / f"{name}.prototxt").write_text(f'name: "{name}"')
    param = read(
        tmp_path,
        f"""test_net: "a.prototxt" test_net_param {inline("first")} test_net: "b.prototxt"
        test_net_param {inline("second")} net: "general.prototxt" test_interval: 1
        test_iter: 1 test_iter: 2 test_iter: 3 test_iter: 4 test_iter: 5""",
    )
    nets = solver_file.test_nets(param, tmp_path / "lenet_solver.prototxt")
    names = [choice.read().name for choice in nets]
    assert names == ["first", "second", "a", "b", "general"]
    assert {choice.phase for choice in nets} == {"TEST"}


@pytest.mark.parametrize(
    ("state", "level", "stages"),
    [("", 1, ("own",)), ("level: 2", 2, ("own",)), ('level: 3 stage: "x"', 3, ("own", "x"))],
)
def test_the_solvers_state_wins_over_the_nets(
    state: str, level: int, stages: tuple[str, ...], tmp_path: Path
) -> None:
    """Solver default < the net's own state < train_state and test_state; stages add up."""
    (tmp_path / "n.prototxt").write_text('state { level: 1 stage: "own" }')
    param = read(
        tmp_path,
        f"""net: "n.prototxt" train_state {{ {state} }} test_state {{ {state} }}
        test_iter: 1 test_interval: 1""",
    )
    file = tmp_path / "lenet_solver.prototxt"
    for choice in (solver_file.train_net(param, file), *solver_file.test_nets(param, file)):
        assert (choice.level, choice.stages) == (level, stages)


def test_a_choice_is_read_once_and_says_all(tmp_path: Path) -> None:
    path = solver(tmp_path, 'net: "n" base_lr: 1 weights: "own"')
    choice = solver_file.SolverChoice(
        path, weights="a,b", overrides=["base_lr=2"], level=3, stages=["s"]
    )
    param = choice.file.param
    path.unlink()
    assert choice.file.param is param
    assert choice.file.path == path
    assert (param.base_lr, list(param.weights)) == (2, ["a", "b"])
    assert (param.train_state.level, list(param.train_state.stage)) == (3, ["s"])
