"""`summary`, `check`, `draw` and `layers` on small nets, and what errors about a net teach."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from field_rows import net_text, write_layers

from converters import load_net
from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.layers.fields import to_markdown
from converters.records.datum import encode_datum
from converters.records.lmdb_writer import create_lmdb

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
        "3 files, 4 states, 0 failures",
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


DATA = 'layer { name: "d" type: "Data" top: "data" data_param { source: "db" batch_size: 9 } %s }'
RELU = 'layer { name: "r" type: "ReLU" bottom: "data" top: "y" %s }'
CROP = DATA % "transform_param { crop_size: 24 }"
FLAT = """layer { name: "f" type: "Reshape" bottom: "data" top: "f"
  reshape_param { shape { dim: 0 dim: 784 } } }"""
INFINITE = """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 1 weight_filler { type: "constant" value: inf } } }"""


@pytest.mark.parametrize(
    ("text", "options", "lines"),
    [
        (CROP + RELU % "", (), ["TEST: 2 layers, data (2, 3, 24, 24) → y (2, 3, 24, 24)"]),
        (DATA % "" + FLAT, (), ["TEST: 2 layers, data (2, 1, 28, 28) → f (2, 784)"]),
        (
            CROP + RELU % "",
            ("--input-shape", "data=5,2,6,7"),
            ["TEST: 2 layers, data (5, 2, 6, 7) → y (5, 2, 6, 7)"],
        ),
        (
            CROP + RELU % "exclude { phase: TEST }",
            (),
            [
                "TRAIN: 2 layers, data (2, 3, 24, 24) → y (2, 3, 24, 24)",
                "TEST: 1 layers, data (2, 3, 24, 24) → data (2, 3, 24, 24)",
            ],
        ),
        (
            CROP + RELU % 'include { stage: "extra" }',
            (),
            [
                "TEST: 1 layers, data (2, 3, 24, 24) → data (2, 3, 24, 24)",
                "TEST with stage extra: 2 layers, data (2, 3, 24, 24) → y (2, 3, 24, 24)",
            ],
        ),
        (
            CROP + INFINITE,
            ("--shapes-only",),
            ["TEST: 2 layers, data (2, 3, 24, 24) → ip (2, 1)"],
        ),
        (
            'train_net: "a" test_net: "b" test_net: "c" type: "Adam" base_lr: 1',
            (),
            ["solver, type Adam, net a, b, c"],
        ),
    ],
)
def test_check_of_data_that_is_absent(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    options: tuple[str, ...],
    lines: list[str],
) -> None:
    """Also in a file called `.pt`, as some of Caffe's examples are."""
    (tmp_path / "old.pt").write_text(text)
    status, out, _ = run(capsys, "check", tmp_path, *options)
    states = sum(not line.startswith("solver") for line in lines)
    told = [f"ok   old.pt: {line}" for line in lines]
    assert out.splitlines() == [*told, f"1 files, {states} states, 0 failures"]
    assert status == 0


def test_check_cuts_the_batches_of_data_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with create_lmdb(tmp_path / "db") as writer:
        writer.put(b"0", encode_datum(np.zeros((1, 6, 5), np.uint8), 0))
    (tmp_path / "net.prototxt").write_text(DATA % "" + RELU % "")
    _, out, _ = run(capsys, "check", tmp_path)
    assert "ok   net.prototxt: TEST: 2 layers, data (2, 1, 6, 5) → y (2, 1, 6, 5)\n" in out


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


SKIP = """
layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 4 dim: 9 dim: 9 } } }
layer { name: "a" type: "Convolution" bottom: "d" top: "a"
  convolution_param { num_output: 4 kernel_h: 3 kernel_w: 5 pad_h: 1 pad_w: 2 group: 2 } }
layer { name: "b" type: "ReLU" bottom: "a" top: "a" }
layer { name: "c" type: "Sigmoid" bottom: "a" top: "c" }
layer { name: "<&>" type: "Dropout" bottom: "c" top: "c" }
layer { name: "sum" type: "Eltwise" bottom: "c" bottom: "d" bottom: "a" top: "sum" }
"""


def parts(folder: Path, capsys: pytest.CaptureFixture[str], tag: str) -> list[dict[str, str]]:
    """The attributes of the picture's elements `tag`, with their text; the page's own are not."""
    (folder / "net.prototxt").write_text(SKIP)
    assert run(capsys, "draw", folder / "net.prototxt", folder / "x.svg")[0] == 0
    root = ElementTree.parse(folder / "x.svg").getroot()
    return [
        {**part.attrib, "text": str(part.text)}
        for part in list(root)[3:]
        if part.tag.rsplit("}")[-1] == tag
    ]


def test_draw_shows_kernels_groups_names_and_families(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [text["text"] for text in parts(tmp_path, capsys, "text")]
    convolution = "a: Convolution 3×5, 4, g=2"
    assert shown == [
        *("d: Input", "d 1×4×9×9", convolution, "b: ReLU", "a 1×4×9×9"),
        *("c: Sigmoid", "<&>: Dropout", "c 1×4×9×9", "sum: Eltwise", "sum 1×4×9×9"),
    ]
    fills = [fill for r in parts(tmp_path, capsys, "rect") if (fill := r["fill"]) != "none"]
    colours = dict(zip(shown, fills, strict=True))
    # Data, convolution, activation and joining; white for tops.
    families = ("d: Input", convolution, "b: ReLU", "sum: Eltwise", "d 1×4×9×9")
    assert len({colours[line] for line in families}) == len(families)
    assert colours["b: ReLU"] == colours["c: Sigmoid"]
    assert {colours[line] for line in shown if "1×4×9×9" in line} == {"#ffffff"}


def test_draws_edges_go_from_bottom_to_top_around_what_they_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outlines = [rect for rect in parts(tmp_path, capsys, "rect") if rect["fill"] == "none"]
    sizes = ("x", "y", "width", "height")
    boxes = {
        name: (x, y, x + width, y + height)
        for name, outline in zip(("d", "a", "c", "sum"), outlines, strict=True)
        for x, y, width, height in [[float(outline[size]) for size in sizes]]
    }
    tops = {((x1 + x2) / 2, y1): name for name, (x1, y1, x2, _) in boxes.items()}
    bottoms = {((x1 + x2) / 2, y2): name for name, (x1, _, x2, y2) in boxes.items()}

    def at(ends: dict[tuple[float, float], str], x: float, y: float) -> str:
        # Pixels are whole.
        (name,) = (n for end, n in ends.items() if abs(end[0] - x) <= 1 and abs(end[1] - y) <= 1)
        return name

    edges = set()
    for path in parts(tmp_path, capsys, "path"):
        numbers = [float(number) for number in re.findall(r"[\d.]+", path["d"])]
        edges.add((at(bottoms, *numbers[:2]), at(tops, *numbers[-2:])))
        for left, top, right, bottom in boxes.values():
            if numbers[1] + 1 < top and bottom < numbers[-1] - 1:
                # Between the two: passed by the vertical line at x from y1 to y2.
                x, y1, y2 = numbers[6:9]
                assert y1 <= top + 1 < bottom - 1 <= y2
                assert not left < x < right
    assert edges == {("d", "a"), ("a", "c"), ("c", "sum"), ("d", "sum"), ("a", "sum")}


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
