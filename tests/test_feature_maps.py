"""Figures 3 and 4: their blobs, numbers and pictures, from records and from image files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from golden_case import GOLDEN

from converters import load_net, save_caffemodel
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.records.datum import encode_datum
from converters.records.lmdb_writer import create_lmdb
from converters.records.mean import write_mean
from gmnet_pt.feature_maps import (
    FIGURES,
    ImageMaps,
    MapRow,
    draw_maps,
    figure_blobs,
    figure_fits,
    maps_of_data,
    maps_of_images,
    tile,
)
from gmnet_pt.features import main
from gmnet_pt.image_input import image_input, without_database
from gmnet_pt.net_command import OpenNet
from prototxt_gen.__main__ import main as generate

TWO_PATHS = ["bu_s/sum3", "bu_f/sum3", "au/pool", "bu_e/au/conv1x1"]
CPU = torch.device("cpu")


def conv(name: str, bottom: str, outputs: int) -> str:
    return f"""
layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
  convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1
    weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "{name}/relu" type: "ReLU" bottom: "{name}" top: "{name}" }}"""


# Two paths as GM-Net's. BU_s has a blob before its last; a later blob's name only begins alike.
LAYERS = "".join(
    (
        conv("bu_s/first", "data", 5),
        conv("bu_s/last", "bu_s/first", 4),
        conv("bu_f/last", "data", 4),
        'layer { name: "m" type: "Eltwise" bottom: "bu_s/last" bottom: "bu_f/last" top: "au/sum" }',
        'layer { name: "p" type: "Pooling" bottom: "au/sum" top: "au/pool"'
        " pooling_param { pool: AVE kernel_size: 2 stride: 2 } }",
        conv("bu_e/last", "au/pool", 70),
        'layer { name: "bu_self" type: "Power" bottom: "bu_e/last" top: "bu_self" }',
    )
)
LOSS = """
layer { name: "pool" type: "Pooling" bottom: "bu_self" top: "pool"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }"""
BLOBS = ["bu_s/last", "bu_f/last", "au/pool", "bu_e/last"]
TRANSFORM = "mean_value: 100 mean_value: 120 mean_value: 90 scale: 0.02 mirror: true"


class Files:
    """A net over an LMDB of five random images (C, 6, 8), its weights, and one image as a file."""

    def __init__(
        self,
        folder: Path,
        name: str = "cifar10_test",
        transform: str = TRANSFORM,
        channels: int = 3,
    ) -> None:
        self.folder = folder
        random = np.random.default_rng(0)
        self.images = random.integers(0, 256, (5, channels, 6, 8)).astype(np.uint8)
        self.database = folder / name
        with create_lmdb(self.database) as writer:
            keys = [b"%d" % number for number in range(5)]
            writer.put_all(keys, [encode_datum(image, 3) for image in self.images])
        data = f"""layer {{ name: "data" type: "Data" top: "data" top: "label"
          transform_param {{ {transform} }} data_param {{ source: "{name}" batch_size: 3 }} }}"""
        self.net = folder / "net.prototxt"
        self.net.write_text(data + LAYERS + LOSS)
        self.deploy = folder / "deploy.prototxt"
        sizes = f"dim: 1 dim: {channels} dim: 6 dim: 8"
        given = f"""layer {{ name: "data" type: "Input" top: "data"
          input_param {{ shape {{ {sizes} }} }} }}"""
        self.deploy.write_text(given + LAYERS)
        self.weights = folder / "w.caffemodel"
        save_caffemodel(load_net(self.net), self.weights)

    def opened(self) -> OpenNet:
        return OpenNet(load_net(self.net, weights=self.weights), CPU)

    def image(self, pixels: np.ndarray, name: str = "x.png") -> Path:
        """A file of `pixels` (H, W) or (H, W, C) in OpenCV's order."""
        assert cv2.imwrite(str(self.folder / name), pixels)
        return self.folder / name

    def command(self, *arguments: object, net: Path | None = None) -> list[str]:
        out = ["--out", self.folder / "out.png"] if "--out" not in arguments else []
        parts = (net or self.net, "--weights", self.weights, "--device", "cpu", *arguments, *out)
        return list(map(str, parts))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def bgr(planes: np.ndarray) -> np.ndarray:
    """RGB planes (3, H, W) as OpenCV's pixels (H, W, 3)."""
    return np.stack([planes[2], planes[1], planes[0]], axis=2)


def blobs_of(files: Files, data: np.ndarray) -> dict[str, np.ndarray]:
    """What the net computes of `data` (1, C, H, W)."""
    net = load_net(files.net, weights=files.weights)
    with torch.no_grad():
        found = net({"data": data, "label": np.zeros(1)}, blobs=BLOBS)
    return {name: blob.numpy()[0] for name, blob in found.items()}


def transformed(image: np.ndarray) -> np.ndarray:
    """RGB planes as TRANSFORM's data blob (1, 3, H, W)."""
    means = np.array([100, 120, 90], np.float32).reshape(3, 1, 1)
    return ((image.astype(np.float32) - means) * np.float32(0.02))[np.newaxis]


def assert_same(found: ImageMaps, wanted: ImageMaps) -> None:
    np.testing.assert_array_equal(found.picture, wanted.picture)
    for one, other in zip(found.rows, wanted.rows, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one.maps, other.maps)


# Which blobs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "figure", "blobs"),
    [
        ("bua", 3, TWO_PATHS),
        ("bua_concat", 3, ["bu_s/sum3", "bu_f/concat3", "au/pool", "bu_e/au/conv1x1"]),
        ("baseline", 4, ["bu_m/au/pool"]),
        ("baseline_no_unit_merge", 4, ["bu_m/au/pool"]),
    ],
)
def test_every_kind_of_net_has_one_figure(
    variant: str, figure: int, blobs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        generate([variant, "--dataset", "digits", "--width", "0.125", "--out", str(tmp_path)]) == 0
    )
    (deploy,) = tmp_path.glob("*/deploy.prototxt")
    plan = plan_net(NetChoice(str(deploy)))
    assert [other for other in FIGURES if figure_fits(plan, other)] == [figure]
    assert figure_blobs(plan, figure) == dict(zip((about for about, _ in FIGURES[figure]), blobs))
    cv2.imwrite(str(tmp_path / "x.png"), np.arange(784, dtype=np.uint8).reshape(28, 28))
    weights, out = tmp_path / "w.caffemodel", tmp_path / "out.png"
    save_caffemodel(load_net(deploy), weights)
    command = [str(deploy), "--weights", str(weights), "--image", str(tmp_path / "x.png")]
    command += ["--out", str(out), "--device", "cpu", "--figure"]
    capsys.readouterr()
    assert main([*command, str(figure)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[1] for line in lines[:-1]] == blobs
    out.unlink()
    assert main([*command, str(7 - figure)]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    part = {3: '"bu_m/au/…" (adaption unit after BU_m)', 4: '"bu_s/…" (end of BU_s)'}[figure]
    assert f"deploy.prototxt: has no blob {part} for figure {7 - figure}" in message
    assert f"; figure {figure} fits it, and --blobs takes any names" in message
    assert not out.exists()


def test_a_net_that_no_figure_fits(capsys: pytest.CaptureFixture[str]) -> None:
    run = GOLDEN / "training" / "lenet_sgd_inv"
    net = [str(run / "net.prototxt"), "--weights", str(run / "snap_iter_100.caffemodel")]
    assert main([*net, "--figure", "3", "--out", "x.png"]) == 1
    assert "; no figure fits it, and --blobs takes any" in capsys.readouterr().err.splitlines()[-1]


# Numbers and pictures of records ------------------------------------------------------------------


def test_rows_are_the_blobs_of_the_first_images(files: Files) -> None:
    found = maps_of_data(files.opened(), 3, 4)
    assert [one.name for one in found] == [f"cifar10_test[{number}]" for number in range(4)]
    # Of two batches of 3, mirrored at random: each image is one of its two sides.
    for one, image in zip(found, files.images):
        mirrored = not np.array_equal(one.picture, bgr(image))
        side = image[:, :, ::-1] if mirrored else image
        np.testing.assert_array_equal(one.picture, bgr(side))
        wanted = blobs_of(files, transformed(side))
        assert [row.blob for row in one.rows] == BLOBS
        assert [row.about for row in one.rows] == [about for about, _ in FIGURES[3]]
        for row in one.rows:
            np.testing.assert_array_equal(row.maps, wanted[row.blob])
            assert row.zeros == pytest.approx((wanted[row.blob] == 0).mean())
            assert row.mean == pytest.approx(wanted[row.blob].mean(), rel=1e-5)
    assert 0 < found[0].rows[0].zeros < 1


def test_no_image_is_shown_twice(files: Files) -> None:
    assert len(maps_of_data(files.opened(), 3, 9)) == 5


def test_the_numbers_are_printed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    path = files.image(bgr(files.images[0]))
    capsys.readouterr()
    assert main(files.command("--figure", 3, "--image", path)) == 0
    wanted = blobs_of(files, transformed(files.images[0]))
    sizes = ["4x6x8", "4x6x8", "4x3x4", "70x3x4"]
    assert capsys.readouterr().out.splitlines() == [
        *(
            f"{path}, {name}, {size}, zeros {(wanted[name] == 0).mean() * 100:.1f}%, "
            f"mean {wanted[name].mean():.3g}"
            for name, size in zip(BLOBS, sizes)
        ),
        f"{files.folder / 'out.png'}: figure 3, images: 1",
    ]


@pytest.mark.parametrize(
    ("name", "order", "is_rgb"),
    [
        ("cifar10_test", None, True),
        ("cifar10_test", "bgr", False),
        ("mine", None, False),
        ("mine", "rgb", True),
    ],
)
def test_the_database_tells_the_order_of_its_channels(
    tmp_path: Path, name: str, order: str | None, is_rgb: bool
) -> None:
    files = Files(tmp_path, name, "scale: 0.5")
    opened = files.opened()
    reading = image_input(opened.net.plan, order)
    (found,) = maps_of_data(opened, 3, 1, reading)
    pixels = files.images[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(found.picture, pixels[:, :, ::-1] if is_rgb else pixels)
    (read,) = maps_of_images(opened, 3, [files.image(found.picture)], reading)
    assert_same(read, found)
    assert len(reading.assumed) == (name == "mine" and order is None)


def test_values_that_are_no_bytes_are_spread(files: Files) -> None:
    reading = image_input(files.opened().net.plan, "bgr")
    data = transformed(np.zeros((3, 6, 8)))
    data[0, 0, 0, 0] = (410 - 100) * 0.02
    data[0, 1, 0, 0] = (-100 - 120) * 0.02
    assert reading.picture(data)[0, 0].tolist() == [255, 0, 50]
    assert reading.picture(data)[5, 7].tolist() == [50, 50, 50]


# Image files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "transform", "channels"),
    [
        ("cifar10_test", TRANSFORM.replace("mirror: true", ""), 3),
        ("cifar10_test", "crop_size: 4 mean_value: 7", 3),
        ("cifar10_test", 'crop_size: 4 mean_file: "mean"', 3),
        ("mnist_test", 'mean_file: "mean" scale: 0.00390625', 1),
    ],
)
def test_an_image_file_is_the_same_record(
    tmp_path: Path, name: str, transform: str, channels: int
) -> None:
    """Bit-equal blobs, whatever the transformation; a crop shows what the net sees of it."""
    mean = np.random.default_rng(1).uniform(0, 255, (channels, 6, 8)).astype(np.float32)
    write_mean(tmp_path / "mean", mean)
    files = Files(tmp_path, name, transform, channels)
    paths = []
    for number, image in enumerate(files.images):
        pixels = bgr(image) if channels == 3 else image[0]
        paths.append(files.image(pixels, f"{number}.png"))
    found = maps_of_images(files.opened(), 3, paths)
    assert [one.name for one in found] == list(map(str, paths))
    for one, record, image in zip(found, maps_of_data(files.opened(), 3, 5), files.images):
        assert_same(one, record)
        seen = image[:, 1:5, 2:6] if "crop" in transform else image
        three = seen.repeat(3 // channels, axis=0)
        np.testing.assert_array_equal(one.picture, bgr(three))


@pytest.mark.parametrize("shape", [(30, 20, 3), (30, 20, 4), (30, 20), (6, 8, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_brought_to_the_size_and_channels_of_the_net(
    tmp_path: Path, shape: tuple[int, ...], channels: int
) -> None:
    name = {1: "mnist_test", 3: "cifar10_test"}[channels]
    files = Files(tmp_path, name, "scale: 1", channels)
    pixels = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    (found,) = maps_of_images(files.opened(), 3, [files.image(pixels)])
    three = pixels[:, :, :3] if len(shape) == 3 else np.stack([pixels] * 3, axis=2)
    if channels == 1 and len(shape) == 3:
        gray = cv2.cvtColor(three, cv2.COLOR_BGR2GRAY)
        three = np.stack([gray] * 3, axis=2)
    wanted = cv2.resize(three, (8, 6))
    # The gray of OpenCV's decoder and that of its conversion differ by one at most.
    off = np.abs(found.picture.astype(int) - wanted).max()
    assert off <= (1 if channels == 1 else 0)
    planes = found.picture[:, :, ::-1].transpose(2, 0, 1)[:channels]
    wanted_blobs = blobs_of(files, planes[np.newaxis].astype(np.float32))
    for row in found.rows:
        np.testing.assert_array_equal(row.maps, wanted_blobs[row.blob])


def test_an_absent_database_is_not_needed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """Its data set's images are 32×32; for an unknown set, --input-shape."""
    path = files.image(bgr(files.images[0]))
    wanted = maps_of_images(files.opened(), 3, [path])
    shutil.rmtree(files.database)
    choice = without_database(NetChoice(str(files.net)))
    assert choice.input_shapes == {"data": (1, 3, 32, 32)}
    command = files.command("--figure", 3, "--image", path)
    assert main(command) == 0
    assert "bu_s/last, 4x32x32" in capsys.readouterr().out
    assert main([*command, "--input-shape", "data=1,3,6,8"]) == 0
    assert capsys.readouterr().out.splitlines()[:4] == wanted[0].lines()
    files.net.write_text(files.net.read_text().replace("cifar10_test", "mine_test"))
    assert main(command) == 1
    assert "mine_test does not exist: build it, or give input shapes" in capsys.readouterr().err
    assert main([*command, "--input-shape", "data=1,3,6,8", "--order", "rgb"]) == 0
    assert capsys.readouterr().out.splitlines()[:4] == wanted[0].lines()


def test_an_absent_database_gives_the_crop(files: Files) -> None:
    shutil.rmtree(files.database)
    files.net.write_text(files.net.read_text().replace("mirror: true", "crop_size: 28"))
    choice = without_database(NetChoice(str(files.net)))
    assert choice.input_shapes == {"data": (1, 3, 28, 28)}


def test_a_deploy_net_is_told_the_mean(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    path = files.image(bgr(files.images[0]))
    wanted = maps_of_images(files.opened(), 3, [path])[0].lines()
    capsys.readouterr()
    command = files.command("--figure", 3, "--image", path, net=files.deploy)
    told = ["--mean", "100,120,90", "--scale", "0.02", "--order", "rgb"]
    assert main([*command, *told]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:4] == wanted
    assert "W" not in [line[0] for line in captured.err.splitlines()]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:4] != wanted
    assert "No --mean: nothing is subtracted." in captured.err
    assert "taken as BGR" in captured.err


# The layout ---------------------------------------------------------------------------------------


def image_maps(name: str, *counts: int) -> ImageMaps:
    """A picture (6, 8), and a row of `count` random maps (10, 12) each."""
    random = np.random.default_rng(sum(counts))
    rows = []
    for count in counts:
        maps = random.random((count, 10, 12)).astype(np.float32) * count + 1
        rows.append(MapRow("about", "blob", maps, 0.0, 1.0))
    picture = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return ImageMaps(name, picture, tuple(rows))


def test_each_row_of_maps_is_where_it_should_be() -> None:
    images = [image_maps("a", 3, 70), image_maps("b", 40)]
    page = draw_maps(images)
    top = 0
    for image in images:
        # 20 pixels of caption, 8 around; the picture enlarged to 112 pixels, maps to 48.
        picture = image.picture.repeat(14, axis=0).repeat(14, axis=1)
        np.testing.assert_array_equal(page[top + 20 : top + 104, 8:120], picture)
        line = top
        for row in image.rows:
            shown = row.maps[:64]
            gray = np.rint(shown * (255 / float(shown.max()))).astype(np.uint8)
            for place, one in enumerate(gray):
                y, x = line + 20 + place // 16 * 42, 128 + place % 16 * 50
                wanted = one.repeat(4, axis=0).repeat(4, axis=1)[:, :, np.newaxis]
                np.testing.assert_array_equal(
                    page[y : y + 40, x : x + 48], wanted.repeat(3, axis=2)
                )
            caption = page[line : line + 20, 128:]
            # Dark letters, in the caption's lines alone.
            assert caption.min() < 80
            line += 20 + -(-len(shown) // 16) * 42 - 2 + 8
        top = max(line, top + 104) + 8
    assert page.shape == (top, 128 + 16 * 50 - 2 + 8, 3)


def test_the_caption_holds_name_size_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    draw = cv2.putText

    def listen(picture: np.ndarray, text: str, *more: object) -> np.ndarray:
        texts.append(text)
        return draw(picture, text, *more)

    monkeypatch.setattr(cv2, "putText", listen)
    maps = np.full((70, 2, 3), 0.25, np.float32)
    row = MapRow("end of BU_s", "bu_s/sum3", maps, 0.7128, 0.12345)
    small = row._replace(maps=maps[:8] * 8)
    draw_maps([ImageMaps("folder/größe.png", np.zeros((2, 2, 3), np.uint8), (row, small))])
    assert sorted(texts) == [
        "end of BU_s: bu_s/sum3, 64 of 70 maps 2x3, zeros 71.3%, mean 0.123, white = 0.25",
        "end of BU_s: bu_s/sum3, 8 maps 2x3, zeros 71.3%, mean 0.123, white = 2",
        "gr??e.png",
    ]


def test_large_maps_stand_in_fewer_columns() -> None:
    maps = np.ones((4, 5, 700), np.float32)
    rows = (MapRow("about", "blob", maps, 0.0, 1.0),)
    page = draw_maps([ImageMaps("a", np.zeros((4, 4, 3), np.uint8), rows)])
    # One column of 4 maps, less high than the picture beside it.
    assert page.shape == (20 + 112 + 8, 128 + 700 + 8, 3)
    assert (page[20 + 3 * 7 : 20 + 3 * 7 + 5, 128 : 128 + 700] == 255).all()


def test_black_is_zero_or_below() -> None:
    maps = np.array([[[2, 4]]], np.float32)
    assert tile(maps, low=0)[::24, ::24].tolist() == [[128, 255]]
    assert tile(maps)[::24, ::24].tolist() == [[0, 255]]
    row = MapRow("about", "blob", np.array([[[-1, 1]]], np.float32), 0.0, 0.0)
    page = draw_maps([ImageMaps("a", np.zeros((4, 4, 3), np.uint8), (row,))])
    assert page[20, 128].tolist() == [0] * 3 and page[20, 128 + 24].tolist() == [255] * 3


def test_dead_and_broken_maps_are_black() -> None:
    for value in (0, np.nan, np.inf):
        row = MapRow("about", "blob", np.full((1, 2, 2), value, np.float32), 1.0, 0.0)
        page = draw_maps([ImageMaps("a", np.zeros((4, 4, 3), np.uint8), (row,))])
        assert not page[20:68, 128:176].any()


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--figure", 3, "--blobs", "data"], ["--figure", 5]])
def test_either_blobs_or_a_figure(
    files: Files, options: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(files.command(*options))
    assert stop.value.code == 2
    assert "--figure" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--blobs", "data", "--image", "x"], "--image goes with --figure"),
        (["--blobs", "data", "--order", "rgb"], "--order goes with --figure"),
        (["--figure", 3, "--mean", "1"], "--mean goes with --image"),
        (["--figure", 3, "--scale", "0"], "--scale goes with --image"),
        (["--blobs", "data", "--input-shape", "data=1"], "--input-shape goes with --image"),
        (["--figure", 3, "--iterations", 1], "--iterations goes with --blobs"),
        (["--figure", 3, "--image", "x", "--images", 1], "--images goes with the net's own data"),
        (["--figure", 3, "--out", "x.npz"], "--out x.npz: a figure is a picture; name a .png"),
    ],
)
def test_an_option_that_would_not_be_heard_is_refused(
    files: Files, options: list[object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(files.command(*options)) == 1
    assert says in capsys.readouterr().err.splitlines()[-1]


def broken(files: Files) -> list[str]:
    (files.folder / "broken.png").write_bytes(b"\x89PNG no more")
    good = files.image(bgr(files.images[0]))
    return files.command("--figure", 3, "--image", good, "--image", files.folder / "broken.png")


def two_channels(files: Files) -> list[str]:
    text = files.deploy.read_text().replace("dim: 3", "dim: 2")
    files.deploy.write_text(text)
    save_caffemodel(load_net(files.deploy), files.weights)
    path = files.image(bgr(files.images[0]))
    return files.command("--figure", 3, "--image", path, net=files.deploy)


def rows_of_hdf5(files: Files) -> list[str]:
    text = files.deploy.read_text()
    data = 'layer { name: "d" type: "HDF5Data" top: "data" }'
    files.deploy.write_text(data + text[text.index("\nlayer") :])
    path = files.image(bgr(files.images[0]))
    shape = ("--input-shape", "data=1,3,6,8")
    return files.command("--figure", 3, "--image", path, *shape, net=files.deploy)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (broken, "broken.png: not an image that OpenCV can decode (12 bytes)"),
        (lambda files: files.command("--figure", 3, "--image", "no.png"), "no.png: cannot be read"),
        (
            lambda files: files.command("--figure", 3, net=files.deploy),
            "deploy.prototxt: its data layer (Input) brings no images; give some (--image)",
        ),
        (two_channels, "input data has shape (2, 6, 8); (C, H, W) with 1 or 3 channels"),
        (rows_of_hdf5, "images cannot stand in for its HDF5Data layer; they can for Input, Data"),
        (
            lambda files: files.command("--figure", 3, "--image", "no.png", "--mean", "1,2"),
            "--mean 1,2: has 2 channels, the net's input 3",
        ),
    ],
)
def test_errors_name_the_file_and_write_nothing(
    files: Files,
    command: Callable[[Files], list[str]],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(files)) == 1
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (files.folder / "out.png").exists()
