"""Data layers against real Caffe: transformations, order, wrap-around; and exact resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.environment import Environment
from converters.errors import CaffeError
from converters.prototxt.text import parse_net, read_net
from converters.readers import Reader, open_reader
from converters.readers.transform import Transform

GOLDEN = Path(__file__).parent / "golden"
DATA = sorted(path.name for path in (GOLDEN / "data").iterdir())
IMAGES = GOLDEN / "imageset"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are tried from the working directory first: no file there may take a case's place."""
    monkeypatch.chdir(tmp_path)


def open_net(path: Path, phase: str = "TEST", seed: int | None = 1) -> Reader:
    layer = read_net(path).layer[0]
    return open_reader(layer, Environment(str(path), phase, str(path.parent)), seed)


def check_batches(reader: Reader, arrays: dict[str, np.ndarray], prefix: str = "") -> int:
    count = 0
    while any(key.startswith(f"{prefix}batch{count}/") for key in arrays):
        batch = reader.next()
        for name, array in batch.items():
            golden = arrays[f"{prefix}batch{count}/{name}"]
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, golden)
        count += 1
    return count


def test_all_cases_are_here() -> None:
    assert len(DATA) == 6


@pytest.mark.parametrize("name", DATA)
def test_data_golden(name: str) -> None:
    reader = open_net(GOLDEN / "data" / name / "net.prototxt")
    arrays = dict(np.load(GOLDEN / "data" / name / "golden.npz"))
    shapes = dict(zip(reader.param.top, reader.shapes()))
    assert all(arrays[f"batch0/{top}"].shape == shape for top, shape in shapes.items())
    assert check_batches(reader, arrays) == 4


@pytest.mark.parametrize("name", ["imagedata", "encoded"])
def test_imageset_golden(name: str) -> None:
    arrays = dict(np.load(IMAGES / "golden.npz"))
    assert check_batches(open_net(IMAGES / f"{name}.prototxt"), arrays, f"{name}/") == 3


AUGMENTED = """layer { name: "d" type: "Data" top: "data" top: "label"
  transform_param { crop_size: 24 mirror: true mean_value: 100 scale: 0.5 }
  data_param { source: "lmdb" batch_size: 7 backend: LMDB } }"""
SHUFFLED = """layer { name: "d" type: "ImageData" top: "data" top: "label"
  transform_param { crop_size: 9 mirror: true }
  image_data_param { source: "list.txt" root_folder: "images/" batch_size: 4 shuffle: true
    new_height: 14 new_width: 12 } }"""
SHUFFLED_HDF5 = """layer { name: "d" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "list.txt" batch_size: 4 shuffle: true } }"""


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        (AUGMENTED, GOLDEN / "data" / "data_mean_value_crop"),
        (SHUFFLED, IMAGES),
        (SHUFFLED_HDF5, GOLDEN / "data" / "data_hdf5"),
    ],
)
def test_a_restored_reader_goes_on_exactly(text: str, folder: Path) -> None:
    layer = parse_net(text).layer[0]
    first = open_reader(layer, Environment("net", "TRAIN", str(folder)), seed=5)
    for _ in range(5):
        first.next()
    second = open_reader(layer, Environment("net", "TRAIN", str(folder)), seed=99)
    second.restore(first.state())
    for _ in range(7):
        one, other = first.next(), second.next()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_shuffled_images_are_all_there_each_epoch() -> None:
    layer = parse_net(SHUFFLED.replace("batch_size: 4", "batch_size: 6")).layer[0]
    reader = open_reader(layer, Environment("net", "TRAIN", str(IMAGES)), seed=3)
    epochs = [reader.next()["label"].tolist() for _ in range(6)]
    plain = sorted(int(line.split()[-1]) for line in (IMAGES / "list.txt").read_text().splitlines())
    assert all(sorted(epoch) == plain[:6] or len(plain) != 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def _transform(text: str, phase: str = "TRAIN") -> Transform:
    param = parse_net(f'layer {{ name: "d" type: "Data" transform_param {{ {text} }} }}').layer[0]
    return Transform(param.transform_param, phase, CaffeError, Path)


def test_crops_and_mirrors_are_those_of_naive_loops() -> None:
    """Every transformed image is a window of its image, mirrored or not; all places occur."""
    images = np.arange(400 * 2 * 5 * 6, dtype=np.int64).reshape(400, 2, 5, 6) % 251
    images = images.astype(np.uint8)
    out = _transform("crop_size: 4 mirror: true mean_value: 3 mean_value: 7 scale: 0.25")(
        images, np.random.default_rng(0)
    )
    seen = set()
    for image, result in zip(images, out):
        matches = []
        for top in range(2):
            for left in range(3):
                for flip in (1, -1):
                    window = image[:, top : top + 4, left : left + 4][:, :, ::flip]
                    wanted = (window.astype(np.float32) - np.float32([[[3]], [[7]]])) * 0.25
                    if np.array_equal(wanted, result):
                        matches.append((top, left, flip))
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 12


def test_a_random_crop_takes_the_mean_of_its_place() -> None:
    transform = _transform("crop_size: 3")
    transform.mean = np.random.default_rng(1).random((1, 6, 6)).astype(np.float32)
    images = np.repeat(transform.mean[None] * 2, 50, 0)
    out = transform(images, np.random.default_rng(2))
    windows = {
        transform.mean[0, y : y + 3, x : x + 3].tobytes() for y in range(4) for x in range(4)
    }
    assert {result[0].tobytes() for result in out} <= windows


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (AUGMENTED.replace("crop_size: 24", "crop_size: 99"), "crop_size 99"),
        (AUGMENTED.replace("mean_value: 100", "mean_value: 1 mean_value: 2"), "2 mean_value"),
        (AUGMENTED.replace("mean_value: 100", 'mean_value: 1 mean_file: "m"'), "not both"),
        (AUGMENTED.replace('"lmdb"', '"nowhere"'), "nowhere does not exist"),
        (AUGMENTED.replace("batch_size: 7", "batch_size: 0"), "batch_size 0"),
    ],
)
def test_bad_settings_are_refused(text: str, says: str) -> None:
    folder = GOLDEN / "data" / "data_mean_value_crop"
    with pytest.raises(CaffeError, match=says):
        open_reader(parse_net(text).layer[0], Environment("net", "TRAIN", str(folder))).shapes()
