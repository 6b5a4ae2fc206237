"""Every field of SolverParameter does something, or stands in one list with the reason why not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from test_bad_input import write_database

from converters import load_net, save_caffemodel
from converters.errors import SolverError
from converters.proto import caffe_pb2 as pb
from converters.proto.forks import fork_of
from gmnet_pt import Solver
from gmnet_pt.log.events import Display, Event, Start
from gmnet_pt.solver.device import solver_device
from gmnet_pt.solver.solver_file import FORKS

NET = """
name: "{name}"
layer {{ name: "data" type: "Data" top: "data" top: "label"
  transform_param {{ scale: 0.01 }} data_param {{ source: "db" batch_size: 4 backend: LMDB }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "fc" top: "fc" include {{ stage: "relu" }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }}
"""
ROWS = """
layer {{ name: "{top}" type: "DummyData" top: "{top}" dummy_data_param {{
  shape {{ dim: 1 dim: 1 dim: 20 dim: {width} }} data_filler {{ type: "uniform" max: 2 }} }} }}
"""
EVALUATED = """
layer { name: "eval" type: "DetectionEvaluate" bottom: "det" bottom: "gt" top: "eval"
  detection_evaluate_param { num_classes: 2 background_label_id: 5 overlap_threshold: 0.1 } }
"""
INLINE = NET.format(name="inline", outputs=3)
BASE = 'base_lr: 0.5 lr_policy: "fixed" max_iter: 4 display: 1 random_seed: 1 solver_mode: CPU '
TEST = "test_iter: 1 test_interval: 2 "
DETECTOR = f'train_net: "net.prototxt" test_net: "detector.prototxt" {TEST}'


class Case(NamedTuple):
    """Two settings of one field, beside the same other fields; what is seen must differ."""

    one: str
    other: str
    beside: str = 'net: "net.prototxt"'


CASES = {
    "train_net": Case('train_net: "net.prototxt"', 'train_net: "other.prototxt"', ""),
    "test_net": Case("", 'test_net: "larger.prototxt"', f'net: "net.prototxt" {TEST}'),
    "test_iter": Case("test_iter: 1", "test_iter: 2", 'net: "net.prototxt" test_interval: 2'),
    "test_interval": Case(
        "test_interval: 2", "test_interval: 3", 'net: "net.prototxt" test_iter: 1'
    ),
    "base_lr": Case("base_lr: 0.5", "base_lr: 0.25"),
    "display": Case("display: 1", "display: 2"),
    "max_iter": Case("max_iter: 4", "max_iter: 3"),
    "lr_policy": Case('lr_policy: "fixed"', 'lr_policy: "exp"', 'net: "net.prototxt" gamma: 0.5'),
    "gamma": Case("gamma: 0.5", "gamma: 0.9", 'net: "net.prototxt" lr_policy: "exp"'),
    "power": Case("power: 1", "power: 2", 'net: "net.prototxt" lr_policy: "inv" gamma: 1'),
    "momentum": Case("", "momentum: 0.5"),
    "weight_decay": Case("", "weight_decay: 0.5"),
    "stepsize": Case(
        "stepsize: 1", "stepsize: 3", 'net: "net.prototxt" lr_policy: "step" gamma: 0.5'
    ),
    "stepvalue": Case(
        "stepvalue: 1", "stepvalue: 3", 'net: "net.prototxt" lr_policy: "multistep" gamma: 0.5'
    ),
    "snapshot": Case("", "snapshot: 3"),
    "snapshot_prefix": Case("", 'snapshot_prefix: "elsewhere/s"'),
    "snapshot_diff": Case("", "snapshot_diff: true"),
    "test_compute_loss": Case("", "test_compute_loss: true", f'net: "net.prototxt" {TEST}'),
    "random_seed": Case("random_seed: 1", "random_seed: 2"),
    "train_net_param": Case(
        f"train_net_param {{ {INLINE} }}",
        f"train_net_param {{ {NET.format(name='inline', outputs=4)} }}",
        "",
    ),
    "test_net_param": Case(
        "",
        f"test_net_param {{ {INLINE.replace('size: 4', 'size: 8')} }}",
        f'net: "net.prototxt" {TEST}',
    ),
    "debug_info": Case("", "debug_info: true"),
    "net": Case('net: "net.prototxt"', 'net: "other.prototxt"', ""),
    "net_param": Case(
        f"net_param {{ {INLINE} }}", f"net_param {{ {NET.format(name='x', outputs=4)} }}", ""
    ),
    "train_state": Case("", 'train_state { stage: "relu" }'),
    "test_state": Case("", 'test_state { stage: "relu" }', f'net: "net.prototxt" {TEST}'),
    "snapshot_after_train": Case("", "snapshot_after_train: false"),
    "regularization_type": Case(
        "", 'regularization_type: "L1"', 'net: "net.prototxt" weight_decay: 0.1'
    ),
    "solver_type": Case("", "solver_type: ADAM"),
    "delta": Case("", "delta: 0.5", 'net: "net.prototxt" type: "AdaGrad"'),
    "test_initialization": Case("", "test_initialization: false", f'net: "net.prototxt" {TEST}'),
    "average_loss": Case("", "average_loss: 3"),
    "clip_gradients": Case("", "clip_gradients: 0.01"),
    "iter_size": Case("", "iter_size: 2"),
    "snapshot_format": Case("", "snapshot_format: HDF5"),
    "rms_decay": Case("", "rms_decay: 0.5", 'net: "net.prototxt" type: "RMSProp"'),
    "momentum2": Case("", "momentum2: 0.5", 'net: "net.prototxt" type: "Adam"'),
    "type": Case("", 'type: "Nesterov"', 'net: "net.prototxt" momentum: 0.9'),
    "weights": Case("", 'weights: "start.caffemodel"'),
    "plateau_winsize": Case(
        "plateau_winsize: 1 plateau_winsize: 1",
        "plateau_winsize: 3",
        'net: "net.prototxt" lr_policy: "plateau" gamma: 0.1',
    ),
    "eval_type": Case("", 'eval_type: "detection"', DETECTOR),
    "ap_version": Case(
        'ap_version: "11point"', 'ap_version: "Integral"', f'{DETECTOR} eval_type: "detection"'
    ),
    "show_per_class_result": Case(
        "", "show_per_class_result: true", f'{DETECTOR} eval_type: "detection"'
    ),
}
WITHOUT_EFFECT = {
    "layer_wise_reduce": "when several GPUs exchange gradients; with one there is nothing to do",
}
DEVICE = ("solver_mode", "device_id")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_database(tmp_path / "db", [(1, 6, 6)] * 16)
    for name, outputs in (("net", 3), ("other", 4)):
        (tmp_path / f"{name}.prototxt").write_text(NET.format(name=name, outputs=outputs))
    rows = ROWS.format(top="det", width=7) + ROWS.format(top="gt", width=8)
    (tmp_path / "detector.prototxt").write_text(rows + EVALUATED)
    larger = NET.format(name="larger", outputs=3).replace("size: 4", "size: 8")
    (tmp_path / "larger.prototxt").write_text(larger)
    return tmp_path


def observe(folder: Path, text: str) -> tuple[list[str], dict[str, bytes]]:
    """What a run shows, without its speed, and the files it leaves."""
    before = set(folder.rglob("*"))
    (folder / "solver.prototxt").write_text(_without_doubles(text))
    seen: list[Event] = []
    Solver("solver.prototxt", show=seen.append).solve()
    shown = [
        str(dataclasses.replace(event, speed=None) if isinstance(event, Display) else event)
        for event in seen
    ]
    files = {}
    for path in sorted(set(folder.rglob("*")) - before):
        if path.is_file() and path.name != "solver.prototxt":
            files[str(path.relative_to(folder))] = path.read_bytes()
            path.unlink()
    return shown, files


def _without_doubles(text: str) -> str:
    """The settings after BASE win: fields that they name again are cut out of it."""
    base = BASE
    for field in (
        "base_lr: 0.5",
        'lr_policy: "fixed"',
        "max_iter: 4",
        "display: 1",
        "random_seed: 1",
    ):
        if f" {field.split(':')[0]}:" in f" {text}":
            base = base.replace(field, "")
    return base + text


def test_the_list_is_that_of_the_schema() -> None:
    known = pb.SolverParameter.DESCRIPTOR.fields
    fields = {field.name for field in known if not fork_of(field) or field.name in FORKS}
    listed = [*CASES, *WITHOUT_EFFECT, *DEVICE]
    assert len(listed) == len(set(listed))
    assert set(listed) == fields


@pytest.mark.parametrize("setting", ["min_lr: 0.1", "solver_type: SAG", "stageiter: 3"])
def test_a_setting_of_a_fork_is_refused(setting: str, folder: Path) -> None:
    (folder / "solver.prototxt").write_text(f'net: "net.prototxt" {BASE} {setting}')
    with pytest.raises(SolverError, match=r"solver.prototxt: .* is a setting of the fork"):
        Solver("solver.prototxt")


@pytest.mark.parametrize("field", CASES)
def test_a_field_is_honoured(field: str, folder: Path) -> None:
    case = CASES[field]
    save_caffemodel(load_net("net.prototxt"), "start.caffemodel")
    one, other = (observe(folder, f"{case.beside} {text}") for text in (case.one, case.other))
    assert one[1], "a run leaves files"
    assert one != other


@pytest.mark.parametrize("field", WITHOUT_EFFECT)
def test_what_is_listed_has_no_effect(field: str, folder: Path) -> None:
    one, other = (
        observe(folder, f'net: "net.prototxt" {field}: {value}') for value in ("true", "false")
    )
    assert one == other


def test_mode_and_device_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu, cpu = pb.SolverParameter.GPU, pb.SolverParameter.CPU
    assert solver_device(pb.SolverParameter(solver_mode=gpu)) == torch.device("cuda", 0)
    assert solver_device(pb.SolverParameter(device_id=1)) == torch.device("cuda", 1)
    assert solver_device(pb.SolverParameter(device_id=2)) == torch.device("cpu")
    assert solver_device(pb.SolverParameter(solver_mode=cpu)) == torch.device("cpu")


def test_a_state_may_change_the_phase(folder: Path) -> None:
    shown, _ = observe(folder, 'net: "net.prototxt" train_state { phase: TEST }')
    (folder / "solver.prototxt").write_text(
        BASE + 'net: "net.prototxt" train_state { phase: TEST }'
    )
    assert Solver("solver.prototxt").net.phase == "TEST"
    assert any(line.startswith(Start.__name__) for line in shown)
