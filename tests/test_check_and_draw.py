"""`summary`, `check`, `draw` and `layers` on small nets, and what errors about a net teach."""

from __future__ import annotations

import csv
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
from converters.net.choice import NetChoice
from converters.net.draw import draw_net
from converters.net.draw_pages import write_page
from converters.net.plan import plan_net
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
        *(f"{5 * 4 * 12 * 12 * 25:,}", "11.2KiB", f"{4 * CONV}B"),
    ]
    # The tops of the data, conv and both products; BatchNorm and ReLU work in place. The weights of
    # both products are one blob, and statistics count.
    activations = 4 * 5 * (28 * 28 + 4 * 12 * 12 + 2 * 10) / 1024
    weights = 4 * (CONV + 9 + FC + 20) / 1024
    assert out.endswith(
        f"\nmemory at batch 5: activations {activations:.1f}KiB, weights {weights:.1f}KiB\n"
    )
    assert max(map(len, out.splitlines())) < 120


def test_summary_sorts_its_rows(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def layers(key: str) -> list[str]:
        _, out, _ = run(capsys, "summary", net, "--sort", key)
        return [line.split()[0] for line in out.split("\n\n")[0].splitlines()[2:]]

    assert layers("name") == ["bn", "conv", "data", "fc", "mute", "relu", "twin"]
    assert layers("type")[:2] == ["bn", "conv"]
    for key in ("parameters", "multiply-adds", "weights"):
        assert layers(key)[:3] == (
            ["conv", "fc", "twin"] if key == "multiply-adds" else ["fc", "twin", "conv"]
        )
    assert layers("activations")[:2] == ["data", "conv"]
    assert layers("memory")[:3] == ["fc", "twin", "data"]


def test_summary_as_csv(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "summary", net, "--csv", "--sort", "weights")
    rows = list(csv.DictReader(out.splitlines()))
    assert status == 0
    assert len(rows) == 7
    assert rows[0] == {
        "net": "small",
        "phase": "TEST",
        "layer": "fc",
        "type": "InnerProduct",
        "top_shapes": "5×10",
        "blob_shapes": f"10×{FC // 10} 10",
        "parameters": str(FC + 10),
        "statistics": "0",
        "multiply_adds": str(5 * FC),
        "activation_bytes": str(4 * 50),
        "weight_bytes": str(4 * (FC + 10)),
    }
    assert {row["layer"]: row["statistics"] for row in rows}["bn"] == "9"


def test_summary_of_a_solver_is_that_of_its_nets(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = net.with_name("solver.prototxt")
    solver.write_text('net: "net.prototxt" base_lr: 1 test_iter: 1 test_interval: 1')
    shape = ("--input-shape", "data=2,1,28,28")
    status, out, error = run(capsys, "summary", solver, *shape)
    assert (status, error) == (0, "")
    train, test = out.split("\n\nlayer ")
    assert "small (TRAIN): 8 layers" in train
    assert "memory at batch 2: " in train
    assert "small (TEST): 7 layers" in test
    _, out, _ = run(capsys, "summary", solver, *shape, "--json", "--phase", "TEST")
    (summary,) = json.loads(out)
    assert (summary["phase"], summary["batch"]) == ("TEST", 2)
    assert run(capsys, "summary", solver, "--stage", "x")[0] == 1
    solver.write_text("base_lr: 1")
    status, _, error = run(capsys, "summary", solver)
    assert status == 1
    assert "solver.prototxt: names no net; give one of train_net_param, " in error


def test_views_take_no_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = "input_param { shape { dim: 2 dim: 6 } }"
    (tmp_path / "net.prototxt").write_text(
        f"""layer {{ name: "d" type: "Input" top: "d" {shape} }}
        layer {{ name: "flat" type: "Reshape" bottom: "d" top: "flat"
          reshape_param {{ shape {{ dim: 12 }} }} }}
        layer {{ name: "split" type: "Split" bottom: "d" top: "a" top: "b" }}
        layer {{ name: "slice" type: "Slice" bottom: "a" top: "x" top: "y" }}
        layer {{ name: "cat" type: "Concat" bottom: "a" bottom: "b" top: "cat" }}
        layer {{ name: "tile" type: "Tile" bottom: "b" top: "tile" tile_param {{ tiles: 3 }} }}"""
    )
    _, out, _ = run(capsys, "summary", tmp_path / "net.prototxt", "--json")
    sizes = {row["name"]: row["activation_bytes"] for row in json.loads(out)["rows"]}
    assert sizes == {"d": 48, "flat": 0, "split": 0, "slice": 0, "cat": 96, "tile": 144}


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
        *("fc: InnerProduct 10", "fc 5×10"),
        *("twin: InnerProduct 10", "twin 5×10", "mute: Silence"),
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


POOLS = """
layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 4 dim: 9 dim: 9 } } }
layer { name: "a" type: "Pooling" bottom: "d" top: "a" pooling_param { kernel_size: 3 } }
layer { name: "b" type: "Pooling" bottom: "d" top: "b"
  pooling_param { pool: AVE kernel_h: 3 kernel_w: 5 stride: 2 } }
layer { name: "c$" type: "Pooling" bottom: "d" top: "c"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "\\033[1m" type: "SPP" bottom: "d" top: "e" spp_param { pyramid_height: 2 } }
"""


@pytest.mark.parametrize(
    ("suffix", "begins"),
    [(".svg", b"<svg"), (".PNG", b"\x89PNG"), (".pdf", b"%PDF"), (".dot", b"digraph")],
)
def test_the_suffix_decides_how_a_net_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, begins: bytes
) -> None:
    (tmp_path / "net.prototxt").write_text(POOLS)
    out = tmp_path / f"x{suffix}"
    assert run(capsys, "draw", tmp_path / "net.prototxt", out) == (0, f"{out}: 5 layers\n", "")
    assert out.read_bytes().startswith(begins)
    if begins.isalpha() or suffix == ".svg":
        text = out.read_text()
        for shown in (
            *("a: Pooling MAX 3<", "b: Pooling AVE 3×5, s=2<", "c$: Pooling AVE global<"),
            *("\\x1b[1m: SPP MAX, 2 levels<", "e 1×20<"),
        ):
            assert shown in text
    else:
        assert out.stat().st_size > 10_000


@pytest.mark.parametrize(("name", "says"), [("x.gif", "as '.gif'"), ("x", "without a suffix")])
def test_no_other_suffix_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    (tmp_path / "net.prototxt").write_text(POOLS)
    status, _, error = run(capsys, "draw", tmp_path / "net.prototxt", tmp_path / name)
    assert status == 1
    assert f"{name}: cannot be written {says}, only as .svg, .png, .pdf, .dot" in error
    assert not (tmp_path / name).exists()


def test_a_graph_has_an_edge_for_each_bottom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.prototxt").write_text(SKIP)
    assert run(capsys, "draw", tmp_path / "net.prototxt", tmp_path / "x.dot")[0] == 0
    lines = (tmp_path / "x.dot").read_text().splitlines()
    edges = {tuple(line.strip(" ;").split(" -> ")) for line in lines if " -> " in line}
    boxes = [re.findall(r">([^<>]+)</td>", line) for line in lines if "<table" in line]
    assert boxes[2] == ["c: Sigmoid", "&lt;&amp;&gt;: Dropout", "c 1×4×9×9"]
    wanted = {(0, 1), (1, 2), (2, 3), (0, 3), (1, 3)}
    assert edges == {(f"layer{source}", f"layer{target}") for source, target in wanted}


def test_a_very_long_net_fits_on_a_page(tmp_path: Path) -> None:
    """A PDF has no page above 14400 points."""
    (tmp_path / "net.prototxt").write_text(SKIP)
    short = draw_net(plan_net(NetChoice(str(tmp_path / "net.prototxt"))))
    picture = short._replace(height=20_000)
    write_page(picture, tmp_path / "x.pdf", "pdf")
    (box,) = re.findall(rb"/MediaBox \[ 0 0 (\S+) (\S+) \]", (tmp_path / "x.pdf").read_bytes())
    assert float(box[1]) == pytest.approx(14400)
    assert float(box[0]) == pytest.approx(14400 * picture.width / picture.height, rel=1e-3)


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
