"""Batches of every data layer: real Caffe's, resumed exactly, and refused where they cannot be."""

from __future__ import annotations

import io
import re
import shutil
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.environment import Environment
from converters.errors import CaffeError, DataError
from converters.layers import make_layer
from converters.prototxt.text import parse_net, read_net
from converters.readers import open_reader
from converters.records.datum import encode_datum, encode_image
from converters.records.lmdb_writer import create_lmdb
from gmnet_pt.solver import batches as feeding
from gmnet_pt.solver.batches import Batches, closing, open_batches

GOLDEN = Path(__file__).parent / "golden"
CASES = [(path / "net.prototxt", "") for path in sorted((GOLDEN / "data").iterdir())] + [
    (GOLDEN / "imageset" / f"{name}.prototxt", f"{name}/") for name in ("imagedata", "encoded")
]


@pytest.fixture(autouse=True, params=["when asked", "ahead"])
def when(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test reads when it is asked for a batch, and with a thread that reads ahead."""
    monkeypatch.setattr(feeding, "DEAR", 0 if request.param == "ahead" else 1 << 30)
    return str(request.param)


def feed(text: str, folder: Path, phase: str = "TRAIN", seed: int | None = 1) -> Batches:
    env = Environment("net", phase, str(folder))
    (batches,) = open_batches([make_layer(one, env) for one in parse_net(text).layer], seed)
    return batches


def data_layer(batch: int, transform: str = "", source: str = "db") -> str:
    return f"""layer {{ name: "d" type: "Data" top: "data" top: "label"
      transform_param {{ {transform} }}
      data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }} }}"""


def write(folder: Path, records: Sequence[bytes]) -> None:
    with create_lmdb(folder / "db") as writer:
        for number, record in enumerate(records):
            writer.put(b"%04d" % number, record)


def numbered(count: int, *shape: int) -> list[bytes]:
    """Records whose pixels and label say their number."""
    return [encode_datum(np.full(shape or (1, 2, 2), i, np.uint8), i) for i in range(count)]


def png(pixels: np.ndarray) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", pixels)[1])


# Real Caffe's batches -----------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "prefix"), CASES, ids=[f"{p.parent.name}/{q}" for p, q in CASES])
def test_batches_are_caffes(path: Path, prefix: str) -> None:
    arrays = np.load(path.parent / "golden.npz")
    layers = read_net(path).layer
    env = Environment(str(path), "TEST", str(path.parent))
    (batches,) = open_batches([make_layer(one, env) for one in layers], 1)
    count = len({key.split("/")[-2] for key in arrays if key.startswith(f"{prefix}batch")})
    assert count == (3 if prefix else 4)
    for number in range(count):
        batch = batches.next()
        assert list(batch) == list(layers[0].top)
        for name, tensor in batch.items():
            golden = arrays[f"{prefix}batch{number}/{name}"]
            assert tensor.dtype == torch.float32
            assert tuple(tensor.shape) == golden.shape == batches.shapes[name]
            np.testing.assert_array_equal(tensor.numpy(), golden)
    shapes = make_layer(layers[0], env).reshape([])
    assert shapes == list(batches.shapes.values())


def test_records_follow_their_keys_and_wrap_within_a_batch(tmp_path: Path) -> None:
    write(tmp_path, numbered(5))
    batches = feed(data_layer(7), tmp_path)
    labels = torch.cat([batches.next()["label"] for _ in range(3)])
    assert labels.tolist() == [i % 5 for i in range(21)]
    one_top = feed(data_layer(2).replace(' top: "label"', ""), tmp_path)
    assert list(one_top.next()) == ["data"] == list(one_top.shapes)


def test_compressed_images_of_several_sizes_are_cropped(tmp_path: Path) -> None:
    sizes = [(6, 7), (9, 6), (6, 6), (8, 8)]
    pixels = [np.random.default_rng(i).integers(0, 256, (*s, 3)) for i, s in enumerate(sizes)]
    write(tmp_path, [encode_image(png(p.astype(np.uint8)), i) for i, p in enumerate(pixels)])
    batches = feed(data_layer(4, "crop_size: 6"), tmp_path, "TEST")
    for _ in range(2):
        data = batches.next()["data"].numpy()
        for image, result in zip(pixels, data, strict=True):
            top, left = (n - 6 >> 1 for n in image.shape[:2])
            wanted = image[top : top + 6, left : left + 6].transpose(2, 0, 1)
            np.testing.assert_array_equal(result, wanted)
    gray = feed(data_layer(4, "crop_size: 6 force_gray: true"), tmp_path, "TEST")
    assert gray.shapes["data"] == tuple(gray.next()["data"].shape) == (4, 1, 6, 6)


# Resuming -----------------------------------------------------------------------------------------

AUGMENTED = data_layer(7, "crop_size: 24 mirror: true mean_value: 100 scale: 0.5", "lmdb")
IMAGES = """layer { name: "d" type: "ImageData" top: "data" top: "label"
  transform_param { crop_size: 9 mirror: true }
  image_data_param { source: "list.txt" root_folder: "images/" batch_size: 4 shuffle: true
    rand_skip: 5 new_height: 14 new_width: 12 } }"""
HDF5 = """layer { name: "d" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "list.txt" batch_size: 4 shuffle: true } }"""
WINDOWS = """layer { name: "d" type: "WindowData" top: "data" top: "label"
  transform_param { crop_size: 11 mirror: true mean_value: 100 }
  window_data_param { source: "../../windows.txt" root_folder: "images/" batch_size: 40
    context_pad: 2 crop_mode: "square" } }"""
RANDOM = [
    (AUGMENTED, GOLDEN / "data" / "data_mean_value_crop"),
    (IMAGES, GOLDEN / "imageset"),
    (HDF5, GOLDEN / "data" / "data_hdf5"),
    (WINDOWS, GOLDEN / "imageset"),
]
TYPES = ["Data", "ImageData", "HDF5Data", "WindowData"]


def assert_same(one: Batches, other: Batches, count: int = 9) -> None:
    for _ in range(count):
        first, second = one.next(), other.next()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def through_a_file(state: dict[str, int]) -> dict[str, np.ndarray]:
    file = io.BytesIO()
    # Named as in a snapshot, `data/NET/LAYER/…`.
    np.savez(file, **{f"data/0/0/{name}": np.asarray(value) for name, value in state.items()})
    file.seek(0)
    arrays = np.load(file, allow_pickle=False)
    return {name.removeprefix("data/0/0/"): arrays[name] for name in arrays}


@pytest.mark.parametrize(("text", "folder"), RANDOM, ids=TYPES)
@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_restored_feeder_goes_on_exactly(text: str, folder: Path, before: int) -> None:
    first, second = feed(text, folder, seed=5), feed(text, folder, seed=99)
    for _ in range(before):
        first.next()
    state = through_a_file(first.state())
    for _ in range(3):
        second.next()
    second.restore(state)
    assert second.state() == first.state()
    assert_same(first, second)


@pytest.mark.parametrize(("text", "folder"), RANDOM, ids=TYPES)
def test_a_seed_says_it_all_and_each_layer_has_its_own(text: str, folder: Path) -> None:
    assert_same(feed(text, folder, seed=3), feed(text, folder, seed=3), 4)
    unlike = [feed(text, folder, seed=s).next()["data"] for s in (3, 4, None)]
    layer = parse_net(text).layer[0]
    env = Environment("net", "TRAIN", str(folder))
    pair = open_batches([make_layer(layer, env), make_layer(layer, env)], 3)
    unlike.append(pair[1].next()["data"])
    assert torch.equal(pair[0].next()["data"], unlike[0])
    for i, one in enumerate(unlike):
        assert not any(torch.equal(one, other) for other in unlike[:i])


def test_a_state_behind_the_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path, numbered(5))
    batches = feed(data_layer(4), tmp_path)
    batches.next()
    state = batches.state()
    assert state["position"] == 4
    shutil.rmtree(tmp_path / "db")
    del batches
    write(tmp_path, numbered(3))
    with pytest.raises(ValueError, match="record 4 of 3"):
        feed(data_layer(4), tmp_path).restore(state)
    with pytest.raises(KeyError):
        feed(data_layer(4), tmp_path).restore({"position": 1})


@pytest.mark.parametrize(("text", "folder"), RANDOM, ids=TYPES)
def test_a_refused_state_moves_nothing(text: str, folder: Path) -> None:
    """Batch and state stay together: neither that of the refused state nor a raw error is next."""
    first, second = feed(text, folder, seed=5), feed(text, folder, seed=5)
    assert_same(first, second, 2)
    state = second.state()
    refused = [{"position": 1}, {**state, "seed": "x"}]
    refused += [{**state, "position": 10**6, "file": 10**6}] * ("WindowData" not in text)
    for one in refused:
        with pytest.raises((KeyError, ValueError)):
            second.restore(one)
        assert second.state() == state
    assert_same(first, second)


def test_a_damaged_record_behind_the_wrap_around_is_named(tmp_path: Path) -> None:
    """A resumed run may begin at the last record."""
    write(tmp_path, [encode_image(b"no image", 0), *numbered(3)])
    batches = feed(data_layer(3, "crop_size: 2"), tmp_path)
    batches.restore({**batches.state(), "position": 3})
    with pytest.raises(DataError, match="db: record '0000'"):
        batches.next()


@pytest.mark.parametrize("kind", ["Data", "ImageData"])
def test_each_batch_is_cropped_and_mirrored_anew(tmp_path: Path, kind: str) -> None:
    """Five batches of the same four images, within one epoch of the list: 200⁴ ways each."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 12, 12)).astype(np.uint8)
    write(tmp_path, [encode_datum(image[None], i) for i, image in enumerate(pixels)])
    listed(tmp_path, [(12, 12)] * 4)
    for number, image in enumerate(pixels):
        (tmp_path / f"i {number}.png").write_bytes(png(image))
    (tmp_path / "list.txt").write_text((tmp_path / "list.txt").read_text() * 6)
    layer = {"Data": data_layer, "ImageData": lambda n, t: image_layer(n, "", t)}[kind]
    batches = feed(layer(4, "crop_size: 3 mirror: true"), tmp_path)
    seen = {batches.next()["data"].numpy().tobytes() for _ in range(5)}
    assert len(seen) == 5


def test_compressed_images_of_one_size_are_made_gray(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
    write(tmp_path, [encode_image(png(image), i) for i, image in enumerate(pixels)])
    data = feed(data_layer(2, "force_gray: true"), tmp_path).next()["data"]
    assert data.shape == (2, 1, 5, 4)
    # OpenCV's weights of blue, green and red.
    wanted = pixels @ np.array([0.114, 0.587, 0.299])
    assert np.abs(data[:, 0].numpy() - wanted).max() <= 1


# Lists of images, HDF5, memory --------------------------------------------------------------------


def labels_of(batches: Batches, count: int) -> list[float]:
    return [float(x) for _ in range(count) for x in batches.next()["label"]]


def listed(folder: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Gray images 0, 1, … of the given sizes, each filled with its number, and their list."""
    for number, size in enumerate(sizes):
        (folder / f"i {number}.png").write_bytes(png(np.full(size, number, np.uint8)))
    lines = [f"i {number}.png {number}\n" for number in range(len(sizes))]
    (folder / "list.txt").write_text("".join(lines))


def image_layer(batch: int, options: str = "", transform: str = "") -> str:
    return f"""layer {{ name: "i" type: "ImageData" top: "data" top: "label"
      transform_param {{ {transform} }}
      image_data_param {{ source: "list.txt" batch_size: {batch} is_color: false {options} }} }}"""


def test_image_lists_are_shuffled_anew_each_epoch(tmp_path: Path) -> None:
    listed(tmp_path, [(4, 4)] * 6)
    plain = labels_of(feed(image_layer(4), tmp_path), 3)
    assert plain == [0, 1, 2, 3, 4, 5] * 2
    batches = feed(image_layer(6, "shuffle: true"), tmp_path)
    epochs = [tuple(labels_of(batches, 1)) for _ in range(8)]
    assert all(sorted(epoch) == plain[:6] for epoch in epochs)
    # Of 720 orders; a repeated one would mean that the epoch does not count.
    assert len(set(epochs)) >= 7
    data = batches.next()
    assert torch.equal(data["data"][:, 0, 0, 0], data["label"])


def test_rand_skip_skips_less_than_it_says_once(tmp_path: Path) -> None:
    listed(tmp_path, [(4, 4)] * 6)
    starts = set()
    for seed in range(40):
        labels = labels_of(feed(image_layer(6, "rand_skip: 3"), tmp_path, seed=seed), 2)
        assert labels == [(labels[0] + i) % 6 for i in range(12)]
        starts.add(labels[0])
    assert starts == {0, 1, 2}


def test_images_of_several_sizes(tmp_path: Path) -> None:
    listed(tmp_path, [(4, 4), (5, 7)])
    assert feed(image_layer(2, "", "crop_size: 3"), tmp_path).next()["data"].shape[2:] == (3, 3)
    resized = feed(image_layer(2, "new_height: 6 new_width: 8"), tmp_path)
    assert resized.next()["data"].shape == (2, 1, 6, 8)
    with pytest.raises(DataError, match="crop_size"):
        feed(image_layer(2), tmp_path).next()


def test_hdf5_rows_of_all_files_are_shuffled(tmp_path: Path) -> None:
    import h5py

    for number in range(2):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["data"] = np.arange(5, dtype=np.float64)[:, None] + 5 * number
            file["label"] = np.arange(5) + 5 * number
    (tmp_path / "list.txt").write_text("0.h5\n1.h5\n")
    text = HDF5.replace("batch_size: 4", "batch_size: 10")
    batches = feed(text, tmp_path)
    assert batches.shapes == {"data": (10, 1), "label": (10,)}
    epochs = []
    for _ in range(6):
        batch = batches.next()
        assert torch.equal(batch["data"][:, 0], batch["label"])
        epochs.append(tuple(batch["label"].tolist()))
        # File after file: the rows of one are not mixed with those of the other.
        assert {frozenset(epochs[-1][:5]), frozenset(epochs[-1][5:])} == {
            frozenset(range(5)),
            frozenset(range(5, 10)),
        }
    assert len(set(epochs)) == 6
    assert len({epoch[0] < 5 for epoch in epochs}) == 2
    # Each file has an order of its own.
    assert any([x % 5 for x in epoch[:5]] != [x % 5 for x in epoch[5:]] for epoch in epochs)


def write_hdf5(folder: Path, *files: dict[str, np.ndarray]) -> None:
    """HDF5 files 0.h5, 1.h5, … in `folder` and their list there."""
    import h5py

    for number, datasets in enumerate(files):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            for name, values in datasets.items():
                file[name] = values
    (folder / "list.txt").write_text("".join(f"{number}.h5\n" for number in range(len(files))))


def test_hdf5_files_may_lie_beside_their_list(tmp_path: Path) -> None:
    """Every row in turn, the last of the last file too, as float32 whatever the file holds."""
    (tmp_path / "sub").mkdir()
    values = np.arange(5.0)
    write_hdf5(
        tmp_path / "sub",
        {"data": values[:3, None], "label": values[:3].astype(np.int64)},
        {"data": values[3:, None], "label": values[3:].astype(np.int64)},
    )
    text = HDF5.replace("list.txt", "sub/list.txt").replace("shuffle: true", "")
    batches = feed(text, tmp_path)
    for start in (0, 4, 8):
        batch = batches.next()
        assert batch["label"].tolist() == [(start + i) % 5 for i in range(4)]
        assert torch.equal(batch["data"][:, 0], batch["label"])
        assert {tensor.dtype for tensor in batch.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"data": np.zeros((3, 2)), "label": np.zeros(2)}, r"1\.h5: .* have \[3, 2\] rows"),
        ({"data": np.zeros((3, 4)), "label": np.zeros(3)}, "datasets have different shapes"),
        ({"data": np.zeros((3, 2))}, r"1\.h5: .*label.* needs datasets \['data', 'label'\]"),
        # Neither a group nor numbers: h5py makes a named type of it.
        ({"data": np.dtype("f4"), "label": np.zeros(3)}, r"1\.h5: .* needs datasets"),
    ],
)
def test_an_hdf5_file_unlike_the_first_is_refused(
    tmp_path: Path, second: dict[str, np.ndarray], says: str
) -> None:
    write_hdf5(tmp_path, {"data": np.zeros((2, 2)), "label": np.zeros(2)}, second)
    batches = feed(HDF5.replace("shuffle: true", ""), tmp_path)
    with pytest.raises(DataError, match=f'layer "d" .HDF5Data.: .*{says}'):
        batches.next()


MEMORY = """layer { name: "m" type: "MemoryData" top: "data" top: "label"
  transform_param { TRANSFORM }
  memory_data_param { batch_size: 2 channels: 1 height: 3 width: 3 } }"""


def memory(transform: str = "", seed: int = 1) -> Batches:
    return feed(MEMORY.replace("TRANSFORM", transform), Path(), seed=seed)


def test_memory_is_read_in_turn() -> None:
    batches = memory("scale: 2")
    with pytest.raises(DataError, match="call add"):
        batches.next()
    images = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, 2).repeat(3, 3)
    batches.add(images, [0, 1, 2, 3])
    assert batches.shapes == {"data": (2, 1, 3, 3), "label": (2,)}
    assert labels_of(batches, 3) == [0, 1, 2, 3, 0, 1]
    assert batches.next()["data"][:, 0, 0, 0].tolist() == [4, 6]
    batches.add(torch.from_numpy(images[:2]), torch.tensor([7, 8]))
    assert labels_of(batches, 2) == [7, 8, 7, 8]


def test_memory_goes_on_when_the_same_images_are_added_again() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 7, 8)).astype(np.uint8)
    first, second = (memory("crop_size: 3 mirror: true", seed) for seed in (1, 2))
    for _ in range(2):
        first.add(images, range(6))
        first.next()
    second.restore(through_a_file(first.state()))
    second.add(images, range(6))
    assert_same(first, second, 5)


def test_memory_after_a_resumption_goes_on_once_only() -> None:
    """New images, added later, begin with their first."""
    first, second = memory(), memory()
    images = np.zeros((4, 1, 3, 3), np.uint8)
    first.add(images, range(4))
    first.next()
    second.restore(first.state())
    second.add(images, range(4))
    assert labels_of(second, 1) == [2, 3]
    second.next()
    second.add(images, range(4, 8))
    assert labels_of(second, 1) == [4, 5]


def test_memory_draws_anew_each_time_it_is_given_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 9, 9)).astype(np.uint8)
    batches = memory("crop_size: 3 mirror: true")
    seen = set()
    for _ in range(5):
        batches.add(images, range(4))
        seen.add(batches.next()["data"].numpy().tobytes())
    assert len(seen) == 5


def test_memory_is_not_changed_through_its_batches() -> None:
    batches = memory()
    batches.add(np.ones((2, 1, 3, 3), np.uint8), [5, 6])
    for tensor in batches.next().values():
        tensor.zero_()
    again = batches.next()
    assert again["data"].eq(1).all()
    assert again["label"].tolist() == [5, 6]


def test_memory_with_fewer_images_than_were_read_is_refused() -> None:
    first, second = memory(), memory()
    first.add(np.zeros((4, 1, 3, 3), np.uint8), range(4))
    first.next()
    second.restore(first.state())
    with pytest.raises(DataError, match="2 images, but the resumed run was at 2"):
        second.add(np.zeros((2, 1, 3, 3), np.uint8), range(2))


@pytest.mark.parametrize(
    ("shape", "labels", "says"),
    [
        ((4, 1, 3, 4), 4, r"got shapes \(4, 1, 3, 4\)"),
        ((4, 2, 3, 3), 4, r"takes images \(N, 1"),
        ((4, 1, 3, 3), 3, r"and \(3,\)"),
        ((3, 1, 3, 3), 3, "no multiple of batch_size 2"),
        ((0, 1, 3, 3), 0, "no multiple"),
    ],
)
def test_memory_of_another_shape_is_refused(shape: tuple[int, ...], labels: int, says: str) -> None:
    with pytest.raises(DataError, match=says):
        memory().add(np.zeros(shape, np.uint8), np.zeros(labels))


# Refusals -----------------------------------------------------------------------------------------


def test_a_record_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    records = numbered(9, 3, 4, 5)
    records[6] = encode_datum(np.zeros((3, 4, 6), np.uint8), 1)
    write(tmp_path, records)
    batches = feed(data_layer(4), tmp_path)
    batches.next()
    with pytest.raises(DataError, match=r"db: record '0006' has shape 3×4×6.* 3×4×5"):
        batches.next()


@pytest.mark.parametrize("transform", ["", "crop_size: 2"])
@pytest.mark.parametrize("damaged", [b"\x08\x01\x10", encode_image(b"no image", 0)])
def test_a_damaged_record_is_named(tmp_path: Path, damaged: bytes, transform: str) -> None:
    records = numbered(4)
    records[2] = damaged
    write(tmp_path, records)
    batches = feed(data_layer(3, transform), tmp_path)
    with pytest.raises(DataError, match="db: record '0002'"):
        batches.next()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (data_layer(3, "crop_size: 9"), "crop_size 9 is larger than the image 2×2"),
        (data_layer(0), "batch_size 0"),
        (data_layer(3, 'mean_file: "none.binaryproto"'), "none.binaryproto"),
        (data_layer(3, "", "nowhere"), "nowhere does not exist: build it, or give input shapes"),
        (data_layer(3, "", "level"), "a LevelDB; only LMDB is read"),
        (data_layer(3, "", "cut"), "truncated"),
        (image_layer(2, "new_height: 4"), "both new_height and new_width"),
        (image_layer(2).replace("list.txt", "no.txt"), "list no.txt: cannot be read"),
        (image_layer(2).replace("list.txt", "odd.txt"), "odd.txt:1: 'name' has no label"),
        (image_layer(2).replace("list.txt", "gone.txt"), "none of the 1 files of"),
        (image_layer(2).replace("list.txt", "empty.txt"), "empty.txt is empty"),
        (HDF5.replace("list.txt", "gone.txt"), "gone.png"),
        (HDF5.replace("list.txt", "empty.txt"), "empty.txt is empty"),
        (HDF5.replace("hdf5_data", "transform_param { scale: 2 } hdf5_data"), "no transform_param"),
        (MEMORY.replace("TRANSFORM", "crop_size: 2"), "crop_size 2 must be height and width"),
        ('layer { name: "x" type: "Input" top: "data" }', "Input reads no files"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path, numbered(3))
    (tmp_path / "level").mkdir()
    (tmp_path / "level" / "CURRENT").touch()
    (tmp_path / "cut").mkdir()
    whole = (tmp_path / "db" / "data.mdb").read_bytes()
    (tmp_path / "cut" / "data.mdb").write_bytes(whole[: len(whole) * 9 // 10])
    (tmp_path / "odd.txt").write_text("name\n")
    (tmp_path / "gone.txt").write_text("gone.png 0\n")
    (tmp_path / "empty.txt").touch()
    layer = parse_net(text).layer[0]
    with pytest.raises(CaffeError, match=re.escape(says)) as error:
        open_reader(layer, Environment("net.prototxt", "TRAIN", str(tmp_path)), 1).shapes()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f'net.prototxt: layer "{layer.name}"')


def test_an_error_read_ahead_comes_with_its_own_batch(tmp_path: Path) -> None:
    listed(tmp_path, [(4, 4)] * 4)
    (tmp_path / "i 3.png").write_bytes(b"")
    batches = feed(image_layer(2), tmp_path)
    assert labels_of(batches, 1) == [0, 1]
    with pytest.raises(DataError, match=r"i 3\.png"):
        batches.next()


def test_behind_an_error_state_and_batch_are_those_of_before(tmp_path: Path) -> None:
    """The damaged batch is read again and again; once it is mended the run goes on with it."""
    listed(tmp_path, [(4, 4)] * 8)
    whole = (tmp_path / "i 3.png").read_bytes()
    (tmp_path / "i 3.png").write_bytes(b"")
    batches = feed(image_layer(2), tmp_path)
    assert labels_of(batches, 1) == [0, 1]
    state = batches.state()
    for _ in range(3):
        with pytest.raises(DataError, match=r"i 3\.png"):
            batches.next()
        assert batches.state() == state
    (tmp_path / "i 3.png").write_bytes(whole)
    assert labels_of(batches, 3) == [2, 3, 4, 5, 6, 7]


def test_closed_batches_are_read_no_more(tmp_path: Path, when: str) -> None:
    write(tmp_path, numbered(5))
    batches, other = feed(data_layer(2), tmp_path), feed(data_layer(2), tmp_path)
    with closing([batches]) as (one,):
        threads = set(threading.enumerate())
        one.next()
        reading = set(threading.enumerate()) - threads
        assert len(reading) == (when == "ahead")
        assert all(thread.is_alive() for thread in reading)
    assert not any(thread.is_alive() for thread in reading)
    with pytest.raises(ValueError, match="closed"):
        batches.next()
    batches.close()
    # The same database, opened twice: the other goes on.
    assert labels_of(other, 2) == [0, 1, 2, 3]


@pytest.mark.parametrize(("seconds", "ahead"), [(0.0, 0), (2 * feeding.CHEAP, 1)])
def test_a_thread_reads_what_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, ahead: int
) -> None:
    monkeypatch.setattr(feeding, "DEAR", 2)
    clock = count(step=seconds)
    monkeypatch.setattr(feeding.time, "perf_counter", lambda: next(clock))
    write(tmp_path, numbered(5))
    with closing([feed(data_layer(2), tmp_path)]) as (batches,):
        threads = set(threading.enumerate())
        batches.next()
        assert set(threading.enumerate()) == threads
        assert labels_of(batches, 3) == [2, 3, 4, 0, 1, 2]
        assert len(set(threading.enumerate()) - threads) == ahead


def test_a_folder_without_a_database_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are tried from the working directory first; `make lmdb` makes a folder lmdb there."""
    write(tmp_path, numbered(3))
    (tmp_path / "cwd" / "db").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    assert labels_of(feed(data_layer(3), tmp_path), 1) == [0, 1, 2]
    shutil.rmtree(tmp_path / "cwd" / "db")
    write(tmp_path / "cwd", numbered(3)[::-1])
    assert labels_of(feed(data_layer(3), tmp_path), 1) == [2, 1, 0]
