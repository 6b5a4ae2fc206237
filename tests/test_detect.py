"""gmnet_pt.detect: on a net whose boxes are its priors, whatever the image; and the shapes' set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from annotated_case import picture

from converters import load_net, save_caffemodel
from converters.datasets.shapes import CLASSES, scenes, write_shapes
from converters.prototxt.label_map import numbers, read_label_map
from converters.prototxt.text import read_net
from converters.records.annotated_set import convert_annotated
from gmnet_pt import Solver
from gmnet_pt.detect import main, picture_files

EXAMPLE = Path(__file__).parent.parent / "examples" / "detector"
# One cell with two priors, 10 × 10 and 20 × 20 pixels around the middle of 40 × 20.
NET = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 20 dim: 40 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "loc" type: "Convolution" bottom: "pool" top: "loc"
  convolution_param { num_output: 8 kernel_size: 1 } }
layer { name: "conf" type: "Convolution" bottom: "pool" top: "conf"
  convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "where" type: "Flatten" bottom: "loc" top: "where" }
layer { name: "scores" type: "Flatten" bottom: "conf" top: "scores" }
layer { name: "priors" type: "PriorBox" bottom: "pool" bottom: "data" top: "priors"
  prior_box_param { min_size: 10 min_size: 20 variance: 0.1 variance: 0.1 variance: 0.2
    variance: 0.2 } }
layer { name: "out" type: "DetectionOutput" bottom: "where" bottom: "scores" bottom: "priors"
  top: "out" detection_output_param { num_classes: 3 code_type: CENTER_SIZE keep_top_k: 10
    confidence_threshold: 0.01 nms_param { nms_threshold: 0.45 top_k: 10 } } }
"""
LABELS = """
item { name: "none" label: 0 }
item { name: "n01" label: 1 display_name: "a cat" }
item { name: "dog" label: 2 }
"""
SCORES = [0.0, 0.9, 0.0, 0.0, 0.0, 0.25]
"""Background, class 1 and 2 of the small prior and of the large one."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "deploy.prototxt").write_text(NET)
    (tmp_path / "labels").write_text(LABELS)
    write_weights(tmp_path, SCORES)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), picture(40, 80).transpose(1, 2, 0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_weights(folder: Path, scores: list[float]) -> None:
    net = load_net(folder / "deploy.prototxt")
    with torch.no_grad():
        for blobs in net.params.values():
            for blob in blobs:
                blob.zero_()
        net.params["conf"][1].copy_(torch.tensor(scores))
    save_caffemodel(net, folder / "w.caffemodel")


def found(*arguments: str) -> list[dict[str, Any]]:
    options = ["--json", "found.json", "--mean", "0,0,0", "--device", "cpu"]
    assert main(["deploy.prototxt", "w.caffemodel", *arguments, *options]) == 0
    listed: list[dict[str, Any]] = json.loads(Path("found.json").read_text())
    return listed


def test_boxes_are_in_pixels_of_the_image(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = found("a.png", "--labels", "labels")
    assert (one["image"], one["width"], one["height"]) == ("a.png", 80, 40)
    assert [(d["label"], d["name"]) for d in one["detections"]] == [(1, "a cat"), (2, "dog")]
    np.testing.assert_allclose([d["score"] for d in one["detections"]], [0.9, 0.25], rtol=1e-6)
    # 10 × 10 of 40 × 20 are 20 × 20 of 80 × 40.
    np.testing.assert_allclose(one["detections"][0]["box"], [30, 10, 50, 30], rtol=1e-5)
    np.testing.assert_allclose(one["detections"][1]["box"], [20, 0, 60, 40], rtol=1e-5, atol=1e-5)
    assert capsys.readouterr().out == "a.png a cat 0.9000 30.0 10.0 50.0 30.0\n"


def test_the_threshold_is_for_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = found("a.png", "--threshold", "0.1")
    assert [d["name"] for d in one["detections"]] == ["1", "2"]
    assert capsys.readouterr().out.count("\n") == 2
    (one,) = found("a.png", "--threshold", "0.5")
    assert [d["label"] for d in one["detections"]] == [1]


def test_names_by_line(here: Path) -> None:
    (here / "names.txt").write_text("background\nball\nbat\n")
    (one,) = found("a.png", "--labels", "names.txt")
    assert [d["name"] for d in one["detections"]] == ["ball", "bat"]


def test_nothing_is_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(here, [0.0] * 6)
    (one,) = found("a.png", "--out", "none.png")
    assert one["detections"] == [] and capsys.readouterr().out == ""
    assert cv2.imread("none.png").shape == (240, 480, 3)


def test_a_picture_an_image(here: Path) -> None:
    assert len(found("a.png", "b.png", "--out", "pictures/")) == 2
    assert sorted(path.name for path in (here / "pictures").iterdir()) == ["a.png", "b.png"]
    drawn = cv2.imread("pictures/a.png")
    assert drawn.shape == (240, 480, 3)
    # The box 30, 10 to 50, 30, six times as large, in the colour of class 1.
    green = np.array([0x4B, 0xB4, 0x3C])
    for y, x in ((120, 180), (120, 300), (180, 240)):
        around = drawn[y - 2 : y + 3, x - 2 : x + 3].astype(int)
        assert (np.abs(around - green).max(axis=2) < 40).any()
    assert not (np.abs(drawn[110:130, 230:250].astype(int) - green).max(axis=2) < 40).any()
    one, two = picture_files("pictures", [Path("x/a.jpg"), Path("y/a.jpg")])
    assert one.name == "a.png" and two.name == "a_2.png"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.png", "b.png", "--out", "x.png"], "2 images need a folder, a picture each"),
        (["a.png", "--out", "x.gif"], "x.gif: cannot be written as '.gif'"),
        (["none.png"], "none.png: cannot be read"),
        (["labels"], "labels: not an image"),
        (["a.png", "--labels", "none"], "none: "),
        (["a.png", "--mean", "1,2"], "has 2 channels, the net's input 3"),
    ],
)
def test_errors(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["deploy.prototxt", "w.caffemodel", *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and says in error


def test_a_net_without_detections_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = NET[: NET.index('layer { name: "where"')]
    (here / "deploy.prototxt").write_text(text)
    assert main(["deploy.prototxt", "w.caffemodel", "a.png"]) == 1
    error = capsys.readouterr().err
    assert "has outputs conf (1, 6, 1, 1), loc (1, 8, 1, 1); one of detections" in error


# The example -------------------------------------------------------------------------------------


def test_a_shapes_box_is_where_its_colour_is() -> None:
    seen = set()
    for scene in scenes(40, 64, 5):
        assert scene.pixels.shape == (64, 64, 3) and scene.pixels.dtype == np.uint8
        last = scene.shapes[-1]  # no other is drawn over it
        seen.add(last.name)
        assert 0 <= last.xmin < last.xmax < 64 and 0 <= last.ymin < last.ymax < 64
        low = last.ymax - (last.ymax - last.ymin) // 4
        colour = scene.pixels[low, (last.xmin + last.xmax) // 2]
        down, across = np.nonzero((scene.pixels == colour).all(axis=2))
        box = [across.min(), down.min(), across.max(), down.max()]
        np.testing.assert_allclose(box, last[1:], atol=1)
    assert seen == set(CLASSES)
    first, again = (list(scenes(3, 32, seed)) for seed in (1, 1))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again))
    assert not np.array_equal(first[0].pixels, next(scenes(3, 32, 2)).pixels)


def test_the_example_trains_and_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files fit each other, its loss falls, and its test is a mean average precision."""
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "shapes", 8, 4, 96)
    labels = numbers(read_label_map(tmp_path / "shapes" / "labelmap.prototxt"))
    for split in ("train", "test"):
        listed, out = tmp_path / "shapes" / f"{split}.txt", tmp_path / "lmdb" / f"shapes_{split}"
        convert_annotated(tmp_path / "shapes", listed, out, labels)
    text = (EXAMPLE / "train_test.prototxt").read_text()
    text = text.replace("batch_size: 32", "batch_size: 8").replace(
        "batch_size: 20", "batch_size: 4"
    )
    (tmp_path / "train_test.prototxt").write_text(text)
    settings = (EXAMPLE / "solver.prototxt").read_text().replace("test_iter: 20", "test_iter: 1")
    (tmp_path / "solver.prototxt").write_text(settings)
    solver = Solver("solver.prototxt", device="cpu")
    losses = [float(solver.step(1)) for _ in range(12)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) / 2
    (scores,) = solver.test()
    (score,) = scores.values()
    assert 0 <= float(score) <= 1
    save_caffemodel(solver.net, tmp_path / "w.caffemodel")
    images = [str(path) for path in sorted((tmp_path / "shapes" / "images").iterdir())[:2]]
    deploy = str(EXAMPLE / "deploy.prototxt")
    options = ["--scale", "0.0078125", "--mean", "128,128,128", "--json", "f.json"]
    assert main([deploy, "w.caffemodel", *images, *options]) == 0
    assert len(json.loads(Path("f.json").read_text())) == 2


def test_the_deploy_net_is_the_trained_one() -> None:
    """Layer for layer between the data and the detections."""
    trained, deployed = (
        read_net(EXAMPLE / name) for name in ("train_test.prototxt", "deploy.prototxt")
    )
    kept = [layer for layer in trained.layer if layer.type not in ("AnnotatedData", "MultiBoxLoss")]
    assert kept.pop().type == "DetectionEvaluate"
    for layer in kept:
        del layer.include[:]
    assert kept == [layer for layer in deployed.layer if layer.type != "Input"]
