"""gmnet_pt.classify against its steps written out, on nets whose blobs are real Caffe's."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from golden_case import GOLDEN

from converters import load_net, save_caffemodel
from converters.net.caffe_net import CaffeNet
from converters.records.mean import read_mean
from gmnet_pt.classify import (
    Classified,
    Prediction,
    Preprocessing,
    likeliest,
    main,
    thumbnail,
)

LINE = re.compile(r'(-?\d+\.\d{4}) - "(.*)"')


class Case(NamedTuple):
    """A golden net as a deploy net, and an image (H, W) or (H, W, C) for it."""

    net: str
    channels: int
    mean: str
    image: tuple[int, ...]


COLOR = ("net_quick_lrn", 3, "cifar10_train_synthetic")
GRAY = ("net_lenet", 1, "mnist_train")
CASES = [
    Case(*COLOR, (32, 32, 3)),
    Case(*COLOR, (20, 45, 3)),
    Case(*COLOR, (40, 30)),
    Case(*COLOR, (40, 30, 4)),
    Case(*GRAY, (28, 28)),
    Case(*GRAY, (50, 20, 3)),
    Case(*GRAY, (50, 20, 4)),
]


class Files:
    """A case's deploy net, image, mean and labels, and the command on them."""

    def __init__(self, case: Case, folder: Path) -> None:
        golden = GOLDEN / "layers" / case.net
        text = (golden / "net.prototxt").read_text()
        kept = [
            line
            for line in text.splitlines()
            if line.startswith("layer") and not re.search(r'"(loss|accuracy|label)"', line)
        ]
        self.net = folder / "deploy.prototxt"
        self.net.write_text("\n".join(kept))
        self.weights = golden / "weights.caffemodel"
        self.mean = GOLDEN / f"{case.mean}_mean.binaryproto"
        self.image = folder / "image.png"
        random = np.random.default_rng(len(case.image) + case.image[0])
        cv2.imwrite(str(self.image), random.integers(0, 256, case.image).astype(np.uint8))
        self.labels = folder / "labels.txt"
        self.labels.write_text("".join(f"class {number}\n" for number in range(10)))

    def command(self, *more: str, **changed: object) -> list[str]:
        """The arguments, some of them exchanged."""
        files = {name: str(changed.get(name, path)) for name, path in vars(self).items()}
        main_ones = [files["net"], files["weights"], files["image"], "--mean", files["mean"]]
        return [*main_ones, *more]


@pytest.fixture
def color(tmp_path: Path) -> Files:
    return Files(CASES[0], tmp_path)


def scores_of(files: Files, case: Case) -> np.ndarray:
    """Channels of the net, its size, minus the mean of each channel, through the net."""
    pixels = cv2.imread(str(files.image), cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = pixels[:, :, :3]
    if case.channels == 1 and pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    if case.channels == 3 and pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, 2)
    net = load_net(files.net, weights=files.weights)
    (shape,) = net.plan.input_shapes().values()
    pixels = cv2.resize(pixels, shape[:1:-1]).reshape(*shape[2:], case.channels)
    means = read_mean(files.mean).reshape(case.channels, -1).mean(1)
    x = (pixels - means).astype(np.float32).transpose(2, 0, 1)
    with torch.no_grad():
        (scores,) = net({net.inputs[0]: x[None]}).values()
    return scores.numpy().ravel()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.net}-{case.image}")
def test_predictions_are_those_of_the_steps(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gray, BGR and BGRA images, for a gray and for a color net, of other sizes than its input."""
    files = Files(case, tmp_path)
    assert main(files.command("--labels", str(files.labels))) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == f"---------- Prediction for {files.image} ----------"
    scores = scores_of(files, case)
    best = np.argsort(-scores)[:5]
    assert len(lines) == 5
    for line, number in zip(lines, best):
        match = LINE.fullmatch(line)
        assert match
        assert match[2] == f"class {number}"
        assert float(match[1]) == pytest.approx(float(scores[number]), abs=2e-3)


def test_top_and_labels_are_optional(color: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(color.command("--top", "1")) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.endswith(f' - "{scores_of(color, CASES[0]).argmax()}"')


def test_channel_means_may_be_given(color: Files, capsys: pytest.CaptureFixture[str]) -> None:
    means = read_mean(color.mean).mean(axis=(1, 2), dtype=np.float64)
    values = ",".join(str(value) for value in means)
    outputs = []
    for mean in (color.mean, values):
        assert main(color.command(mean=mean)) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_scale_comes_after_the_mean() -> None:
    prepare = Preprocessing(1, 1, 2, np.array([10], np.float32), 0.5)
    assert prepare(np.array([[30, 0]], np.uint8)).tolist() == [[[[10, -5]]]]


# An input that is not square, and scores (N, C, 1, 1).
WIDE = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 4 dim: 6 } } }
layer { name: "score" type: "Convolution" bottom: "data" top: "score"
  convolution_param { num_output: 4 kernel_h: 4 kernel_w: 6 weight_filler { type: "xavier" } } }
"""


@pytest.mark.parametrize("scale", [1, 0.125])
def test_each_image_is_resized_to_an_input_that_is_not_square(
    scale: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy, weights, labels = (tmp_path / name for name in ("net", "w.caffemodel", "labels"))
    deploy.write_text(WIDE)
    labels.write_text("a\nb\nc\nd\n")
    net = load_net(deploy)
    save_caffemodel(net, weights)
    wanted, images = [], []
    for number, size in enumerate(((9, 5), (6, 4))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)
        images.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(images[-1], pixels)
        x = cv2.resize(pixels, (6, 4)).transpose(2, 0, 1) * scale
        scores = (net.params["score"][0].detach().numpy() * x).sum((1, 2, 3))
        wanted.append(f"---------- Prediction for {images[-1]} ----------")
        wanted += [f'{scores[place]:.4f} - "{"abcd"[place]}"' for place in np.argsort(-scores)]
    command = [str(deploy), str(weights), *images, "--labels", str(labels), "--scale", str(scale)]
    assert main(command) == 0
    captured = capsys.readouterr()
    found = captured.out.splitlines()
    assert [line.split()[-1] for line in found] == [line.split()[-1] for line in wanted]
    for line, other in zip(found, wanted, strict=True):
        if match := LINE.fullmatch(line):
            # float32 sums of 72 products up to 255.
            assert float(match[1]) == pytest.approx(float(other.split()[0]), abs=2e-3)
        else:
            assert line == other
    assert "No --mean: nothing is subtracted." in captured.err


def test_equal_scores_keep_their_order() -> None:
    found = likeliest(np.array([1, 3, 3, 2], np.float32), ["a", "b", "c", "d"], 3)
    assert [label for label, _ in found] == ["b", "c", "d"]


def error(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def test_errors_name_the_file_and_what_is_wrong(
    tmp_path: Path, color: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    color.labels.write_text("cat\ndog\n")
    short = error(color.command("--labels", str(color.labels)), capsys)
    assert re.search(r"labels\.txt: has 2 labels, .*deploy\.prototxt has 10 outputs", short)
    other = error(color.command(mean=GOLDEN / "mnist_train_mean.binaryproto"), capsys)
    assert "mnist_train_mean.binaryproto: has 1 channels, the net's input 3" in other
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no more")
    assert "broken.png: not an image" in error(color.command(image=broken), capsys)
    absent = error(color.command(image=tmp_path / "absent.png"), capsys)
    assert "absent.png: cannot be read: No such file" in absent
    train = GOLDEN / "layers" / "net_quick_lrn" / "net.prototxt"
    assert "has inputs data, label and outputs" in error(color.command(net=train), capsys)


def test_without_opencv_the_install_line_is_printed(
    color: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install 'gmnet-caffe[images]'" in error(color.command(), capsys)


# Several images, other forms ---------------------------------------------------------------------


@pytest.fixture
def folder(color: Files, tmp_path: Path) -> Path:
    """Five images of different sizes, and a file that is none."""
    found = tmp_path / "images"
    found.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3))
        cv2.imwrite(str(found / f"{number}.png"), pixels.astype(np.uint8))
    (found / "notes.txt").write_text("no image")
    return found


def test_a_folder_is_its_images_and_several_are_a_batch(
    color: Files,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    forward = CaffeNet.forward

    def spy(net: CaffeNet, inputs: Any, **options: Any) -> Any:
        sizes.append(len(inputs["data"]))
        return forward(net, inputs, **options)

    monkeypatch.setattr(CaffeNet, "forward", spy)
    outputs = []
    for batch in ("1", "2", "32"):
        assert main(color.command("--batch", batch, image=folder)) == 0
        outputs.append(capsys.readouterr().out)
    assert sizes == [1] * 5 + [2, 2, 1] + [5]
    titles = [line for line in outputs[0].splitlines() if line.startswith("---")]
    assert titles == [
        f"---------- Prediction for {folder / f'{number}.png'} ----------" for number in range(5)
    ]
    for other in outputs[1:]:
        for one, two in zip(outputs[0].splitlines(), other.splitlines(), strict=True):
            if match := LINE.fullmatch(one):
                score, label = LINE.fullmatch(two).groups()  # type: ignore[union-attr]
                # Another batch may be another order of sums.
                assert label == match[2]
                assert float(score) == pytest.approx(float(match[1]), abs=2e-4)
            else:
                assert one == two


def test_a_net_of_one_item_takes_several_images_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its Reshape says how many items there are."""
    for number, sizes in enumerate(("dim: 1 dim: 4", "dim: 1 dim: -1")):
        deploy, weights = tmp_path / f"{number}.prototxt", tmp_path / f"{number}.caffemodel"
        shape = f"reshape_param {{ shape {{ {sizes} }} }}"
        deploy.write_text(
            f'{WIDE} layer {{ name: "r" type: "Reshape" bottom: "score" top: "r" {shape} }}'
        )
        save_caffemodel(load_net(deploy), weights)
        images = []
        for place in range(3):
            images.append(str(tmp_path / f"{place}.png"))
            pixels = np.random.default_rng(place).integers(0, 256, (4, 6, 3)).astype(np.uint8)
            cv2.imwrite(images[-1], pixels)
        command = [str(deploy), str(weights), *images, "--json"]
        assert main([*command, "--batch", "1"]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out) == alone
        assert [len(one["predictions"]) for one in alone] == [4, 4, 4]


def test_json_holds_what_the_lines_say(color: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(color.command("--labels", str(color.labels), "--top", "3")) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert main(color.command("--labels", str(color.labels), "--top", "3", "--json")) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["image"] == str(color.image)
    shown = [f'{one["score"]:.4f} - "{one["label"]}"' for one in found["predictions"]]
    assert shown == lines


def test_a_score_that_is_not_finite_is_null_in_json() -> None:
    found = Classified(Path("x"), [Prediction("a", math.nan), Prediction("b", 1.0)], None)
    assert found.plain()["predictions"][0] == {"label": "a", "score": None}


@pytest.mark.parametrize("shape", [(3,), (3, 8, 8), (1, 3, 8, 8)])
def test_a_mean_may_be_a_npy(
    color: Files, tmp_path: Path, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    means = np.array([100.5, 50.0, 20.25])
    array = np.broadcast_to(means.reshape(3, *[1] * (len(shape[-3:]) - 1)), shape)
    np.save(tmp_path / "mean.npy", array)
    outputs = []
    for mean in (tmp_path / "mean.npy", "100.5,50,20.25"):
        assert main(color.command(mean=mean)) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((5, 5)), r"has shape \(5, 5\); a mean is \(C, H, W\)"),
        (np.zeros((1, 4, 4)), "has 1 channels, the net's input 3"),
        (np.array(["a", "b", "c"]), "holds no array of numbers"),
        (np.array([{}, {}, {}]), "cannot be read as a .npy"),
    ],
)
def test_a_npy_that_is_no_mean_is_an_error(
    color: Files, tmp_path: Path, array: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "mean.npy", array, allow_pickle=True)
    said = error(color.command(mean=tmp_path / "mean.npy"), capsys)
    assert re.search(rf"mean\.npy:? {says}|mean\.npy: {says}", said), said


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".svg", ".pdf"])
def test_the_classes_are_drawn_beside_the_images(
    color: Files, folder: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"x{suffix}"
    color.labels.write_text("".join(f"class ${number}$ 中\n" for number in range(10)))
    command = color.command("--labels", str(color.labels), "--draw", str(out), image=folder)
    assert main(command) == 0
    assert out.stat().st_size > 10_000
    if suffix == ".png":
        assert cv2.imread(str(out)).shape == (5 * 240, 1080, 3)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5), np.uint8),
        np.full((900, 30, 3), 7, np.uint8),
        np.full((4, 5, 4), 65535, np.uint16),
        np.zeros((1, 3000, 1), np.float32),
    ],
)
def test_a_thumbnail_is_small_and_rgb(image: np.ndarray) -> None:
    small = thumbnail(image)
    assert small.dtype == np.uint8
    assert small.shape[2] == 3
    assert max(small.shape) <= 400
    blue = np.zeros((2, 2, 3), np.uint8)
    blue[..., 0] = 255
    assert thumbnail(blue)[0, 0].tolist() == [0, 0, 255]


def test_what_cannot_be_drawn_is_said_before_the_net_is_read(
    color: Files, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gif = error(color.command("--draw", "x.gif", net="absent"), capsys)
    assert "x.gif: cannot be written as '.gif', only as .png, .jpg, .svg, .pdf" in gif
    for number in range(5, 51):
        (folder / f"{number}.png").touch()
    many = error(color.command("--draw", "x.png", image=folder), capsys)
    assert "51 images; at most 50 are drawn" in many
    (tmp_path / "empty").mkdir()
    assert "no images in this folder (.bmp, " in error(
        color.command(image=tmp_path / "empty"), capsys
    )
