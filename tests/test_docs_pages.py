"""docs/from_caffe.md and docs/from_pytorch.md: each line of their blocks is run as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import lmdb
import numpy as np
import pytest
from golden_case import GOLDEN

from converters import load_net, save_caffemodel
from converters.records.datum import encode_datum
from gmnet_pt.__main__ import main
from gmnet_pt.commands import COMMANDS

DOCS = Path(__file__).parents[1] / "docs"
LAYERS = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } convolution_param { num_output: 4 kernel_size: 3
  weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
NET = f"""
name: "small"
layer {{ name: "data" type: "Data" top: "data" top: "label" data_param {{ source: "db"
  batch_size: 8 backend: LMDB }} transform_param {{ scale: 0.00390625 }} }}
{LAYERS}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""
DEPLOY = f"""
name: "small"
layer {{ name: "data" type: "Input" top: "data"
  input_param {{ shape {{ dim: 1 dim: 1 dim: 12 dim: 12 }} }} }}
{LAYERS}
layer {{ name: "prob" type: "Softmax" bottom: "ip" top: "prob" }}
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 4 display: 1 random_seed: 1
test_iter: 2 test_interval: 2 snapshot_prefix: "runs/small" solver_mode: CPU
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages say is there, small."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"net": NET, "deploy": DEPLOY, "solver": SOLVER}.items():
        Path(f"{name}.prototxt").write_text(text)
    Path("db").mkdir()
    random = np.random.default_rng(0)
    with lmdb.open("db", map_size=2**24) as env, env.begin(write=True) as txn:
        for index in range(32):
            image = random.integers(0, 256, (1, 12, 12), np.uint8)
            txn.put(b"%08d" % index, bytes(encode_datum(image, index % 3)))
    save_caffemodel(load_net("net.prototxt"), "init.caffemodel")
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_from_caffe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    Path("images").mkdir()
    for number in range(3):
        cv2.imwrite(f"images/{number}.png", np.full((16, 14), 80 * number, np.uint8))
    Path("list.txt").write_text("".join(f"{number}.png {number}\n" for number in range(3)))
    Path("labels.txt").write_text("zero\none\ntwo\n")
    Path("old.prototxt").write_bytes((GOLDEN / "upgrade" / "v1.prototxt").read_bytes())
    Path("old_solver.prototxt").write_bytes((GOLDEN / "upgrade/solver_enum.prototxt").read_bytes())
    lines = [line for block in blocks("from_caffe.md", "sh") for line in block.splitlines()]
    assert len(lines) > 20
    here = [("train", "time", "test", "features", "classify"), ("--device", "cpu")]
    for line in lines:
        gmnet, command, *words = shlex.split(line)
        assert gmnet == "gmnet"
        # Where there is a GPU the lines would run on it, and be right all the same.
        status = main([command, *words, *(here[1] if command in here[0] else ())])
        told = capsys.readouterr()
        assert status == 0, f"{line}\n{told.err}"
    for name in (
        "new.prototxt",
        "net.svg",
        "loss.png",
        "sheet.png",
        "features.npz",
        "features_lmdb",
    ):
        assert Path(name).exists(), name


def test_from_caffe_names_what_there_is() -> None:
    """The commands and flags beside the blocks."""
    text = (DOCS / "from_caffe.md").read_text(encoding="utf-8")
    beside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`gmnet (\w+)", beside))
    assert {"train", "imageset", "lmdb"} <= named <= {*COMMANDS, "caffe"}
    flags = set(re.findall(r"`(--[a-z-]+)", beside)) - {"--flag", "--noflag", "--help"}
    known = {flag for one in COMMANDS.values() for flag in one.parser("x")._option_string_actions}
    assert {"--resume", "--gpu"} <= flags <= known


def test_from_pytorch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks("from_pytorch.md", "python")
    assert len(found) >= 9
    names: dict[str, object] = {}
    for number, block in enumerate(found):
        exec(compile(block, f"from_pytorch.md, block {number}", "exec"), names)
    assert "nte.prototxt: cannot be read" in capsys.readouterr().out
    assert Path("runs/small_iter_3.solverstate").is_file()
    assert isinstance(names["trained"], type(names["net"]))
    shapes = {"data": (8, 1, 12, 12), "label": (8,)}
    assert load_net("net.prototxt", input_shapes=shapes).inputs
    text = (DOCS / "from_pytorch.md").read_text(encoding="utf-8")
    right = [row.split("|")[2] for row in text.splitlines() if row.startswith("| `")]
    for code in re.findall(r"`((?:net|feeds)\b[^`]*\))`", " ".join(right)):
        net = names["net" if '"label"' in code or code.startswith("feeds") else "deploy"]
        assert eval(code, {**names, "net": net, "y": names["labels"]}) is not None, code
