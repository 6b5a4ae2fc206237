"""Caffe's data transformation of whole batches against its definition, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.errors import CaffeError
from converters.proto import caffe_pb2 as pb
from converters.readers.transform import Transform
from converters.records.mean import write_mean


def make(phase: str = "TEST", **fields: object) -> Transform:
    return Transform(pb.TransformationParameter(**fields), phase, CaffeError, Path)


def images_of(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    values = np.random.default_rng(7).integers(0, 256, shape)
    return values.astype(dtype)


def naive(
    image: np.ndarray, param: pb.TransformationParameter, mean: np.ndarray, place: tuple[int, ...]
) -> np.ndarray:
    """One image at `place` (top, left, mirrored), each pixel on its own, in float32."""
    top, left, mirrored = place
    height = width = param.crop_size
    if not param.crop_size:
        height, width = image.shape[1:]
    out = np.empty((len(image), height, width), np.float32)
    for c, y, x in np.ndindex(out.shape):
        pixel = np.float32(image[c, top + y, left + x]) - mean[c, top + y, left + x]
        out[c, y, width - 1 - x if mirrored else x] = pixel * np.float32(param.scale)
    return out


def check(transform: Transform, images: np.ndarray, mean: np.ndarray) -> set[tuple[int, ...]]:
    """Each result is its image at exactly one place; the places that occurred."""
    param = transform.param
    before = [image.copy() for image in images]
    results = transform(images, np.random.default_rng(3))
    assert results.dtype == np.float32 and len(results) == len(images)
    assert all(np.array_equal(a, b) for a, b in zip(images, before, strict=True))
    seen = set()
    for image, result in zip(images, results, strict=True):
        room = [n - param.crop_size if param.crop_size else 0 for n in image.shape[1:]]
        corners = [(y, x) for y in range(room[0] + 1) for x in range(room[1] + 1)]
        if not transform.train:
            corners = [(room[0] // 2, room[1] // 2)]
        places = [(y, x, m) for y, x in corners for m in range(1 + param.mirror)]
        found = [p for p in places if np.array_equal(naive(image, param, mean, p), result)]
        assert len(found) == 1
        seen.update(found)
    return seen


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("crop", "width"), [(0, 5), (0, 8), (3, 6), (8, 10)])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("mean", ["none", "one", "channels", "file", "large file"])
def test_every_pixel(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mean: str,
    phase: str,
    mirror: bool,
    crop: int,
    width: int,
    dtype: type,
) -> None:
    """Widths of 8 take another path for mirroring bytes than those of 3 and 5.

    The windows of a large mean file are cut out for each batch. The images are never square.
    """
    if mean == "large file":
        monkeypatch.setattr("converters.readers.transform.LARGEST_TABLE", 0)
    height = max(crop, 4) + 1
    images = images_of(60, 2, height, width, dtype=dtype)
    whole = np.zeros(images.shape[1:], np.float32)
    fields: dict[str, object] = {}
    if mean == "one":
        fields, whole[:] = {"mean_value": [3.7]}, 3.7
    elif mean == "channels":
        fields, whole[:] = {"mean_value": [3.7, 90]}, np.float32([[[3.7]], [[90]]])
    elif "file" in mean:
        whole = np.random.default_rng(1).uniform(0, 200, whole.shape).astype(np.float32)
        write_mean(tmp_path / "mean", whole)
        fields = {"mean_file": str(tmp_path / "mean")}
    transform = make(phase, crop_size=crop, mirror=mirror, scale=0.7, **fields)
    seen = check(transform, images, whole)
    rooms = (height - crop + 1) * (width - crop + 1) if crop and phase == "TRAIN" else 1
    # 60 draws of at most 24 places: most of them, and both sides, must occur.
    assert rooms * (1 + mirror) * 0.7 <= len(seen) <= rooms * (1 + mirror)


@pytest.mark.parametrize("mean", ["none", "one", "channels", "file"])
@pytest.mark.parametrize("crop", [0, 4])
def test_undone_they_are_the_pixels_that_the_net_saw(tmp_path: Path, mean: str, crop: int) -> None:
    images = images_of(3, 2, 7, 10)
    write_mean(tmp_path / "mean", np.random.default_rng(1).uniform(0, 200, (2, 7, 10)))
    fields: dict[str, object] = {
        "none": {},
        "one": {"mean_value": [3.7]},
        "channels": {"mean_value": [3.7, 90]},
        "file": {"mean_file": str(tmp_path / "mean")},
    }[mean]
    transform = make(crop_size=crop, scale=0.013, **fields)
    pixels = transform.undo(transform(images, np.random.default_rng(0)))
    seen = images[:, :, 1:5, 3:7] if crop else images
    assert pixels.dtype == np.float32 and pixels.shape == seen.shape
    # float32 of values up to 255, rounded four times: 2^-16 each.
    np.testing.assert_allclose(pixels, seen, atol=1e-4)


def test_images_of_several_sizes_become_crops() -> None:
    images = [images_of(1, 5 + i % 3, 6 + i % 2) for i in range(30)]
    mean = np.zeros((1, 9, 9), np.float32)
    results = make("TRAIN", crop_size=4, mirror=True)(images, np.random.default_rng(3))
    assert results.shape == (30, 1, 4, 4)
    assert len(check(make("TRAIN", crop_size=4, mirror=True), images, mean)) > 8
    check(make("TEST", crop_size=4), images, mean)


def test_bytes_and_floats_may_be_in_one_batch() -> None:
    images = [images_of(1, 4, 4), images_of(1, 5, 5).astype(np.float32) + np.float32(0.25)]
    results = make(crop_size=4)(images, np.random.default_rng(0))
    np.testing.assert_array_equal(results[1], images[1][:, :4, :4])


def test_the_same_generator_gives_the_same_batch() -> None:
    images = images_of(9, 3, 12, 12)
    transform = make("TRAIN", crop_size=8, mirror=True)
    first, second = (transform(images, np.random.default_rng(5)) for _ in range(2))
    other = transform(images, np.random.default_rng(6))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_result_is_no_view_of_float_images() -> None:
    images = images_of(2, 1, 3, 3, dtype=np.float32)
    assert not np.shares_memory(make()(images, np.random.default_rng(0)), images)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"crop_size": 7}, "crop_size 7 is larger than the image 6×8"),
        ({"mean_value": [1, 2]}, "has 2 mean_value for 3 channels"),
        ({"mean_value": [1], "mean_file": "m"}, "not both"),
        ({"force_color": True, "force_gray": True}, "not both"),
        ({"mean_file": "nowhere"}, "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(CaffeError, match=says):
        make(**fields)(images_of(2, 3, 6, 8), np.random.default_rng(0))


def test_a_mean_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_mean(tmp_path / "mean", np.zeros((3, 5, 5), np.float32))
    transform = make(mean_file=str(tmp_path / "mean"))
    with pytest.raises(CaffeError, match=r"\(3, 5, 5\), the images \(3, 6, 8\)"):
        transform(images_of(2, 3, 6, 8), np.random.default_rng(0))


def test_images_that_differ_are_refused() -> None:
    one, other = images_of(1, 6, 6), images_of(1, 6, 7)
    with pytest.raises(CaffeError, match=r"\(1, 6, 6\) and \(1, 6, 7\); they need crop_size"):
        make()([one, other], np.random.default_rng(0))
    with pytest.raises(CaffeError, match="not channels"):
        make(crop_size=4)([one, images_of(3, 6, 6)], np.random.default_rng(0))
