"""Fields of AnnotatedData: records with boxes, and what is done to both before the net.

The boxes' oracle is the image itself: a rectangle in a colour that nothing else has, found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from annotated_case import Box, picture, record, write_database
from field_checks import images_of, open_layer, shows
from oracle import Array

from converters.readers import Reader

KIND = "AnnotatedData"
WHITE = 255
NEAREST = "interp_mode: NEAREST"


def opened(folder: Path, settings: str = "", batch: int = 1, phase: str = "TRAIN") -> Reader:
    source = f'data_param {{ source: "db" batch_size: {batch} }}'
    return open_layer(KIND, f"{source} {settings}", folder, phase)


def rows_of(reader: Reader) -> tuple[Array, Array]:
    """The next batch: images, and ground truth (M, 8)."""
    batch = reader.next()
    assert batch["label"].shape[:2] == (1, 1) and batch["label"].shape[3] == 8
    return batch["data"], batch["label"][0, 0]


def painted(height: int, width: int, *boxes: Box) -> Array:
    """A dark image with a white rectangle for each box (which lie on whole pixels)."""
    image = picture(height, width) // 4
    for _, xmin, ymin, xmax, ymax in boxes:
        rows = slice(round(ymin * height), round(ymax * height))
        image[:, rows, round(xmin * width) : round(xmax * width)] = WHITE
    return image


def write_painted(folder: Path, sizes: Sequence[tuple[int, int]], *boxes: Box) -> None:
    write_database(folder, [record(painted(*size, *boxes), boxes) for size in sizes])


def white_box(image: Array) -> Array:
    """Where the white pixels of an image (C, H, W) are, as xmin, ymin, xmax, ymax in its parts."""
    down, across = np.nonzero((image > 200).all(axis=0))
    height, width = image.shape[1:]
    return np.array(
        [
            across.min() / width,
            down.min() / height,
            (across.max() + 1) / width,
            (down.max() + 1) / height,
        ]
    )


BOX: Box = (3, 0.25, 0.25, 0.5, 0.75)


@shows(KIND, "data_param.source", "data_param.batch_size")
def annotated_records(folder: Path) -> None:
    """Rows by image and group; after the last record comes the first; without a box a row of -1."""
    images = [picture(8, 12, seed) for seed in range(3)]
    boxes = [[(2, 0.25, 0.5, 0.5, 1.0), (1, 0.0, 0.0, 0.5, 0.25)], [], [(4, 0.0, 0.25, 1.0, 0.5)]]
    hard = [record(images[2], boxes[2], difficult=True)]
    write_database(folder, [*map(record, images[:2], boxes[:2]), *hard])
    reader = opened(folder, batch=2)
    data, rows = rows_of(reader)
    np.testing.assert_array_equal(data, images[:2])
    np.testing.assert_array_equal(
        rows, [[0, 2, 0, 0.25, 0.5, 0.5, 1, 0], [0, 1, 1, 0, 0, 0.5, 0.25, 0]]
    )
    data, rows = rows_of(reader)
    np.testing.assert_array_equal(data, [images[2], images[0]])
    np.testing.assert_array_equal(rows[:, 0], [0, 1, 1])
    np.testing.assert_array_equal(rows[0, 1:], [4, 0, 0, 0.25, 1, 0.5, 1])
    alone = opened(folder)
    rows_of(alone)
    np.testing.assert_array_equal(rows_of(alone)[1], [[-1] * 8])


@shows(KIND, "data_param.shuffle")
def annotated_shuffle(folder: Path) -> None:
    write_database(folder, [record(picture(4, 4), [(n, 0, 0, 1, 1)]) for n in range(12)])
    shuffled = 'data_param { source: "db" batch_size: 12 shuffle: true }'
    reader = open_layer(KIND, shuffled, folder)
    first, second = (rows_of(reader)[1][:, 1].astype(int).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second and first != list(range(12))


@shows(KIND, "annotated_data_param.anno_type")
def annotated_type(folder: Path) -> None:
    """Records that tell no type have labels, unless the layer tells it."""
    write_database(folder, [record(picture(4, 4), [BOX], False, label=5)])
    np.testing.assert_array_equal(opened(folder).next()["label"], [5])
    _, rows = rows_of(opened(folder, "annotated_data_param { anno_type: BBOX }"))
    np.testing.assert_array_equal(rows, [[0, 3, 0, 0.25, 0.25, 0.5, 0.75, 0]])


@shows(KIND, "transform_param.resize_param")
def annotated_resize(folder: Path) -> None:
    """In each mode the box is where its pixels are."""
    write_painted(folder, [(40, 80), (80, 40), (64, 64)], BOX)
    warp = f"resize_param {{ height: 32 width: 64 {NEAREST} }}"
    data, rows = rows_of(opened(folder, f"transform_param {{ {warp} }}", 3))
    assert data.shape == (3, 3, 32, 64)
    np.testing.assert_array_equal(rows[:, 3:7], [BOX[1:]] * 3)
    for image in data:
        np.testing.assert_allclose(white_box(image), BOX[1:], atol=1 / 32)
    pad = "resize_mode: FIT_LARGE_SIZE_AND_PAD pad_value: 1 pad_value: 2 pad_value: 3"
    fit = f"resize_param {{ height: 60 width: 60 {NEAREST} {pad} }}"
    data, rows = rows_of(opened(folder, f"transform_param {{ {fit} }}", 3))
    np.testing.assert_array_equal(data[0, :, 14], np.repeat([[1], [2], [3]], 60, 1))
    np.testing.assert_array_equal(data[1, :, :, 45], np.repeat([[1], [2], [3]], 60, 1))
    np.testing.assert_allclose(rows[0, 3:7], [0.25, 0.375, 0.5, 0.625])
    np.testing.assert_allclose(rows[1, 3:7], [0.375, 0.25, 0.5, 0.75])
    for image, row in zip(data, rows):
        np.testing.assert_allclose(white_box(image), row[3:7], atol=1 / 60)
    small = f"resize_param {{ height: 20 width: 20 {NEAREST} resize_mode: FIT_SMALL_SIZE }}"
    reader = opened(folder, f"transform_param {{ {small} }}")
    for shape in ((1, 3, 20, 40), (1, 3, 40, 20), (1, 3, 20, 20)):
        data, rows = rows_of(reader)
        assert data.shape == shape
        np.testing.assert_allclose(rows[0, 3:7], BOX[1:], rtol=1e-6)
        np.testing.assert_allclose(white_box(data[0]), rows[0, 3:7], atol=1 / 20)


@shows(KIND, "transform_param.crop_h", "transform_param.crop_w")
def annotated_crop(folder: Path) -> None:
    """In TEST the middle, in TRAIN anywhere; the box follows, and is cut off with its image."""
    write_painted(folder, [(32, 64)] * 8, BOX)
    crop = "transform_param { crop_h: 24 crop_w: 48 }"
    data, rows = rows_of(opened(folder, crop, 8, "TEST"))
    assert data.shape == (8, 3, 24, 48)
    np.testing.assert_allclose(rows[:, 3:7], [[8 / 48, 4 / 24, 24 / 48, 20 / 24]] * 8, rtol=1e-6)
    data, rows = rows_of(opened(folder, crop, 8))
    assert len({row[3:7].tobytes() for row in rows}) > 4
    for image, row in zip(data, rows, strict=True):
        np.testing.assert_allclose(white_box(image), row[3:7], atol=1e-6)


@shows(KIND, "transform_param.emit_constraint")
def annotated_emit(folder: Path) -> None:
    """Of boxes that are cut those stay whose centre, or a part that is large enough, is inside."""
    boxes = [(1, 0.0, 0.25, 0.375, 0.75), (2, 0.125, 0.25, 0.5, 0.75), (3, 0.25, 0.25, 0.5, 0.5)]
    write_database(folder, [record(picture(16, 16), boxes)])

    def kept(emit: str) -> list[int]:
        crop = f"transform_param {{ crop_size: 8 {emit} }}"
        return rows_of(opened(folder, crop, phase="TEST"))[1][:, 1].astype(int).tolist()

    # The window is 0.25 … 0.75: it has 1/3 of the first box, 2/3 of the second, all of the third.
    assert kept("") == [1, 2, 3]
    assert kept("emit_constraint { }") == kept("emit_constraint { emit_type: CENTER }") == [2, 3]
    overlap = "emit_constraint { emit_type: MIN_OVERLAP emit_overlap: %s }"
    assert kept(overlap % 0.3) == [1, 2, 3]
    assert kept(overlap % 0.5) == [2, 3]
    assert kept(overlap % 0.7) == [3]


@shows(KIND, "transform_param.expand_param")
def annotated_expand(folder: Path) -> None:
    """On a canvas of the mean's colour: sizes, places and how often, by their distribution."""
    write_painted(folder, [(32, 32)], BOX)
    sides, places = [], []
    reader = opened(
        folder,
        "transform_param { mean_value: 10 mean_value: 20.5 mean_value: 30 "
        "expand_param { prob: 0.75 max_expand_ratio: 3 } }",
    )
    for _ in range(400):
        data, rows = rows_of(reader)
        side = data.shape[2]
        np.testing.assert_allclose(white_box(data[0] + 40), rows[0, 3:7], atol=1e-6)
        if side > 32:
            canvas = (data[0] == np.array([0, -0.5, 0]).reshape(3, 1, 1)).all(axis=0)
            assert canvas.sum() >= side**2 - 32**2
            sides.append(side / 32)
            left = rows[0, 3] * side - 8
            places.append((left + 0.5) / (side - 32))
    # Standard errors: 0.022 of a share of 0.75, 0.033 of a mean between 1 and 3, 0.017 of a place.
    assert abs(len(sides) / 400 - 0.75) < 0.08
    assert abs(np.mean(sides) - 2) < 0.15 and min(sides) < 1.1 and max(sides) > 2.9
    assert abs(np.mean(places) - 0.5) < 0.07 and abs(np.std(places) - 12**-0.5) < 0.05


@shows(KIND, "annotated_data_param.batch_sampler")
def annotated_samplers(folder: Path) -> None:
    """Windows as the sampler says, boxes cut with them; a constraint that none meets: the whole."""
    write_painted(folder, [(64, 64)], (1, 0.25, 0.25, 0.5, 0.75))
    sampler = "sampler { min_scale: 0.5 max_scale: 0.9 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }"

    def settings(constraint: str, more: str = "max_sample: 1") -> str:
        return (
            f"annotated_data_param {{ batch_sampler {{ {sampler} {more} "
            f"sample_constraint {{ {constraint} }} }} }}"
        )

    areas = []
    reader = opened(folder, settings(""))
    for _ in range(200):
        data, rows = rows_of(reader)
        height, width = data.shape[2:]
        assert 0.45 < width / height < 2.2
        areas.append(height * width / 64**2)
        if (data > 200).all(axis=1).any():
            # A window's place and its size each lose a part of a pixel.
            two = 2 / min(height, width)
            np.testing.assert_allclose(white_box(data[0]), rows[0, 3:7], atol=two)
        else:
            assert rows[0, 0] == -1 or (rows[0, 5:7] - rows[0, 3:5]).min() < 2 / 22
    # The mean of scale² for scales from 0.5 to 0.9, less what whole pixels take.
    assert abs(np.mean(areas) - (0.9**3 - 0.5**3) / 3 / 0.4) < 0.05
    for constraint, fits in (
        ("min_jaccard_overlap: 0.3", lambda shared, window: shared / (window + 1 / 8 - shared)),
        ("min_object_coverage: 0.8", lambda shared, window: shared * 8),
        ("min_sample_coverage: 0.3", lambda shared, window: shared / window),
    ):
        least = float(constraint.split()[1])
        reader = opened(folder, settings(constraint))
        for _ in range(40):
            data, rows = rows_of(reader)
            sides = rows[0, 5:7] - rows[0, 3:5]
            window = data.shape[2] * data.shape[3] / 64**2
            assert fits(float(sides.prod()) * window, window) > least - 0.05
    for none in (settings("min_object_coverage: 2"), settings("", "use_original_image: false")):
        assert rows_of(opened(folder, none))[0].shape == (1, 3, 64, 64)


@shows(KIND, "transform_param.distort_param")
def annotated_distort(folder: Path) -> None:
    """Each change by its own formula, as often and as strong as it is asked for."""
    image = np.full((3, 2, 2), 100, np.uint8)
    image[:, 0, 0] = 20, 60, 200  # blue, green, red
    write_database(folder, [record(image, [BOX])])

    def found(settings: str) -> list[Array]:
        reader = opened(folder, f"transform_param {{ distort_param {{ {settings} }} }}")
        return [rows_of(reader)[0][0] for _ in range(300)]

    assert all(np.array_equal(one, image) for one in found(""))
    shifts = [one[:, 1, 1] - 100 for one in found("brightness_prob: 0.5 brightness_delta: 32")]
    assert all(len(set(shift)) == 1 for shift in shifts)
    moved = [shift[0] for shift in shifts if shift[0]]
    assert 0.4 < len(moved) / 300 < 0.6 and min(moved) < -28 and max(moved) > 28
    assert abs(np.mean(moved)) < 6
    contrasts = found("contrast_prob: 1 contrast_lower: 0.5 contrast_upper: 1.5")
    factors = np.array([one[0, 1, 1] / 100 for one in contrasts])
    assert factors.min() < 0.55 and factors.max() > 1.45 and abs(factors.mean() - 1) < 0.07
    for one, factor in zip(contrasts, factors):
        wanted = np.minimum([20 * factor, 60 * factor, 200 * factor], 255)
        np.testing.assert_allclose(one[:, 0, 0], wanted, atol=2)
    for one in found("saturation_prob: 1 saturation_lower: 0 saturation_upper: 0"):
        np.testing.assert_allclose(one[:, 0, 0], 200, atol=1)  # gray of the brightest channel
        np.testing.assert_array_equal(one[:, 1, 1], 100)
    hues = found("hue_prob: 1 hue_delta: 18")
    assert all(np.array_equal(one[:, 1, 1], [100] * 3) for one in hues)  # gray has none
    for one in hues:
        assert abs(one[:, 0, 0].max() - 200) <= 1 and abs(one[:, 0, 0].min() - 20) <= 2
    assert len({one.tobytes() for one in hues}) > 20
    orders = [tuple(one[:, 0, 0]) for one in found("random_order_prob: 1")]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and min(counts) > 25


@shows(KIND, "transform_param.force_color", "transform_param.force_gray")
def annotated_force(folder: Path) -> None:
    import cv2

    from converters.proto import caffe_pb2 as pb

    pixels = images_of(1, (5, 5, 3))[0]
    message = pb.AnnotatedDatum.FromString(record(picture(5, 5), [BOX]))
    message.datum.data = cv2.imencode(".png", pixels)[1].tobytes()
    message.datum.encoded = True
    gray = pb.AnnotatedDatum.FromString(message.SerializeToString())
    gray.datum.data = cv2.imencode(".png", pixels[..., 0])[1].tobytes()
    write_database(folder, [message.SerializeToString(), gray.SerializeToString()])
    data, _ = rows_of(opened(folder, "transform_param { force_color: true }", 2))
    np.testing.assert_array_equal(
        data, [pixels.transpose(2, 0, 1), np.repeat(pixels[None, ..., 0], 3, 0)]
    )
    data, _ = rows_of(opened(folder, "transform_param { force_gray: true }", 2))
    assert data.shape == (2, 1, 5, 5)
    np.testing.assert_array_equal(data[1, 0], pixels[..., 0])
