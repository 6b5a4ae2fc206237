"""gmnet_pt.features: LMDB records, npz and the contact sheet against the net's own blobs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from golden_case import GOLDEN, relative_error

from converters import load_net
from converters.proto import caffe_pb2 as pb
from converters.records.datum import decode_datum, encode_floats
from converters.records.lmdb_reader import LmdbReader
from gmnet_pt.feature_maps import tile
from gmnet_pt.features import main

RUN = GOLDEN / "training" / "lenet_sgd_inv"
TEST = (str(RUN / "net.prototxt"), "--weights", str(RUN / "snap_iter_100.caffemodel"))


def extract(*arguments: str) -> None:
    assert main([*TEST, "--device", "cpu", *arguments]) == 0


def values(path: Path) -> np.ndarray:
    with LmdbReader(path) as reader:
        return np.stack([decode_datum(value).image() for _, value in reader])


def test_records_are_datums_of_floats_numbered_with_ten_digits(tmp_path: Path) -> None:
    extract("--blobs", "ip2", "--out", str(tmp_path / "ip2"), "--iterations", "4")
    net = load_net(TEST[0], weights=TEST[2])
    with LmdbReader(RUN.parent / "test_lmdb") as images:
        data = [decode_datum(value) for _, value in images]
        x = np.stack([datum.image() for datum in data]).astype(np.float32) / 256
        feed = {"data": x, "label": np.zeros(len(x))}
        wanted = net(feed, blobs=["ip2"])["ip2"].detach().numpy()
    with LmdbReader(tmp_path / "ip2") as reader:
        assert reader.keys == [b"%010d" % number for number in range(400)]
        records = [pb.Datum.FromString(bytes(value)) for _, value in reader]
    assert {(r.channels, r.height, r.width, r.data, r.encoded) for r in records} == {
        (10, 1, 1, b"", False)
    }
    assert not any(record.HasField("label") for record in records)
    found = np.array([record.float_data for record in records], np.float32)
    assert relative_error(found, wanted) <= 1e-5


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (300, 1, 5)])
def test_a_float_record_is_protobufs(shape: tuple[int, int, int]) -> None:
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    sizes = dict(zip(("channels", "height", "width"), shape))
    assert encode_floats(array) == pb.Datum(**sizes, float_data=array.ravel()).SerializeToString()


def test_several_blobs_go_into_one_folder_or_where_they_are_told(tmp_path: Path) -> None:
    extract("--blobs", "conv1,label", "--out", str(tmp_path / "all"), "--iterations", "1")
    names = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    extract("--blobs", "conv1,label", "--out", names, "--iterations", "1")
    for one, other in (("all/conv1", "a"), ("all/label", "b")):
        np.testing.assert_array_equal(values(tmp_path / one), values(tmp_path / other))
    assert values(tmp_path / "a").shape == (100, 8, 24, 24)
    assert values(tmp_path / "b").shape == (100, 1, 1, 1)


def write_net(folder: Path, more: str = "") -> Path:
    """The net with a batch of 64, which does not divide the 400 images, and more layers."""
    net = folder / "net.prototxt"
    text = (RUN / "net.prototxt").read_text() + more
    net.write_text(
        text.replace("../", f"{RUN.parent}/").replace("batch_size: 100", "batch_size: 64")
    )
    return net


def test_npz_holds_the_data_once_with_its_labels(tmp_path: Path) -> None:
    """The last batch wraps around, and is cut."""
    net = write_net(tmp_path)
    out = tmp_path / "f.npz"
    assert main([str(net), *TEST[1:], "--blobs", "ip1,loss", "--out", str(out)]) == 0
    found = dict(np.load(out))
    assert {name: array.shape for name, array in found.items()} == {
        "ip1": (400, 32),
        "loss": (7,),
        "label": (400,),
    }
    reader = LmdbReader(RUN.parent / "test_lmdb")
    data = [decode_datum(value) for _, value in reader]
    assert found["label"].tolist() == [datum.label for datum in data]
    x = np.stack([datum.image() for datum in data]).astype(np.float32) / 256
    wanted = load_net(net, weights=TEST[2], input_shapes={"data": x.shape})(
        {"data": x, "label": found["label"]}, blobs=["ip1"]
    )["ip1"]
    assert relative_error(found["ip1"], wanted.detach().numpy()) <= 2e-6


def test_a_blob_whose_first_axis_is_not_the_batch_is_never_cut(tmp_path: Path) -> None:
    halves = """layer { name: "halves" type: "Reshape" bottom: "ip1" top: "halves"
      reshape_param { shape { dim: 128 dim: 16 } } }"""
    net, out = write_net(tmp_path, halves), tmp_path / "f.npz"
    assert main([str(net), *TEST[1:], "--blobs", "ip1,halves", "--out", str(out)]) == 0
    found = np.load(out)
    assert found["halves"].shape == (7 * 128, 16)
    np.testing.assert_array_equal(found["halves"][:800], found["ip1"].reshape(800, 16))


def test_level_and_stage_choose_layers(tmp_path: Path) -> None:
    seen = """layer { name: "seen" type: "Power" bottom: "ip2" top: "seen"
      include { stage: "eyes" min_level: 2 } }"""
    command = [str(write_net(tmp_path, seen)), *TEST[1:], "--blobs", "seen", "--iterations", "1"]
    out = str(tmp_path / "f.npz")
    assert main([*command, "--out", out, "--stage", "ears,eyes", "--level", "2"]) == 0
    assert np.load(out)["seen"].shape == (64, 10)
    assert main([*command, "--out", out, "--stage", "eyes"]) == 1


def test_a_blob_of_five_axes_fits_no_datum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    five = """layer { name: "five" type: "Reshape" bottom: "ip1" top: "five"
      reshape_param { shape { dim: 0 dim: 2 dim: 2 dim: 2 dim: 4 } } }"""
    net, out = write_net(tmp_path, five), tmp_path / "f"
    command = [str(net), *TEST[1:], "--blobs", "five", "--iterations", "1", "--out"]
    for path in (out, out.with_suffix(".png")):
        assert main([*command, str(path)]) == 1
        assert "(64, 2, 2, 2, 4) has more than four axes" in capsys.readouterr().err
        assert not path.exists()
    assert main([*command, str(out.with_suffix(".npz"))]) == 0


def test_a_sheet_of_more_images_than_a_batch(tmp_path: Path) -> None:
    import cv2

    out = tmp_path / "f.png"
    extract("--blobs", "ip2", "--out", str(out), "--images", "103")
    sheet = cv2.imread(str(out), cv2.IMREAD_GRAYSCALE)
    extract("--blobs", "ip2", "--out", str(tmp_path / "f.npz"), "--iterations", "2")
    images = np.load(tmp_path / "f.npz")["ip2"][:103].reshape(103, 10, 1, 1)
    squares = [np.pad(tile(image), ((0, 0), (8, 0)), constant_values=224) for image in images]
    row = np.concatenate(squares, 1)
    assert sheet.shape == (20 + len(row) + 8, row.shape[1] + 8)
    np.testing.assert_array_equal(sheet[20:-8, :-8], row)


def test_a_sheet_shows_every_map(tmp_path: Path) -> None:
    import cv2

    out = tmp_path / "f.png"
    extract("--blobs", "conv1,pool1", "--out", str(out), "--images", "2")
    sheet = cv2.imread(str(out), cv2.IMREAD_GRAYSCALE)
    # Two squares of 3 × 3 maps of 48 pixels (24 and 12 enlarged), 2 between, 8 around.
    side = 3 * 50 - 2
    assert sheet.shape == (2 * (20 + side + 8), 8 + 2 * (side + 8))
    extract("--blobs", "conv1", "--out", str(tmp_path / "f.npz"), "--iterations", "1")
    maps = np.load(tmp_path / "f.npz")["conv1"][1]
    left = 8 + side + 8
    found = sheet[20 : 20 + side, left : left + side]
    np.testing.assert_array_equal(found, tile(maps))


def test_maps_are_scaled_together() -> None:
    maps = np.zeros((3, 48, 48), np.float32)
    maps[0], maps[1], maps[2, 0, 0] = -1, 1, np.nan
    square = tile(maps)
    assert square.shape == (98, 98)
    assert set(np.unique(square[:48, :48])) == {0}
    assert set(np.unique(square[:48, 50:])) == {255}
    assert square[50, 0] == 0
    assert set(np.unique(square[51:, :48])) == {128}


def test_maps_that_are_not_square_lie_row_by_row() -> None:
    """The longer side, 60 pixels, needs no enlarging."""
    maps = np.random.default_rng(0).random((3, 24, 60)).astype(np.float32)
    low, high = maps.min(), maps.max()
    gray = np.rint((maps - low) * (255 / (float(high) - float(low)))).astype(np.uint8)
    square = tile(maps)
    assert square.shape == (2 * 26 - 2, 2 * 62 - 2)
    for one, (top, left) in zip(gray, ((0, 0), (0, 62), (26, 0))):
        np.testing.assert_array_equal(square[top : top + 24, left : left + 60], one)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_black(value: float) -> None:
    maps = np.array([[[1, value], [2, 3]]], np.float32)
    assert tile(maps)[::24, ::24].tolist() == [[0, 0], [128, 255]]


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*TEST, *arguments]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_errors_come_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "x")
    assert re.search(r'no blob "fc8"; blobs: data', error(capsys, "--blobs", "fc8", "--out", out))
    two = error(capsys, "--blobs", "a,b,c", "--out", f"{out},{out}y")
    assert "2 names for 3 blobs; give one for each blob, or one folder for all" in two
    assert not list(tmp_path.iterdir())
    extract("--blobs", "label", "--out", out, "--iterations", "1")
    again = error(capsys, "--blobs", "label", "--out", out)
    assert "exists; --force replaces it" in again
    extract("--blobs", "ip2", "--out", out, "--iterations", "2", "--force")
    assert len(values(tmp_path / "x")) == 200


@pytest.mark.parametrize("name", ["x", "x.npz", "x.png"])
def test_at_least_one_blob_is_needed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--blobs" in error(capsys, "--blobs", ",", "--out", str(tmp_path / name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.jpg", "x.lmdb,y.hdf5", "conv.1"])
def test_an_unknown_suffix_is_refused_and_the_known_are_listed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error(capsys, "--blobs", "ip1,ip2", "--out", str(tmp_path / name))
    last = name.split(",")[-1]
    assert f"{last}: cannot be written as '{Path(last).suffix}'" in said
    assert said.endswith("only as .npz, .png, .lmdb, or as LMDBs without a suffix")
    assert not list(tmp_path.iterdir())


def test_an_lmdb_may_be_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = f"{tmp_path / 'a.lmdb'},{tmp_path / 'b'}"
    extract("--blobs", "ip2,label", "--out", names, "--iterations", "1")
    assert values(tmp_path / "a.lmdb").shape == (100, 10, 1, 1)
    assert len(values(tmp_path / "b")) == 100
    mixed = error(capsys, "--blobs", "ip2,label", "--out", "a.lmdb,b.npz")
    assert "a .npz or .png is one for all" in mixed
    extract("--blobs", "ip2", "--out", str(tmp_path / "F.NPZ"), "--iterations", "1")
    assert np.load(tmp_path / "F.NPZ")["ip2"].shape == (100, 10)


def test_data_of_unknown_size_needs_iterations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "DummyData" top: "data" dummy_data_param {'
        " shape { dim: 2 dim: 1 dim: 3 dim: 3 } } }"
    )
    arguments = [
        str(tmp_path / "net.prototxt"),
        *TEST[1:],
        "--blobs",
        "data",
        "--out",
        str(tmp_path / "f.npz"),
    ]
    assert main(arguments) == 1
    assert "does not tell how many items it has; give --iterations" in capsys.readouterr().err
