"""Fields of ImageSegData, DenseImageData and ImageLabelmapData."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from field_checks import images_of, open_layer, shows
from oracle import Array

from converters.environment import Environment
from converters.errors import CaffeError
from converters.prototxt.text import parse_net
from converters.readers import open_reader
from converters.records.mean import write_mean
from fork_fields import Change, Refused

SETTINGS = {
    "ImageSegData": "image_data_param",
    "DenseImageData": "dense_image_data_param",
    "ImageLabelmapData": "image_data_param",
}


def labels_of(number: int) -> list[Array]:
    """Maps whose values say where they are from, half of them 128 or more."""
    return [(np.arange(36).reshape(6, 6) * 7 + n).astype(np.uint8) for n in range(number)]


def write_pairs(folder: Path, number: int, prefix: str = "") -> None:
    import cv2

    lines = []
    for n, (image, labels) in enumerate(zip(images_of(number), labels_of(number))):
        cv2.imwrite(str(folder / f"{n}.png"), image.transpose(1, 2, 0))
        cv2.imwrite(str(folder / f"{n}-labels.png"), labels)
        lines.append(f"{n}.png {n}-labels.png\n")
    (folder / "list.txt").write_text("".join(lines))


def read(
    kind: str,
    folder: Path,
    number: int = 4,
    more: str = "",
    transform: str = "",
    phase: str = "TEST",
    batches: int = 1,
) -> tuple[Array, Array]:
    """Data and labels of one batch after another."""
    pixel = "label_type: PIXEL" if kind == "ImageSegData" and "label_type" not in more else ""
    source = "" if "source" in more else 'source: "list.txt"'
    settings = (
        f"{SETTINGS[kind]} {{ {source} batch_size: {number} {pixel} {more} }} "
        f"transform_param {{ {transform} }}"
    )
    reader = open_layer(kind, settings, folder, phase)
    found = [reader.next() for _ in range(batches)]
    return tuple(np.concatenate([one[name] for one in found]) for name in ("data", "label"))


def expected(kind: str, labels: list[Array]) -> Array:
    """What a type makes of maps of labels: (N, 1, H, W)."""
    values = np.stack(labels)[:, None]
    return (values >= 128 if kind == "ImageLabelmapData" else values).astype(np.float32)


def check_source(kind: str, folder: Path) -> None:
    write_pairs(folder, 6)
    data, labels = read(kind, folder)
    np.testing.assert_array_equal(data, images_of(6)[:4])
    np.testing.assert_array_equal(labels, expected(kind, labels_of(4)), strict=True)


def check_root(kind: str, folder: Path) -> None:
    (folder / "below").mkdir()
    write_pairs(folder / "below", 4)
    data, _ = read(kind, folder, more='source: "below/list.txt" root_folder: "below/"')
    np.testing.assert_array_equal(data, images_of(4))


def check_shuffle(kind: str, folder: Path) -> None:
    """Each epoch has every pair once, in an order of its own."""
    write_pairs(folder, 12)
    data, labels = read(kind, folder, 12, "shuffle: true", batches=2)
    orders = [
        [
            next(n for n, one in enumerate(images_of(12)) if np.array_equal(one, image))
            for image in half
        ]
        for half in (data[:12], data[12:])
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12)) and orders[0] != orders[1]
    maps = labels_of(12)
    np.testing.assert_array_equal(
        labels, expected(kind, [maps[n] for n in (*orders[0], *orders[1])])
    )


def check_skip(kind: str, folder: Path) -> None:
    write_pairs(folder, 40)
    data, _ = read(kind, folder, 2, "rand_skip: 30")
    first = next(n for n, one in enumerate(images_of(40)) if np.array_equal(one, data[0]))
    assert 0 < first < 30
    np.testing.assert_array_equal(data[1], images_of(40)[first + 1])


def check_resize(kind: str, folder: Path) -> None:
    """Twice the size: bilinear, but the labels of DenseImageData are their pixels, doubled."""
    import cv2

    write_pairs(folder, 1)
    data, labels = read(kind, folder, 1, "new_height: 12 new_width: 18")
    assert data.shape == (1, 3, 12, 18)
    np.testing.assert_array_equal(data[0][:, ::11, ::17], images_of(1)[0][:, ::5, ::5])
    doubled = np.kron(labels_of(1)[0], np.ones((2, 3)))
    between = cv2.resize(labels_of(1)[0], (18, 12))
    assert not np.array_equal(doubled, between)
    wanted = [doubled if kind == "DenseImageData" else between]
    np.testing.assert_array_equal(labels, expected(kind, wanted))


def check_gray(kind: str, folder: Path) -> None:
    write_pairs(folder, 1)
    data, _ = read(kind, folder, 1, "is_color: false")
    wanted = np.tensordot(np.array([0.114, 0.587, 0.299]), images_of(1)[0], 1)
    assert np.abs(data - wanted).max() <= 1


def check_values(kind: str, folder: Path) -> None:
    """Of the image alone."""
    write_pairs(folder, 2)
    transform = "scale: 0.5 mean_value: 1 mean_value: 20 mean_value: 3.5"
    data, labels = read(kind, folder, 2, "", transform)
    means = np.array([1, 20, 3.5], np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(data, (np.stack(images_of(2)) - means) * np.float32(0.5))
    np.testing.assert_array_equal(labels, expected(kind, labels_of(2)))


CROP = "crop_height: 3 crop_width: 4"


def cut(kind: str, folder: Path, mirror: bool, phase: str = "TRAIN") -> set[tuple[int, int, bool]]:
    """The windows that 40 batches have of one image; labels come from the same as its pixels."""
    write_pairs(folder, 1)
    crop = "crop_size: 4" if kind == "ImageLabelmapData" else CROP
    mirrored = "mirror: true" if mirror else ""
    inside = (f"{crop} {mirrored}", "") if kind == "DenseImageData" else ("", f"{crop} {mirrored}")
    data, labels = read(kind, folder, 1, *inside, phase, 40)
    (image,), (map_,) = images_of(1), labels_of(1)
    high = data.shape[2]
    seen = set()
    for one, label in zip(data, labels):
        fits = [
            (y, x, back)
            for y in range(7 - high)
            for x in range(3)
            for back in (False, True)
            if np.array_equal(one, image[:, y : y + high, x : x + 4][:, :, :: -1 if back else 1])
        ]
        ((y, x, back),) = fits
        window = map_[y : y + high, x : x + 4][:, :: -1 if back else 1]
        np.testing.assert_array_equal(label[None], expected(kind, [window]))
        seen.add((y, x, back))
    return seen


def check_crop(kind: str, folder: Path) -> None:
    """At random; in TEST the middle, of ImageSegData alone."""
    assert len(cut(kind, folder, False)) > 5
    in_test = cut(kind, folder, False, "TEST")
    assert in_test == {(1, 1, False)} if kind == "ImageSegData" else len(in_test) > 5


def check_mirror(kind: str, folder: Path) -> None:
    assert {back for *_, back in cut(kind, folder, True)} == {False, True}


def check_mean_file(kind: str, folder: Path) -> None:
    """Of the crop's size for DenseImageData, else read at the uncropped position."""
    write_pairs(folder, 1)
    dense = kind == "DenseImageData"
    mean = images_of(1, (3, 3, 4) if dense else (3, 6, 6))[0].astype(np.float32) / 3
    write_mean(folder / "mean.binaryproto", mean)
    more, transform = (CROP, "") if dense else ("", "crop_size: 4")
    plain, _ = read(kind, folder, 1, more, transform)
    less, _ = read(kind, folder, 1, more, f'{transform} mean_file: "mean.binaryproto"')
    (image,) = images_of(1)
    found = [
        mean if dense else mean[:, y : y + 4, x : x + 4]
        for y in range(4)
        for x in range(3)
        if np.array_equal(plain[0], image[:, y : y + plain.shape[2], x : x + 4])
    ]
    np.testing.assert_array_equal(less[0], plain[0] - found[0])


CHECKS: list[tuple[Callable[[str, Path], None], str]] = [
    (check_source, "source batch_size"),
    (check_root, "root_folder"),
    (check_shuffle, "shuffle"),
    (check_skip, "rand_skip"),
    (check_resize, "new_height new_width"),
    (check_gray, "is_color"),
]
for _kind, _message in SETTINGS.items():
    _all = [(check, f"{_message}.{name}") for check, names in CHECKS for name in names.split()]
    _all += [(check_values, f"transform_param.{name}") for name in ("scale", "mean_value")]
    _own = _message if _kind == "DenseImageData" else "transform_param"
    _all += [(check_mirror, f"{_own}.mirror")]
    _sizes = ["crop_size"] if _kind == "ImageLabelmapData" else ["crop_height", "crop_width"]
    _all += [(check_crop, f"{_own}.{name}") for name in _sizes]
    if _kind != "ImageSegData":
        _all += [(check_mean_file, "transform_param.mean_file")]
    for _check, _path in _all:
        shows(_kind, _path)(lambda folder, kind=_kind, check=_check: check(kind, folder))


@shows("DenseImageData", "dense_image_data_param.label_divide_factor")
def smaller_labels(folder: Path) -> None:
    """Resized to a part of the images' size, or so in their files."""
    import cv2

    write_pairs(folder, 1)
    factor = "label_divide_factor: 2"
    _, labels = read("DenseImageData", folder, 1, f"{factor} new_height: 6 new_width: 6")
    np.testing.assert_array_equal(labels, labels_of(1)[0][None, None, ::2, ::2])
    with pytest.raises(CaffeError, match=r"its labels 0-labels.png 6×6, not 3×3"):
        read("DenseImageData", folder, 1, factor)
    cv2.imwrite(str(folder / "0-labels.png"), labels_of(1)[0][:3, :3])
    data, labels = read("DenseImageData", folder, 1, factor)
    assert data.shape[2:] == (6, 6)
    np.testing.assert_array_equal(labels[0, 0], labels_of(1)[0][:3, :3])


@shows("ImageSegData", "transform_param.crop_size")
def square_crop(folder: Path) -> None:
    write_pairs(folder, 1)
    data, labels = read("ImageSegData", folder, 1, transform="crop_size: 4")
    np.testing.assert_array_equal(data[0], images_of(1)[0][:, 1:5, 1:5])
    np.testing.assert_array_equal(labels[0, 0], labels_of(1)[0][1:5, 1:5])
    with pytest.raises(CaffeError, match="give crop_size, or both"):
        read("ImageSegData", folder, 1, transform="crop_size: 4 crop_width: 4 crop_height: 4")


@shows("ImageSegData", "image_data_param.label_type", "image_data_param.ignore_label")
def kinds_of_labels(folder: Path) -> None:
    """One label for all pixels, or none; and what lies beyond the image, with the mean there."""
    write_pairs(folder, 1)
    (folder / "list.txt").write_text("0.png 7\n")
    _, one = read("ImageSegData", folder, 1, "label_type: IMAGE")
    assert (one == 7).all() and one.shape == (1, 1, 6, 6)
    _, none = read("ImageSegData", folder, 1, "label_type: NONE")
    assert (none == 255).all()
    data, labels = read(
        "ImageSegData",
        folder,
        1,
        "label_type: IMAGE ignore_label: 9",
        "crop_height: 8 crop_width: 7 mean_value: 5",
    )
    assert (labels[0, 0, :6, :6] == 7).all() and labels.sum() == 36 * 7 + (8 * 7 - 36) * 9
    np.testing.assert_array_equal(data[0, :, :6, :6], images_of(1)[0].astype(np.float32) - 5)
    assert not data[0, :, 6:].any() and not data[0, :, :, 6:].any()


@shows("ImageSegData", "transform_param.scale_factors")
def scaled(folder: Path) -> None:
    """Each as likely; labels are pixels and no means of them. The third top has the old size."""
    import cv2

    write_pairs(folder, 1)
    text = (
        'layer { name: "layer" type: "ImageSegData" top: "data" top: "label" top: "size" '
        'image_data_param { source: "list.txt" batch_size: 100 label_type: PIXEL } '
        "transform_param { scale_factors: 0.5 scale_factors: 1.25 crop_size: 8 } }"
    )
    environment = Environment(str(folder / "net.prototxt"), "TEST", str(folder))
    reader = open_reader(parse_net(text, "net.prototxt").layer[0], environment, 1)
    assert reader.shapes() == [(100, 3, 8, 8), (100, 1, 8, 8), (100, 1, 1, 2)]
    batch = reader.next()
    assert (batch["size"] == 6).all() and batch["size"].shape == (100, 1, 1, 2)
    sides = []
    for data, label in zip(batch["data"], batch["label"]):
        side = int((label[0, 0] != 255).sum())
        sides.append(side)
        image = cv2.resize(images_of(1)[0].transpose(1, 2, 0), (side, side))
        np.testing.assert_array_equal(data[:, :side, :side], image.transpose(2, 0, 1))
        nearest = cv2.resize(labels_of(1)[0], (side, side), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(label[0, :side, :side], nearest)
    # Five standard deviations of 100 tosses.
    assert set(sides) == {3, 7} and abs(sides.count(3) - 50) < 25


def check_unchanged(kind: str, folder: Path, change: Change) -> None:
    write_pairs(folder, 2)
    pixel = "label_type: PIXEL" if kind == "ImageSegData" else ""
    layer = parse_net(
        f'layer {{ name: "l" type: "{kind}" top: "data" top: "label" '
        f'{SETTINGS[kind]} {{ source: "list.txt" batch_size: 2 {pixel} }} }}',
        "net.prototxt",
    )
    change(layer)
    environment = Environment(str(folder / "net.prototxt"), "TEST", str(folder))
    batch = open_reader(layer.layer[0], environment, 1).next()
    np.testing.assert_array_equal(batch["data"], images_of(2))
    np.testing.assert_array_equal(batch["label"], expected(kind, labels_of(2)))


UNCHANGED = {
    kind: lambda folder, change, kind=kind: check_unchanged(kind, folder, change)
    for kind in SETTINGS
}


def with_mean(folder: Path) -> None:
    write_pairs(folder, 1)
    write_mean(folder / "mean.binaryproto", np.zeros((3, 6, 6), np.float32))


DENSE = 'dense_image_data_param { source: "list.txt" batch_size: 1 }'
REFUSED = {
    ("ImageSegData", "transform_param.mean_file"): Refused(
        'image_data_param { source: "list.txt" batch_size: 1 label_type: PIXEL } '
        'transform_param { mean_file: "mean.binaryproto" }',
        (),
        "takes mean_value, and no mean_file",
        2,
        with_mean,
    ),
    ("DenseImageData", "transform_param.mirror"): Refused(
        f"{DENSE} transform_param {{ mirror: true }}",
        (),
        "transform_param.mirror would change images without their labels",
        2,
        with_mean,
    ),
    ("DenseImageData", "transform_param.crop_size"): Refused(
        f"{DENSE} transform_param {{ crop_size: 4 }}",
        (),
        "transform_param.crop_size would change images without their labels",
        2,
        with_mean,
    ),
}
