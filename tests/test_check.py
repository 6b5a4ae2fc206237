"""`check` on nets that it meets for the first time: states, guesses, limits, and what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from field_rows import net_text

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.formats.blob import encode_blob
from gmnet_pt.solver import lr_policy, updates

ROOT = Path(__file__).parents[1]


def check(
    capsys: pytest.CaptureFixture[str], folder: Path, *options: str
) -> tuple[int, list[str], str]:
    """Exit status, the lines before the last, and the last one."""
    status = run_subcommand("converters", "", COMMANDS, ["check", str(folder), *options])
    *lines, last = capsys.readouterr().out.splitlines()
    return status, lines, last


def source(kind: str, tops: str = "data label", settings: str = "", rule: str = "") -> str:
    """A data layer whose files are absent."""
    param = {
        "ImageData": "image_data_param",
        "WindowData": "window_data_param",
        "AnnotatedData": "data_param",
    }.get(kind, f"{kind.replace('Data', '').lower()}_data_param".removeprefix("_"))
    named = " ".join(f'top: "{top}"' for top in tops.split())
    own, _, transform = settings.partition("|")
    return (
        f'layer {{ name: "{kind}" type: "{kind}" {named} {rule} '
        f'{param} {{ source: "absent" batch_size: 9 {own} }} '
        f"{f'transform_param {{ {transform} }}' if transform else ''} }}\n"
    )


CONV = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }
"""
FC = """layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 6 weight_filler { type: "constant" value: 1e-4 } } }
"""


def loss(kind: str, bottom: str = "fc", label: str = "label", settings: str = "") -> str:
    return (
        f'layer {{ name: "loss {label}" type: "{kind}" bottom: "{bottom}" bottom: "{label}" '
        f'top: "loss {label}" {settings} }}\n'
    )


# States ------------------------------------------------------------------------------------------

STAGED = """
layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "a" type: "ReLU" bottom: "d" top: "a" include { stage: "first" } }
layer { name: "b" type: "TanH" bottom: "a" top: "b" include { stage: "second" } }
layer { name: "c" type: "TanH" bottom: "b" top: "c" include { stage: "second" stage: "first" } }
layer { name: "e" type: "TanH" bottom: "d" top: "e" exclude { stage: "first" } }
"""


def test_stages_that_need_each_other_are_one_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.prototxt").write_text(STAGED)
    status, lines, last = check(capsys, tmp_path, "--shapes-only")
    assert lines == [
        "ok   net.prototxt: TEST: 2 layers, d (1, 3) → e (1, 3)",
        "ok   net.prototxt: TEST with stage first: 2 layers, d (1, 3) → a (1, 3)",
        "ok   net.prototxt: TEST with stages first and second: 4 layers, d (1, 3) → c (1, 3)",
    ]
    assert (status, last) == (0, "1 files, 3 states, 0 failures")


@pytest.mark.parametrize(
    "options", [("--stage", "second,first"), ("--stage=second", "--stage=first")]
)
def test_the_stages_that_are_asked_for_are_the_only_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    (tmp_path / "net.prototxt").write_text(STAGED)
    _, lines, last = check(capsys, tmp_path, "--shapes-only", *options)
    assert lines == [
        "ok   net.prototxt: TEST with stages second and first: 4 layers, d (1, 3) → c (1, 3)"
    ]
    assert last == "1 files, 1 states, 0 failures"


def test_a_stage_of_no_phase_is_tried_in_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        source("Data", rule='include { stage: "train" }')
        + 'layer { name: "in" type: "Input" top: "data" include { stage: "deploy" }'
        + " input_param { shape { dim: 1 dim: 5 } } }\n"
        + FC
        + loss("SoftmaxWithLoss", settings='exclude { stage: "deploy" }')
    )
    (tmp_path / "net.prototxt").write_text(text)
    status, lines, last = check(capsys, tmp_path, "--shapes-only")
    assert [line.split(":")[1] for line in lines] == [
        " skipped",
        " skipped",
        " TRAIN with stage train",
        " TRAIN with stage deploy",
        " TEST with stage train",
        " TEST with stage deploy",
    ]
    assert (status, last) == (0, "1 files, 6 states, 0 failures, 2 skipped")


def test_a_phase_without_data_is_skipped_but_a_part_of_a_net_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = source("Data", rule="include { phase: TRAIN }") + FC + loss("SoftmaxWithLoss")
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "part.prototxt").write_text(FC)
    status, lines, last = check(capsys, tmp_path, "--shapes-only")
    assert lines[1] == "skip net.prototxt: skipped: no data layer in TEST"
    assert 'unknown bottom blob "data"' in lines[2]
    assert lines[2].endswith("no layer of the file brings data: is it part of a net?")
    assert (status, last) == (1, "2 files, 3 states, 1 failures, 1 skipped")


# Guesses -----------------------------------------------------------------------------------------

SLICED = """layer { name: "s" type: "Slice" bottom: "label" top: "l1" top: "l2"
  slice_param { axis: 1 slice_point: 1 } }
"""
POOLED_REGIONS = """layer { name: "p" type: "ROIPooling" bottom: "data" bottom: "rois" top: "p"
  roi_pooling_param { pooled_h: 2 pooled_w: 3 } }
layer { name: "fc" type: "InnerProduct" bottom: "p" top: "fc"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
"""
DETECTOR = """layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 8 kernel_size: 9 stride: 9 weight_filler { type: "xavier" } } }
layer { name: "l" type: "Convolution" bottom: "c" top: "l"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "s" type: "Convolution" bottom: "c" top: "s"
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "lp" type: "Permute" bottom: "l" top: "lp"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "sp" type: "Permute" bottom: "s" top: "sp"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "lf" type: "Flatten" bottom: "lp" top: "lf" }
layer { name: "sf" type: "Flatten" bottom: "sp" top: "sf" }
layer { name: "p" type: "PriorBox" bottom: "c" bottom: "data" top: "p"
  prior_box_param { min_size: 9 } }
layer { name: "m" type: "MultiBoxLoss" bottom: "lf" bottom: "sf" bottom: "p" bottom: "label"
  top: "m" multibox_loss_param { num_classes: 3 } }
"""
SEQUENCES = """
layer { name: "e" type: "Embed" bottom: "words" top: "e" 
  embed_param { num_output: 4 input_dim: 9 } }
layer { name: "lstm" type: "LSTM" bottom: "e" bottom: "cont" top: "h"
  recurrent_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "fc" type: "InnerProduct" bottom: "h" top: "fc"
  inner_product_param { num_output: 9 axis: 2 weight_filler { type: "xavier" } } }
"""
WHOLE_DETECTOR = """
layer { name: "d" type: "AnnotatedData" top: "data" top: "label"
  data_param { source: "absent" batch_size: 9 }
  transform_param { resize_param { height: 30 width: 40 } } }
layer { name: "loc" type: "Convolution" bottom: "data" top: "loc" convolution_param {
  num_output: 4 kernel_size: 5 stride: 5 weight_filler { type: "xavier" } } }
layer { name: "conf" type: "Convolution" bottom: "data" top: "conf" convolution_param {
  num_output: 2 kernel_size: 5 stride: 5 weight_filler { type: "xavier" } } }
layer { name: "p" type: "PriorBox" bottom: "loc" bottom: "data" top: "p"
  prior_box_param { min_size: 9 variance: 0.1 } }
layer { name: "pl" type: "Permute" bottom: "loc" top: "pl"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "fl" type: "Flatten" bottom: "pl" top: "fl" }
layer { name: "pc" type: "Permute" bottom: "conf" top: "pc"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "fc" type: "Flatten" bottom: "pc" top: "fc" }
layer { name: "loss" type: "MultiBoxLoss" bottom: "fl" bottom: "fc" bottom: "p" bottom: "label"
  top: "loss" include { phase: TRAIN } multibox_loss_param { num_classes: 2
  code_type: CENTER_SIZE mining_type: MAX_NEGATIVE } }
layer { name: "out" type: "DetectionOutput" bottom: "fl" bottom: "fc" bottom: "p" top: "out"
  include { phase: TEST } detection_output_param { num_classes: 2 code_type: CENTER_SIZE
  keep_top_k: 5 nms_param { top_k: 5 } } }
layer { name: "eval" type: "DetectionEvaluate" bottom: "out" bottom: "label" top: "eval"
  include { phase: TEST } detection_evaluate_param { num_classes: 2 } }
"""
GUESSES = {
    "new_height": (
        source("ImageData", settings="new_height: 40 new_width: 30") + CONV,
        "3, 40, 30",
    ),
    "gray": (
        source("ImageData", settings="new_height: 40 new_width: 30 is_color: false") + CONV,
        "1, 40, 30",
    ),
    "crop": (
        source("ImageData", settings="new_height: 40 new_width: 30 is_color: false|crop_size: 21")
        + CONV,
        "1, 21, 21",
    ),
    "window": (source("WindowData", settings="|crop_size: 19") + CONV, "3, 19, 19"),
    "force_gray": (source("Data", settings="|force_gray: true crop_size: 9") + CONV, "1, 9, 9"),
    "means": (
        source("Data", settings="|mean_value: 1 mean_value: 2 crop_size: 9") + CONV,
        "2, 9, 9",
    ),
    "mean_file": (source("Data", settings='|mean_file: "mean.binaryproto"') + CONV, "4, 12, 10"),
    "hdf5_classes": (source("HDF5Data") + FC + loss("SoftmaxWithLoss"), "label (2,)"),
    "hdf5_many": (source("HDF5Data") + FC + loss("SigmoidCrossEntropyLoss"), "label (2, 6)"),
    "hdf5_values": (
        source("HDF5Data") + CONV + loss("EuclideanLoss", "conv"),
        "label (2, 4, 111, 111)",
    ),
    "hdf5_places": (
        source("HDF5Data") + CONV + loss("SoftmaxWithLoss", "conv"),
        "label (2, 1, 111, 111)",
    ),
    "hdf5_label_first": (
        source("HDF5Data", "label data") + FC + loss("EuclideanLoss"),
        "label (2, 6), data (2, 3, 224, 224)",
    ),
    "sliced": (
        source("HDF5Data")
        + SLICED
        + FC
        + loss("SoftmaxWithLoss", label="l1")
        + loss("SoftmaxWithLoss", label="l2"),
        "label (2, 2)",
    ),
    "labels_of_their_own": (
        source("Data", "data")
        + source("Data", "label").replace('name: "Data"', 'name: "labels"')
        + CONV
        + loss("SoftmaxWithLoss", "conv"),
        "label (2, 1, 111, 111)",
    ),
    "labels_of_python": (
        'layer { name: "d" type: "Python" top: "data" top: "label" '
        'python_param { module: "absent" layer: "Absent" } }' + FC + loss("EuclideanLoss"),
        "label (2, 6)",
    ),
    "regions": (
        source("HDF5Data", "data rois label targets weights")
        + POOLED_REGIONS
        + loss("SoftmaxWithLoss")
        + 'layer { name: "o" type: "SmoothL1LossOHEM" bottom: "fc" bottom: "targets" '
        'bottom: "weights" top: "o" }',
        "rois (2, 5), label (2,), targets (2, 6), weights (2, 6)",
    ),
    "hard_regions": (
        source("HDF5Data", "data rois label weights")
        + POOLED_REGIONS
        + 'layer { name: "o" type: "BoxAnnotatorOHEM" bottom: "rois" bottom: "label" '
        'bottom: "label" bottom: "weights" top: "l" top: "w" '
        "box_annotator_ohem_param { roi_per_img: 1 } }",
        "rois (2, 5), label (2,), weights (2,)",
    ),
    "boxes": (
        source("AnnotatedData", settings="|resize_param { height: 21 width: 18 }") + DETECTOR,
        "data (2, 3, 21, 18), label (1, 1, 2, 8)",
    ),
    "detector": (WHOLE_DETECTOR, "data (2, 3, 30, 40), label (1, 1, 2, 8)"),
    "sequences": (
        source("HDF5Data", "cont words label")
        + SEQUENCES
        + loss("SoftmaxWithLoss", settings="softmax_param { axis: 2 }"),
        "cont (2, 1), words (2, 1), label (2, 1)",
    ),
}


@pytest.fixture(scope="module")
def guessed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The lines of `check` on each of GUESSES, from one run over all of them."""
    folder = tmp_path_factory.mktemp("guesses")
    mean = np.zeros((4, 12, 10), np.float32)
    (folder / "mean.binaryproto").write_bytes(b"".join(encode_blob(mean)))
    for name, (text, _) in GUESSES.items():
        (folder / f"{name}.prototxt").write_text(text)
    out: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("converters.commands.check.show", out.append)
        run_subcommand("converters", "", COMMANDS, ["check", str(folder)])
    return {name: [line for line in out if f" {name}.prototxt:" in line] for name in GUESSES}


@pytest.mark.parametrize("name", GUESSES)
def test_a_guess_follows_the_file_and_its_losses(guessed: dict[str, list[str]], name: str) -> None:
    assert guessed[name]
    for line in guessed[name]:
        assert line.startswith("ok   "), line
        assert GUESSES[name][1] in line


def test_a_shape_error_after_a_guess_names_it_and_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reshape = """layer { name: "r" type: "Reshape" bottom: "data" top: "r"
      reshape_param { shape { dim: 0 dim: 70 } } }"""
    (tmp_path / "net.prototxt").write_text(source("Data", "data") + reshape)
    _, (line,), _ = check(capsys, tmp_path)
    assert line.startswith("FAIL")
    assert 'layer "r" (Reshape): ' in line
    assert "guessed, for want of the data: data (2, 3, 224, 224)" in line
    assert line.endswith("--input-shape data=2,3,224,224")
    _, (line,), _ = check(capsys, tmp_path, "--input-shape", "data=2,7,5,2")
    assert line == "ok   net.prototxt: TEST: 2 layers, data (2, 7, 5, 2) → r (2, 70)"
    _, (line,), _ = check(capsys, tmp_path, "--input-shape", "data=2,7,5,3")
    assert "guessed" not in line


def test_python_layers_are_skipped_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer within the net too: what it gives is guessed for the layers that read it."""
    python = """layer { name: "t" type: "Python" bottom: "label" bottom: "fc" top: "targets"
      propagate_down: false propagate_down: true python_param { module: "absent" layer: "A" } }"""
    text = source("HDF5Data") + FC + python + loss("EuclideanLoss", label="targets")
    (tmp_path / "net.prototxt").write_text(text)
    status, lines, _ = check(capsys, tmp_path)
    assert status == 1 and "would run Python code, absent.A" in lines[0]
    status, lines, _ = check(capsys, tmp_path, "--skip-python-layers", "--allow-python-layers")
    assert status == 0
    for line in lines:
        assert "targets (2, 6) → " in line


# Limits ------------------------------------------------------------------------------------------


def wide(layers: int, size: str) -> str:
    """A net of blobs of 64 channels, all of which are outputs."""
    shape = f"input_param {{ shape {{ dim: 1 dim: 64 {size} }} }}"
    return f'layer {{ name: "d" type: "Input" top: "b" {shape} }}' + "".join(
        f'layer {{ name: "{i}" type: "TanH" bottom: "b" top: "b{i}" }}\n' for i in range(layers)
    )


def test_one_gibibyte_is_a_limit_and_the_next_file_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.prototxt").write_text(wide(6, "dim: 900 dim: 900"))
    (tmp_path / "b.prototxt").write_text(net_text("ReLU", "", ((2, 3),)))
    status, lines, last = check(capsys, tmp_path, "--memory", "1")
    assert lines[0].startswith("FAIL a.prototxt: TEST: ")
    assert "too little memory" in lines[0]
    assert lines[1].startswith("ok   b.prototxt")
    assert (status, last) == (1, "2 files, 2 states, 1 failures")


def test_a_guess_that_needs_too_much_is_made_smaller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fc = FC.replace("num_output: 6", "num_output: 3000").replace("data", "b0")
    (tmp_path / "net.prototxt").write_text(source("Data", "b0") + fc)
    _, (line,), _ = check(capsys, tmp_path, "--memory", "1")
    assert line.startswith("ok   net.prototxt: TEST: 2 layers, b0 (2, 3, 32, 32) → fc (2, 3000)")
    fc = fc.replace("3000", "900000")
    (tmp_path / "net.prototxt").write_text(source("Data", "b0") + fc)
    _, (line,), _ = check(capsys, tmp_path, "--memory", "1")
    assert "the net needs about " in line
    assert line.endswith("give smaller shapes with --input-shape")


LAYERS = """
import os, signal, time
import caffe

class Base(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        self.act()

class Killed(Base):
    def act(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Endless(Base):
    def act(self):
        time.sleep(1000)
"""


def acting(name: str) -> str:
    """A net whose only layer is one of LAYERS."""
    return net_text("Python", f'python_param {{ module: "deadly" layer: "{name}" }}', ((2, 3),))


def test_a_net_that_dies_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its other states are tried as well, in another child."""
    (tmp_path / "deadly.py").write_text(LAYERS)
    silent = 'layer { name: "r" type: "Silence" bottom: "t0" include { stage: "s" } }'
    (tmp_path / "Killed.prototxt").write_text(acting("Killed") + silent)
    (tmp_path / "Later.prototxt").write_text(net_text("ReLU", "", ((2, 3),)))
    status, lines, last = check(capsys, tmp_path, "--allow-python-layers")
    died = "ended its process by SIGKILL; too little memory, probably"
    assert lines[0] == f"FAIL Killed.prototxt: TEST: {died}"
    assert lines[1] == f"FAIL Killed.prototxt: TEST with stage s: {died}"
    assert lines[2].startswith("ok   Later.prototxt: TEST: ")
    assert (status, last) == (1, "2 files, 3 states, 2 failures")


def test_a_net_that_never_ends_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deadly.py").write_text(LAYERS)
    (tmp_path / "net.prototxt").write_text(acting("Endless"))
    _, lines, _ = check(capsys, tmp_path, "--allow-python-layers", "--seconds", "2")
    assert lines == ["FAIL net.prototxt: TEST: took longer than 2 s and was ended"]


def test_ctrl_c_leaves_no_child(tmp_path: Path) -> None:
    noting = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep"
    (tmp_path / "deadly.py").write_text(LAYERS.replace("time.sleep", noting))
    (tmp_path / "net.prototxt").write_text(acting("Endless"))
    command = [sys.executable, "-m", "converters", "check", ".", "--allow-python-layers"]
    parent = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    told = tmp_path / "pid"
    deadline = time.monotonic() + 200
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    child = int(told.read_text())
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=120)
    assert (parent.returncode, errors.splitlines()[-1]) == (130, "interrupted")
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


# Lines -------------------------------------------------------------------------------------------


def test_one_file_can_be_checked_and_what_it_warns_of_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text('net: "${DATA}/net.prototxt"\nbase_lr: 1\nsnapshot_log: true\n')
    status, lines, last = check(capsys, path)
    assert lines == [
        f"note {path}: line 1: `${{DATA}}` looks like an unfilled place of a template",
        f"note {path}: snapshot_log, of Texas Instruments' fork, has no effect here: it only "
        "writes more files",
        f"ok   {path}: solver, type SGD, net ${{DATA}}/net.prototxt",
    ]
    assert (status, last) == (0, "1 files, 0 states, 0 failures")


@pytest.mark.parametrize(
    ("field", "names"), [("type", updates._RULES), ("lr_policy", lr_policy._POLICIES)]
)
def test_a_solver_of_no_known_rule_or_policy_fails(
    field: str, names: Mapping[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "solver.prototxt"
    for name in names:
        path.write_text(f'base_lr: 1 {field}: "{name}"')
        status, lines, _ = check(capsys, path)
        assert (status, lines[0][:4]) == (0, "ok  ")
    path.write_text(f'base_lr: 1 {field}: "cosine"')
    status, lines, _ = check(capsys, path)
    told = f'FAIL {path}: {field} "cosine" is unknown (one of: {", ".join(names)})'
    assert (status, lines) == (1, [told])


def test_the_help_tells_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_subcommand("converters", "", COMMANDS, ["check", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "default: 0.9 of what is free" in out
    assert "default: 300" in out
