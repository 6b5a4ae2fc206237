"""Data layers against real Caffe: transformations, order, wrap-around; and exact resumption."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from converters import load_net
from converters.environment import Environment
from converters.errors import CaffeError
from converters.prototxt.text import parse_net, read_net
from converters.readers import Reader, open_reader
from converters.readers.transform import Transform
from converters.records.datum import encode_image
from converters.records.imageset import convert_imageset
from converters.records.lmdb_writer import create_lmdb
from gmnet_pt.solver.batches import open_net_batches

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


def folder_with_a_damaged_batch(kind: str, folder: Path) -> tuple[str, Path]:
    """A layer of batches of two items, whose third batch cannot be read, and the file to mend."""
    cv2, h5py = pytest.importorskip("cv2"), pytest.importorskip("h5py")
    bad = folder / "4"
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((3, 4), number, np.uint8))
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["data"], file["label"] = np.full((1, 3), number), np.array([number])
    (folder / "list.txt").write_text("".join(f"{n}.png {n}\n" for n in range(6)))
    (folder / "files.txt").write_text("".join(f"{n}.h5\n" for n in range(6)))
    with create_lmdb(folder / "db") as writer:
        for number in range(6):
            image = (folder / f"{number}.png").read_bytes()
            writer.put(b"%d" % number, encode_image(image if number != 4 else b"junk", number))
    fields, suffix = {
        "Data": ('data_param { source: "db" batch_size: 2 }', ""),
        "ImageData": (
            'image_data_param { source: "list.txt" batch_size: 2 shuffle: false }',
            "png",
        ),
        "HDF5Data": ('hdf5_data_param { source: "files.txt" batch_size: 2 }', "h5"),
    }[kind]
    if suffix:
        bad = bad.with_suffix(f".{suffix}")
        bad.rename(bad.with_suffix(".whole"))
        bad.write_bytes(b"junk")
    return f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {fields} }}', bad


@pytest.mark.parametrize("kind", ["Data", "ImageData", "HDF5Data"])
def test_a_damaged_batch_is_the_next_one_again(tmp_path: Path, kind: str) -> None:
    """An error moves nothing: position and iterator stay together."""
    text, bad = folder_with_a_damaged_batch(kind, tmp_path)
    reader = open_reader(parse_net(text).layer[0], Environment("net", "TEST", str(tmp_path)), 1)
    labels = [reader.next()["label"].tolist() for _ in range(2)]
    before = reader.state()
    messages = set()
    for _ in range(3):
        with pytest.raises(CaffeError) as caught:
            reader.next()
        messages.add(str(caught.value))
        assert reader.state() == before
    assert len(messages) == 1
    assert re.search("4.png|4.h5|'4'", messages.pop())
    if kind != "Data":
        bad.with_suffix(".whole").replace(bad)
        labels += [reader.next()["label"].tolist() for _ in range(2)]
        assert labels == [[0, 1], [2, 3], [4, 5], [0, 1]]
    reader.restore({**before, "position": 0, "file": 0})
    assert reader.next()["label"].tolist() == [0, 1]


def test_a_window_that_cannot_be_read_is_the_next_one_again(tmp_path: Path) -> None:
    text = (IMAGES / "../../windows.txt").read_text()
    layer = parse_net("""layer { name: "d" type: "WindowData" top: "data" top: "label"
      transform_param { crop_size: 6 mirror: true } window_data_param { source: "w" batch_size: 4
      root_folder: "images/" context_pad: 1 } }""").layer[0]
    (tmp_path / "w").write_text(text)
    shutil.copytree(IMAGES / "images", tmp_path / "images")
    environment = Environment("net", "TRAIN", str(tmp_path))
    whole, broken = (open_reader(layer, environment, 1) for _ in range(2))
    wanted = [whole.next()["data"] for _ in range(3)]
    np.testing.assert_array_equal(broken.next()["data"], wanted[0])
    (tmp_path / "images").rename(tmp_path / "gone")
    for _ in range(2):
        with pytest.raises(CaffeError, match="cannot be read"):
            broken.next()
    (tmp_path / "gone").rename(tmp_path / "images")
    for one in wanted[1:]:
        np.testing.assert_array_equal(broken.next()["data"], one)


def test_memory_without_data_is_as_before_after_the_error() -> None:
    layer = parse_net("""layer { name: "d" type: "MemoryData" top: "data" top: "label"
      transform_param { mirror: true }
      memory_data_param { batch_size: 5 channels: 1 height: 2 width: 3 } }""").layer[0]
    images = np.arange(30.0).reshape(5, 1, 2, 3)
    batches = []
    for asked in (False, True):
        reader = open_reader(layer, Environment("net", "TRAIN", "."), 1)
        if asked:
            with pytest.raises(CaffeError, match="has no data"):
                reader.next()
        reader.add(images, np.zeros(5))
        batches.append(reader.next()["data"])
    np.testing.assert_array_equal(*batches)


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    """Lists are bytes, as file names are: Latin-1 ones too, in every layer and in imageset."""
    cv2, h5py = pytest.importorskip("cv2"), pytest.importorskip("h5py")
    name = os.fsdecode("bär".encode("latin-1"))
    cv2.imwrite(str(tmp_path / "x.png"), np.full((3, 4), 7, np.uint8))
    (tmp_path / "x.png").rename(tmp_path / f"{name}.png")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"], file["label"] = np.full((1, 3), 7), np.array([5])
    (tmp_path / "x.h5").rename(tmp_path / f"{name}.h5")
    (tmp_path / "list").write_bytes(os.fsencode(f"{name}.png 5\n"))
    (tmp_path / "files").write_bytes(os.fsencode(f"{name}.h5\n"))
    for kind, fields in (
        ("ImageData", 'image_data_param { source: "list" batch_size: 1 }'),
        ("HDF5Data", 'hdf5_data_param { source: "files" batch_size: 1 }'),
    ):
        text = f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {fields} }}'
        layer = parse_net(text).layer[0]
        batch = open_reader(layer, Environment("net", "TEST", str(tmp_path)), 1).next()
        assert (batch["data"] == 7).all()
        assert batch["label"].tolist() == [5]
    assert convert_imageset(tmp_path, tmp_path / "list", tmp_path / "db").records == 1


def test_a_data_layers_own_phase_decides_its_crop(tmp_path: Path) -> None:
    """A TRAIN net whose layer says `phase: TEST` crops the middle, as Caffe's does."""
    database = GOLDEN / "data" / "data_mean_value_crop" / "lmdb"
    text = AUGMENTED.replace("mirror: true", "").replace('"lmdb"', f'"{database}"')
    layer = parse_net(text).layer[0]
    middle, moving = (open_reader(layer, Environment("net", p, "."), 5) for p in ("TEST", "TRAIN"))
    (tmp_path / "net").write_text(text.replace('type: "Data"', 'type: "Data" phase: TEST'))
    (fed,) = open_net_batches(load_net(tmp_path / "net", phase="TRAIN"), seed=5)
    for _ in range(3):
        expected = middle.next()["data"]
        np.testing.assert_array_equal(fed.next()["data"].numpy(), expected)
        assert not np.array_equal(moving.next()["data"], expected)


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
