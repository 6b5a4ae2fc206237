"""What data layers read and how they transform it, field by field: checks for `test_fields`.

A few fields of other layers that no formula of one forward pass shows are here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from annotated_case import record, write_database
from field_rows import build, net_text
from oracle import Array

from converters.environment import Environment
from converters.errors import CaffeError
from converters.layers.registry import Shape
from converters.prototxt.text import parse_net
from converters.readers import Reader, open_reader
from converters.records.datum import encode_datum
from converters.records.mean import write_mean

Field = tuple[str, str]
"""A layer type and a path, ("Convolution", "convolution_param.pad")."""
Show = Callable[[Path], None]
SHOWS: dict[Field, Show] = {}


def shows(kind: str, *paths: str) -> Callable[[Show], Show]:
    """Register a check of these fields of a type."""

    def add(check: Show) -> Show:
        SHOWS.update({(kind, path): check for path in paths})
        return check

    return add


def open_layer(kind: str, settings: str, folder: Path, phase: str = "TEST") -> Reader:
    text = f'layer {{ name: "layer" type: "{kind}" top: "data" top: "label" {settings} }}'
    layer = parse_net(text, "net.prototxt").layer[0]
    return open_reader(layer, Environment(str(folder / "net.prototxt"), phase, str(folder)), 1)


def images_of(number: int, shape: Shape = (3, 6, 6)) -> list[Array]:
    random = np.random.default_rng(number)
    return [random.integers(0, 256, shape).astype(np.uint8) for _ in range(number)]


def write_records(folder: Path, images: Sequence[Array]) -> None:
    """An LMDB `db` of raw records with labels 0, 1, …"""
    import lmdb

    (folder / "db").mkdir()
    with lmdb.open(str(folder / "db"), map_size=2**22) as env, env.begin(write=True) as txn:
        for index, image in enumerate(images):
            txn.put(b"%08d" % index, bytes(encode_datum(image, index)))


@shows("Data", "data_param.source", "data_param.batch_size")
def data_source(folder: Path) -> None:
    images = images_of(5)
    write_records(folder, images)
    batch = open_layer("Data", 'data_param { source: "db" batch_size: 3 }', folder).next()
    np.testing.assert_array_equal(batch["data"], images[:3])
    np.testing.assert_array_equal(batch["label"], [0, 1, 2])


class Source(NamedTuple):
    """How a type reads given images (N, 3, 6, 6): the files it needs, and its own settings."""

    write: Callable[[Path, Sequence[Array]], None]
    settings: Callable[[int], str]


def write_pngs(folder: Path, images: Sequence[Array]) -> None:
    import cv2

    lines = []
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"{index}.png"), image.transpose(1, 2, 0))
        lines.append(f"{index}.png {index}\n")
    (folder / "list.txt").write_text("".join(lines))


def write_annotated(folder: Path, images: Sequence[Array]) -> None:
    """Records that tell no type of annotations: their labels are 0, 1, …"""
    records = [record(image, [], False, label=label) for label, image in enumerate(images)]
    write_database(folder, records)


SOURCES = {
    "AnnotatedData": Source(
        write_annotated, lambda n: f'data_param {{ source: "db" batch_size: {n} }}'
    ),
    "Data": Source(write_records, lambda n: f'data_param {{ source: "db" batch_size: {n} }}'),
    "ImageData": Source(
        write_pngs, lambda n: f'image_data_param {{ source: "list.txt" batch_size: {n} }}'
    ),
    "MemoryData": Source(
        lambda folder, images: None,
        lambda n: f"memory_data_param {{ batch_size: {n} channels: 3 height: 4 width: 4 }}",
    ),
}


def transformed(kind: str, folder: Path, transform: str, phase: str = "TEST") -> Array:
    """The first batch of 8 images under `transform_param`, cut to 4×4 by it."""
    images = images_of(8)
    source = SOURCES[kind]
    source.write(folder, images)
    settings = f"{source.settings(8)} transform_param {{ crop_size: 4 {transform} }}"
    reader = open_layer(kind, settings, folder, phase)
    if kind == "MemoryData":
        reader.add(np.stack(images), np.arange(8))
    return reader.next()["data"]


def middle(image: Array) -> Array:
    return image[:, 1:5, 1:5].astype(np.float32)


def check_scale(kind: str, folder: Path) -> None:
    found = transformed(kind, folder, "scale: 0.5")
    np.testing.assert_array_equal(found, [middle(image) * 0.5 for image in images_of(8)])


def check_crop(kind: str, folder: Path) -> None:
    """TRAIN cuts at random places, TEST in the middle (in every other check)."""
    found = transformed(kind, folder, "", "TRAIN")
    places = set()
    for image, cut in zip(images_of(8), found):
        fits = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.array_equal(cut, image[:, y : y + 4, x : x + 4])
        ]
        assert len(fits) == 1
        places.update(fits)
    assert len(places) > 2


def check_mirror(kind: str, folder: Path) -> None:
    """In both phases half of the images, on average, are mirrored."""
    found = transformed(kind, folder, "mirror: true")
    flips = []
    for image, cut in zip(images_of(8), found):
        plain, flipped = middle(image), middle(image)[:, :, ::-1]
        assert np.array_equal(cut, plain) != np.array_equal(cut, flipped)
        flips.append(np.array_equal(cut, flipped))
    assert any(flips) and not all(flips)


def check_mean_file(kind: str, folder: Path) -> None:
    """The mean is read at the uncropped position."""
    mean = images_of(1)[0].astype(np.float32) / 3
    write_mean(folder / "mean.binaryproto", mean)
    found = transformed(kind, folder, 'mean_file: "mean.binaryproto"')
    np.testing.assert_array_equal(
        found, [middle(image) - mean[:, 1:5, 1:5] for image in images_of(8)]
    )


def check_mean_value(kind: str, folder: Path) -> None:
    found = transformed(kind, folder, "mean_value: 1 mean_value: 20 mean_value: 3.5")
    means = np.array([1, 20, 3.5], np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(found, [middle(image) - means for image in images_of(8)])


for _kind in SOURCES:
    for _name, _check in (
        ("scale", check_scale),
        ("crop_size", check_crop),
        ("mirror", check_mirror),
        ("mean_file", check_mean_file),
        ("mean_value", check_mean_value),
    ):
        SHOWS[_kind, f"transform_param.{_name}"] = lambda folder, kind=_kind, check=_check: check(
            kind, folder
        )


@shows("Data", "transform_param.force_color", "transform_param.force_gray")
def data_force(folder: Path) -> None:
    """Compressed records are decoded to three channels, or to one."""
    import cv2
    import lmdb

    from converters.records.datum import encode_image

    (folder / "db").mkdir()
    gray = images_of(1, (5, 5))[0]
    color = images_of(1, (5, 5, 3))[0]
    with lmdb.open(str(folder / "db"), map_size=2**22) as env, env.begin(write=True) as txn:
        for index, image in enumerate((gray, color)):
            png = cv2.imencode(".png", image)[1].tobytes()
            txn.put(b"%08d" % index, bytes(encode_image(png, index)))
    source = 'data_param { source: "db" batch_size: 2 }'
    forced = open_layer("Data", f"{source} transform_param {{ force_color: true }}", folder).next()
    np.testing.assert_array_equal(forced["data"], [[gray] * 3, color.transpose(2, 0, 1)])
    grays = open_layer("Data", f"{source} transform_param {{ force_gray: true }}", folder).next()
    assert grays["data"].shape == (2, 1, 5, 5)
    np.testing.assert_array_equal(grays["data"][0, 0], gray)
    # OpenCV's weights of blue, green and red.
    wanted = color @ np.array([0.114, 0.587, 0.299])
    assert np.abs(grays["data"][1, 0] - wanted).max() <= 1


@shows("ImageData", "image_data_param.source", "image_data_param.batch_size")
def list_source(folder: Path) -> None:
    images = images_of(4)
    write_pngs(folder, images)
    settings = 'image_data_param { source: "list.txt" batch_size: 3 }'
    batch = open_layer("ImageData", settings, folder).next()
    np.testing.assert_array_equal(batch["data"], images[:3])
    np.testing.assert_array_equal(batch["label"], [0, 1, 2])


@shows("ImageData", "image_data_param.root_folder")
def list_root(folder: Path) -> None:
    (folder / "below").mkdir()
    write_pngs(folder / "below", images_of(2))
    settings = 'image_data_param { source: "below/list.txt" batch_size: 2 root_folder: "below/" }'
    batch = open_layer("ImageData", settings, folder).next()
    np.testing.assert_array_equal(batch["data"], images_of(2))


@shows("ImageData", "image_data_param.shuffle")
def list_shuffle(folder: Path) -> None:
    """Each epoch has every image once, in an order of its own."""
    write_pngs(folder, images_of(12))
    settings = 'image_data_param { source: "list.txt" batch_size: 12 shuffle: true }'
    reader = open_layer("ImageData", settings, folder)
    first, second = reader.next()["label"], reader.next()["label"]
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second) and list(first) != list(range(12))


@shows("ImageData", "image_data_param.rand_skip")
def list_skip(folder: Path) -> None:
    """The run starts at one of the first rand_skip lines, and goes on from there in order."""
    write_pngs(folder, images_of(40))
    settings = 'image_data_param { source: "list.txt" batch_size: 4 rand_skip: 30 }'
    labels = open_layer("ImageData", settings, folder).next()["label"]
    assert 0 < labels[0] < 30
    np.testing.assert_array_equal(labels, labels[0] + np.arange(4))


@shows("ImageData", "image_data_param.new_height", "image_data_param.new_width")
def list_resize(folder: Path) -> None:
    """Twice the size, bilinear: the corner pixels stay."""
    write_pngs(folder, images_of(1))
    settings = 'image_data_param { source: "list.txt" batch_size: 1 new_height: 12 new_width: 18 }'
    data = open_layer("ImageData", settings, folder).next()["data"]
    assert data.shape == (1, 3, 12, 18)
    np.testing.assert_array_equal(data[0][:, ::11, ::17], images_of(1)[0][:, ::5, ::5])


@shows("ImageData", "image_data_param.is_color")
def list_gray(folder: Path) -> None:
    write_pngs(folder, images_of(1))
    settings = 'image_data_param { source: "list.txt" batch_size: 1 is_color: false }'
    data = open_layer("ImageData", settings, folder).next()["data"]
    assert data.shape == (1, 1, 6, 6)
    wanted = np.tensordot(np.array([0.114, 0.587, 0.299]), images_of(1)[0], 1)
    assert np.abs(data[0, 0] - wanted).max() <= 1


def write_windows(folder: Path, box: str = "1 1 4 4", other: str = "0 0 3 3") -> None:
    """One image with a foreground window of class 7 and a background window."""
    write_pngs(folder, images_of(1))
    text = f"# 0\n0.png\n3 6 6\n2\n1 0.2 {other}\n7 0.6 {box}\n"
    (folder / "windows.txt").write_text(text)


def window_settings(options: str = "", transform: str = "crop_size: 4") -> str:
    return (
        f'window_data_param {{ source: "windows.txt" batch_size: 8 {options} }} '
        f"transform_param {{ {transform} }}"
    )


def windows_of(
    folder: Path, options: str = "", transform: str = "crop_size: 4"
) -> dict[str, Array]:
    """The first batch of 8 windows of `write_windows`, two of them foreground by default."""
    write_windows(folder)
    return open_layer("WindowData", window_settings(options, transform), folder).next()


def region(image: Array, first: int, last: int) -> Array:
    return image[:, first : last + 1, first : last + 1].astype(np.float32)


@shows("WindowData", "window_data_param.source", "window_data_param.batch_size")
def window_source(folder: Path) -> None:
    """Background first, with label 0; windows of the crop's size are taken as they are."""
    batch = windows_of(folder)
    (image,) = images_of(1)
    np.testing.assert_array_equal(batch["label"], [0] * 6 + [7] * 2)
    np.testing.assert_array_equal(
        batch["data"], [region(image, 0, 3)] * 6 + [region(image, 1, 4)] * 2
    )


@shows("WindowData", "window_data_param.fg_fraction")
def window_fraction(folder: Path) -> None:
    labels = windows_of(folder, "fg_fraction: 0.7")["label"]
    np.testing.assert_array_equal(labels, [0] * 3 + [7] * 5)


@shows("WindowData", "window_data_param.fg_threshold", "window_data_param.bg_threshold")
def window_thresholds(folder: Path) -> None:
    """Between the two a window is neither; then one kind is missing."""
    windows_of(folder, "fg_threshold: 0.6 bg_threshold: 0.3")
    for options in ("fg_threshold: 0.61", "bg_threshold: 0.2"):
        with pytest.raises(CaffeError, match=r"(has|and) 0 (fore|back)ground windows"):
            windows_of(folder, options)


@shows("WindowData", "window_data_param.root_folder")
def window_root(folder: Path) -> None:
    found = windows_of(folder)
    (folder / "below").mkdir()
    (folder / "0.png").rename(folder / "below" / "0.png")
    text = window_settings('root_folder: "below/"')
    batch = open_layer("WindowData", text, folder).next()
    np.testing.assert_array_equal(batch["data"], found["data"])


@shows("WindowData", "window_data_param.cache_images")
def window_cache(folder: Path) -> None:
    """Files that were read once are not needed again."""
    write_windows(folder)
    kept, read = (
        open_layer("WindowData", window_settings(f"cache_images: {value}"), folder)
        for value in ("true", "false")
    )
    kept.next()
    read.next()
    (folder / "0.png").unlink()
    kept.next()
    with pytest.raises(CaffeError, match="cannot be read"):
        read.next()


@shows("WindowData", "window_data_param.context_pad", "window_data_param.crop_mode")
def window_context(folder: Path) -> None:
    """The region grows about its centre, 3; both its ends are taken.

    With a pixel of context around 2×2: 1 · 5 / 3 to each side, rounded. Square: 2 to each side.
    """
    for box, options in (("2 2 3 3", "context_pad: 1"), ("1 2 4 3", 'crop_mode: "square"')):
        write_windows(folder, box)
        settings = window_settings(options, "crop_size: 5")
        found = open_layer("WindowData", settings, folder).next()["data"][-1]
        np.testing.assert_array_equal(found, region(images_of(1)[0], 1, 5))


@shows("WindowData", "window_data_param.scale", "transform_param.mean_value")
def window_values(folder: Path) -> None:
    transform = "crop_size: 4 mean_value: 1 mean_value: 20 mean_value: 3.5"
    found = windows_of(folder, "scale: 0.5", transform)["data"][-1]
    means = np.array([1, 20, 3.5], np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(found, (region(images_of(1)[0], 1, 4) - means) * 0.5)


@shows("WindowData", "transform_param.mean_file", "transform_param.crop_size")
def window_mean(folder: Path) -> None:
    """The mean is that of the mean image's middle, wherever the window lay."""
    mean = images_of(1, (3, 8, 8))[0].astype(np.float32) / 3
    write_mean(folder / "mean.binaryproto", mean)
    found = windows_of(folder, "", 'crop_size: 4 mean_file: "mean.binaryproto"')["data"][-1]
    np.testing.assert_array_equal(found, region(images_of(1)[0], 1, 4) - mean[:, 2:6, 2:6])


@shows("WindowData", "transform_param.mirror")
def window_mirror(folder: Path) -> None:
    data = windows_of(folder, "fg_fraction: 1", "crop_size: 4 mirror: true")["data"]
    plain = region(images_of(1)[0], 1, 4)
    flips = [np.array_equal(window, plain[:, :, ::-1]) for window in data]
    assert any(flips) and not all(flips)
    assert all(np.array_equal(window, plain) for window, flip in zip(data, flips) if not flip)


MEMORY_FIELDS = [f"memory_data_param.{n}" for n in ("batch_size", "channels", "height", "width")]


@shows("MemoryData", *MEMORY_FIELDS)
def memory(folder: Path) -> None:
    settings = "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }"
    reader = open_layer("MemoryData", settings, folder)
    assert reader.shapes() == [(2, 3, 4, 5), (2,)]
    for shape in ((2, 1, 4, 5), (2, 3, 5, 5), (2, 3, 4, 4), (3, 3, 4, 5)):
        with pytest.raises(CaffeError):
            reader.add(np.zeros(shape), np.zeros(shape[0]))
    images = np.stack(images_of(4, (3, 4, 5)))
    reader.add(images, np.arange(4))
    reader.next()
    np.testing.assert_array_equal(reader.next()["data"], images[2:])


@shows("HDF5Data", *(f"hdf5_data_param.{name}" for name in ("source", "batch_size", "shuffle")))
def hdf5(folder: Path) -> None:
    import h5py

    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    with h5py.File(folder / "a.h5", "w") as file:
        file["data"], file["label"] = rows, rows[:, 0]
    (folder / "list.txt").write_text("a.h5\n")
    settings = 'hdf5_data_param { source: "list.txt" batch_size: 12 shuffle: %s }'
    plain = open_layer("HDF5Data", settings % "false", folder).next()
    np.testing.assert_array_equal(plain["data"], rows)
    mixed = open_layer("HDF5Data", settings % "true", folder).next()
    assert not np.array_equal(mixed["data"], rows)
    np.testing.assert_array_equal(mixed["data"][np.argsort(mixed["label"])], rows)


@shows("Dropout", "dropout_param.dropout_ratio")
def dropout(folder: Path) -> None:
    """A quarter is kept, and four times as large."""
    settings = "dropout_param { dropout_ratio: 0.75 }"
    net = build(parse_net(net_text("Dropout", settings, ((100, 100),)), "net"), folder, "TRAIN")
    y = net({"b0": torch.ones(100, 100)})["t0"]
    assert set(y.unique().tolist()) == {0.0, 4.0}
    # Five standard deviations of 10,000 tosses.
    assert abs(float((y > 0).double().mean()) - 0.25) < 0.022


@shows("Dropout", "dropout_param.sample_weights_test")
def dropout_in_test(folder: Path) -> None:
    """Masks in TEST, anew each time."""
    settings = "dropout_param { sample_weights_test: true }"
    net = build(parse_net(net_text("Dropout", settings, ((100, 100),)), "net"), folder)
    first, second = (net({"b0": torch.ones(100, 100)})["t0"] for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 2.0} and not torch.equal(first, second)


@shows("Dropout", "dropout_param.scale_train")
def dropout_scaled_in_test(folder: Path) -> None:
    """What is kept stays as it is, with a gradient of 1; in TEST all is multiplied by 1 - ratio."""
    settings = "dropout_param { dropout_ratio: 0.75 scale_train: false }"
    text = net_text("Dropout", settings, ((100, 100),))
    x = torch.full((100, 100), 3.0, requires_grad=True)
    y = build(parse_net(text, "net"), folder, "TRAIN")({"b0": x})["t0"]
    y.sum().backward()
    assert x.grad is not None and torch.equal(y, x * x.grad)
    assert set(y.unique().tolist()) == {0.0, 3.0}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y = build(parse_net(text, "net"), folder)({"b0": x})["t0"]
        assert torch.equal(y, torch.full_like(y, 0.75))


@shows("Eltwise", "eltwise_param.stable_prod_grad")
def product_gradient(folder: Path) -> None:
    """The unstable gradient is y / x · dy: NaN where a factor is 0."""
    for stable, wanted in (("true", 5.0), ("false", np.nan)):
        settings = f"eltwise_param {{ operation: PROD stable_prod_grad: {stable} }}"
        net = build(parse_net(net_text("Eltwise", settings, ((1,), (1,))), "net"), folder, "TRAIN")
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        net({"b0": x, "b1": torch.tensor([5.0])})["t0"].sum().backward()
        np.testing.assert_array_equal(x.grad, [wanted])


@shows("HDF5Output", "hdf5_output_param.file_name")
def hdf5_output(folder: Path) -> None:
    import h5py

    settings = f'hdf5_output_param {{ file_name: "{folder}/out.h5" }}'
    for shape in ((2, 3), (2, 1, 3), (2, 3, 1, 2)):
        net = build(parse_net(net_text("HDF5Output", settings, (shape, (2,)), 0), "net"), folder)
        data = np.arange(float(np.prod(shape))).reshape(shape)
        net({"b0": torch.from_numpy(data), "b1": torch.tensor([4.0, 5.0])})
        with h5py.File(folder / "out.h5") as file:
            # Caffe's num, channels, height and width.
            wanted = data.reshape(*shape, *(1,) * (4 - len(shape)))
            np.testing.assert_array_equal(file["data"][...], wanted, strict=True)
            np.testing.assert_array_equal(file["label"][...].tolist(), [[[[4.0]]], [[[5.0]]]])
