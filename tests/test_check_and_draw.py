"""`summary`, `check`, `draw` and `layers` on small nets, and what errors about a net teach."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from field_rows import net_text, write_layers

from converters import load_net
from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.layers.fields import to_markdown

NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "absent" batch_size: 64 } }
layer { name: "data" type: "Input" top: "data" include { phase: TEST }
  input_param { shape { dim: 5 dim: 1 dim: 28 dim: 28 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 5 stride: 2 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" param { name: "shared" }
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "twin" type: "InnerProduct" bottom: "conv" top: "twin" param { name: "shared" }
  inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss"
  include { phase: TRAIN } }
layer { name: "mute" type: "Silence" bottom: "twin" }
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `python -m converters …`."""
    status = run_subcommand("converters", "", COMMANDS, list(map(str, arguments)))
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return path


# summary -----------------------------------------------------------------------------------------

CONV, FC = 4 * 25 + 4, 4 * 12 * 12 * 10


def test_summary_counts_parameters_and_multiply_adds(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "summary", net)
    assert status == 0
    # Shared weights count once, each layer's bias of its own twice, statistics never.
    parameters = CONV + FC + 10 + 10
    adds = 4 * 12 * 12 * 25 + 2 * FC
    assert f"small (TEST): 7 layers, {parameters:,} parameters, {5 * adds:,} multiply-adds" in out
    assert f"{adds:,} an item" in out
    conv = next(line for line in out.splitlines() if line.startswith("conv "))
    assert conv.split() == [
        *("conv", "Convolution", "5×4×12×12", "4×1×5×5", "4", str(CONV)),
        f"{5 * 4 * 12 * 12 * 25:,}",
    ]
    assert max(map(len, out.splitlines())) < 120


def test_summary_for_machines(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ("--phase", "TRAIN", "--input-shape", "data=2,1,28,28")
    status, out, _ = run(capsys, "summary", net, "--json", *shape)
    summary = json.loads(out)
    assert status == 0
    assert (summary["phase"], summary["parameters"]) == ("TRAIN", CONV + FC + 20)
    rows = {row["name"]: row for row in summary["rows"]}
    assert rows["data"]["top_shapes"] == [[2, 1, 28, 28], [2]]
    assert rows["bn"]["statistics"] == 4 + 4 + 1
    assert rows["bn"]["learnable_parameters"] == 0


def test_a_grouped_deconvolution_multiplies_within_its_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of 4·3·3 values meets a 2×2 kernel for the 3 outputs of its group."""
    settings = "convolution_param { num_output: 6 group: 2 kernel_size: 2 }"
    (tmp_path / "net.prototxt").write_text(net_text("Deconvolution", settings, ((5, 4, 3, 3),)))
    _, out, _ = run(capsys, "summary", tmp_path / "net.prototxt", "--json")
    assert json.loads(out)["multiply_adds"] == 5 * (4 * 3 * 3) * (2 * 2) * 3


# check -------------------------------------------------------------------------------------------


def test_check_tries_every_file_in_every_state(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = net.parent
    (folder / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 1 lr_policy: "fixed"')
    (folder / "below").mkdir()
    staged = NET.replace("include { phase: TEST }", 'include { phase: TEST stage: "seen" }')
    (folder / "below" / "staged.prototxt").write_text(staged)
    status, out, _ = run(capsys, "check", folder)
    assert status == 0, out
    image = "data (2, 3, 224, 224), label (2,)"
    assert out.splitlines() == [
        f"ok   below/staged.prototxt: TRAIN: 8 layers, {image} → loss ()",
        "ok   below/staged.prototxt: TEST with stage seen: 7 layers, "
        "data (5, 1, 28, 28) → fc (5, 10)",
        f"ok   net.prototxt: TRAIN: 8 layers, {image} → loss ()",
        "ok   net.prototxt: TEST: 7 layers, data (5, 1, 28, 28) → fc (5, 10)",
        "ok   solver.prototxt: solver, type SGD, net net.prototxt",
        "3 files, 0 failures",
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("num_output: 4", "num_outputs: 4", r"no field named .num_outputs.* mean num_output"),
        ("num_output: 4", "num_output: 0", r"conv.*num_output 0 must be positive"),
        ('"Silence"', '"Silent"', r'"mute": unknown layer type "Silent"; did you mean Silence'),
        (
            '"msra"',
            '"zeros"',
            r'net\.prototxt: layer "conv": unknown filler type "zeros"; known: .*msra',
        ),
        ("kernel_size: 5", "kernel_size: 5 ceil_mode: false", "round_mode: FLOOR"),
        # With the outputs of one class alone the softmax has no say.
        ('type: "xavier"', 'type: "constant" value: inf', "is not finite"),
    ],
)
def test_check_says_why_not(
    net: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    net.write_text(NET.replace(old, new))
    status, out, _ = run(capsys, "check", net.parent)
    failures = [line for line in out.splitlines() if line.startswith("FAIL net.prototxt")]
    assert status == 1
    assert failures
    assert re.search(says, failures[0]), failures[0]


def test_check_without_any_file_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", tmp_path)[0] == 1
    status, _, error = run(capsys, "check", tmp_path / "none")
    assert (status, error) == (1, f"error: {tmp_path / 'none'}: is no folder\n")


def test_a_python_layer_that_reads_data_needs_no_code_where_its_tops_are_given(
    tmp_path: Path,
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "d" type: "Python" top: "x" top: "t" '
        'python_param { module: "nowhere" layer: "None" } }'
        'layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "l" }'
    )
    shapes = {"x": (2, 3), "t": (2, 3)}
    net = load_net(path, "TRAIN", input_shapes=shapes)
    assert net.inputs == ["x", "t"]
    loss, _ = net.loss({"x": torch.ones(2, 3), "t": torch.zeros(2, 3)})
    assert float(loss) == 1.5


# draw, layers ------------------------------------------------------------------------------------


def test_draw_shows_every_layer_and_blob(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = net.with_suffix(".svg")
    status, out, _ = run(capsys, "draw", net, picture)
    assert (status, out) == (0, f"{picture}: 7 layers\n")
    root = ElementTree.parse(picture).getroot()
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert texts == [
        "small (TEST)",
        *("data: Input", "data 5×1×28×28"),
        *("conv: Convolution 5, 4", "bn: BatchNorm", "relu: ReLU", "conv 5×4×12×12"),
        *("fc: InnerProduct", "fc 5×10"),
        *("twin: InnerProduct", "twin 5×10", "mute: Silence"),
    ]
    edges = [path for path in root.iter(f"{space}path") if "marker-end" in path.attrib]
    assert len(edges) == 4
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.iter(f"{space}rect"):
        if "x" in box.attrib:
            assert float(box.attrib["x"]) + float(box.attrib["width"]) <= width
            assert float(box.attrib["y"]) + float(box.attrib["height"]) <= height


def test_layers_prints_or_writes_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "layers")[:2] == (0, to_markdown())
    assert run(capsys, "layers", tmp_path / "layers.md")[0] == 0
    assert (tmp_path / "layers.md").read_text(encoding="utf-8") == to_markdown()


@pytest.mark.parametrize("command", [("summary",), ("draw", "out.svg")])
def test_python_layers_are_run_for_those_who_allow_it(
    tmp_path: Path,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_layers(tmp_path)
    settings = 'python_param { module: "fields_layers" layer: "Times" }'
    Path("net.prototxt").write_text(net_text("Python", settings, ((2, 3),)))
    name, *out = command
    status, _, error = run(capsys, name, "net.prototxt", *out)
    assert status == 1
    assert "allow it with --allow-python-layers" in error
    assert run(capsys, name, "net.prototxt", *out, "--allow-python-layers")[0] == 0
