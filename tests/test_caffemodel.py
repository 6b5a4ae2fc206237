"""`converters.formats.caffemodel` against Caffe's own files, protobuf's parser and damaged
files."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import MissingExtraError, NetError, OutputError, WeightsError
from converters.formats.caffemodel import (
    Caffemodel,
    read_caffemodel,
    stored_layers,
    write_caffemodel,
)
from converters.net.written import snapshot_net
from converters.proto import caffe_pb2 as pb
from converters.prototxt.net_rules import filter_net
from converters.prototxt.text import parse_net, read_net

GOLDEN = Path(__file__).parent / "golden"
SNAPSHOTS = sorted(GOLDEN.glob("solvers/*/snap_*.caffemodel"))
SNAPSHOTS += sorted(GOLDEN.glob("training/*/snap_*.caffemodel"))
WEIGHTS = sorted(GOLDEN.glob("layers/*/weights.caffemodel"))
HDF5 = GOLDEN / "solvers/sgd_hdf5/snap_iter_5.caffemodel.h5"
CASE = pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda p: f"{p.parent.name}/{p.stem}")


def arrays(model: Caffemodel) -> dict[str, tuple[np.ndarray, ...]]:
    return {layer.name: layer.blobs for layer in model.layers}


def by_protobuf(content: bytes) -> list[tuple[str, str, list[np.ndarray]]]:
    net = pb.NetParameter.FromString(content)
    return [
        (one.name, one.type, [np.array(b.data, "f4").reshape(b.shape.dim) for b in one.blobs])
        for one in net.layer
    ]


def assert_same_layers(
    model: Caffemodel, expected: list[tuple[str, str, list[np.ndarray]]]
) -> None:
    assert [(one.name, one.type) for one in model.layers] == [one[:2] for one in expected]
    for layer, (_, _, blobs) in zip(model.layers, expected, strict=True):
        assert len(layer.blobs) == len(blobs)
        for got, wanted in zip(layer.blobs, blobs, strict=True):
            assert got.dtype == np.float32 and got.shape == wanted.shape
            assert got.flags.aligned and got.flags.writeable
            np.testing.assert_array_equal(got, wanted)


def golden_net(path: Path, phase: str = "TRAIN") -> pb.NetParameter:
    return snapshot_net(filter_net(read_net(path.parent / "net.prototxt"), phase), phase)


def test_there_are_golden_files() -> None:
    assert len(SNAPSHOTS) == 2 * 17 + 3 and len(WEIGHTS) > 40


@pytest.mark.parametrize("path", SNAPSHOTS + WEIGHTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_reads_what_protobuf_reads(path: Path) -> None:
    model = read_caffemodel(path)
    assert_same_layers(model, by_protobuf(path.read_bytes()))
    assert not any(layer.legacy for layer in model.layers)


@CASE
def test_the_stored_net_is_caffes_field_by_field(path: Path) -> None:
    stored = pb.NetParameter.FromString(path.read_bytes())
    for layer in stored.layer:
        layer.ClearField("blobs")
    assert golden_net(path) == stored


@CASE
def test_written_files_are_caffes_byte_for_byte(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.caffemodel"
    write_caffemodel(out, golden_net(path), arrays(read_caffemodel(path)))
    assert out.read_bytes() == path.read_bytes()


def test_the_weights_of_layer_cases_too(tmp_path: Path) -> None:
    for path in WEIGHTS:
        stored = pb.NetParameter.FromString(path.read_bytes())
        phase = pb.Phase.Name(stored.layer[0].phase)
        write_caffemodel(tmp_path / "w", golden_net(path, phase), arrays(read_caffemodel(path)))
        assert (tmp_path / "w").read_bytes() == path.read_bytes(), path


def test_batchnorm_params_follow_caffe() -> None:
    net = parse_net('layer { name: "b" type: "BatchNorm" param { lr_mult: 0 decay_mult: 5 } }')
    (layer,) = snapshot_net(net, "TEST").layer
    assert [(p.lr_mult, p.HasField("decay_mult")) for p in layer.param] == [
        (0, True),
        (0, False),
        (0, False),
    ]
    with pytest.raises(NetError, match=r'n: layer "b": param 0 of .*lr_mult 0, not 2'):
        snapshot_net(parse_net(str(net).replace("lr_mult: 0", "lr_mult: 2")), "TEST", "n")


def test_diffs_are_written_beside_the_data(tmp_path: Path) -> None:
    net = pb.NetParameter(name="n")
    net.layer.add(name="a", type="X", top=["t"])
    data, diff = np.arange(6, dtype="f4").reshape(2, 3), np.ones((2, 3), "f4")
    write_caffemodel(tmp_path / "m", net, {"a": [data]}, {"a": [diff]})
    (layer,) = pb.NetParameter.FromString((tmp_path / "m").read_bytes()).layer
    assert list(layer.blobs[0].data) == [0, 1, 2, 3, 4, 5]
    assert list(layer.blobs[0].diff) == [1] * 6
    assert_same_layers(read_caffemodel(tmp_path / "m"), [("a", "X", [data])])
    write_caffemodel(tmp_path / "m.h5", net, {"a": [data]}, {"a": [diff]})
    with h5py.File(tmp_path / "m.h5") as file:
        np.testing.assert_array_equal(file["diff/a/0"], diff)


def test_arrays_of_any_layout_and_shape(tmp_path: Path) -> None:
    net = pb.NetParameter()
    net.layer.add(name="a")
    blobs = [
        np.arange(12, dtype="f8").reshape(3, 4).T,
        np.float32(0.25),  # 0-D: neither shape nor num
        np.empty((0, 3), "f4"),
    ]
    write_caffemodel(tmp_path / "m", net, {"a": blobs})
    (layer,) = pb.NetParameter.FromString((tmp_path / "m").read_bytes()).layer
    assert [one.HasField("shape") for one in layer.blobs] == [True, False, True]
    assert_same_layers(
        read_caffemodel(tmp_path / "m"), [("a", "", [np.asarray(b, "f4") for b in blobs])]
    )


# --- old files


def old_net() -> pb.NetParameter:
    net = pb.NetParameter(name="old", input=["data"], input_dim=[1, 2, 3, 4])
    layer = net.layers.add(name="ip", type=pb.V1LayerParameter.INNER_PRODUCT, bottom=["data"])
    layer.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    layer.blobs.add(num=1, channels=1, height=1, width=2, data=[7, 8])
    return net


def test_v1_layers_with_four_dimensional_blobs(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(old_net().SerializeToString())
    model = read_caffemodel(tmp_path / "m")
    weight, bias = np.arange(6, dtype="f4").reshape(1, 1, 2, 3), np.array([[[[7, 8]]]], "f4")
    assert model.name == "old"
    assert_same_layers(model, [("ip", "InnerProduct", [weight, bias])])
    (layer,) = model.layers
    assert layer.legacy
    assert layer.fits(0, (2, 3)) and layer.fits(0, (1, 1, 2, 3)) and not layer.fits(0, (3, 2))
    assert layer.fits(1, (2,)) and not layer.fits(1, (1, 1, 1, 1, 2))


def test_todays_blobs_fit_their_own_shape_alone() -> None:
    fc = next(layer for layer in read_caffemodel(SNAPSHOTS[0]).layers if layer.name == "fc")
    assert fc.fits(0, (3, 64)) and not fc.fits(0, (1, 3, 64)) and not fc.fits(0, (64, 3))


def test_layers_come_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(SAMPLE[:-20])
    layers = stored_layers(tmp_path / "m")
    assert next(layers).name == "data"
    with pytest.raises(WeightsError, match="cut short"):
        list(layers)


def test_a_missing_h5py_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"h5py: pip install 'gmnet-caffe\[hdf5\]'"):
        read_caffemodel(HDF5)
    with pytest.raises(MissingExtraError, match="h5py"):
        write_caffemodel(tmp_path / "m.h5", pb.NetParameter(), {})


def test_v0_layers(tmp_path: Path) -> None:
    net = pb.NetParameter()
    net.layers.add().layer.type = "padding"
    layer = net.layers.add(bottom=["x"]).layer
    layer.name, layer.type = "c", "conv"
    layer.blobs.add(num=2, channels=1, height=1, width=1, data=[1, 2])
    (tmp_path / "m").write_bytes(net.SerializeToString())
    blob = np.array([1, 2], "f4").reshape(2, 1, 1, 1)
    assert_same_layers(read_caffemodel(tmp_path / "m"), [("c", "Convolution", [blob])])


def test_doubles_unpacked_and_divided_numbers(tmp_path: Path) -> None:
    def floats(*values: float, packed: bool) -> bytes:
        raw = np.array(values, "<f4")
        if packed:
            return b"\x2a" + bytes([raw.nbytes]) + raw.tobytes()
        return b"".join(b"\x2d" + value.tobytes() for value in raw)

    shape = b"\x3a\x02\x08\x05"  # BlobShape { dim: 5 }, not packed
    whole = floats(1, 2, 3, 4, 5, packed=True)
    loose = floats(1, 2, 3, 4, 5, packed=False)
    mixed = floats(1, 2, packed=False) + floats(3, packed=True) + shape + floats(4, 5, packed=False)
    doubles = pb.BlobProto(double_data=[1, 2, 3, 4, 5]).SerializeToString()
    loose_doubles = b"".join(b"\x41" + np.float64(value).tobytes() for value in range(1, 6))
    for blob in (whole + shape, shape + loose, mixed, shape + doubles, loose_doubles + shape):
        parsed = pb.BlobProto.FromString(blob)
        assert list(parsed.data or parsed.double_data) == [1, 2, 3, 4, 5]
        layer = b"\x0a\x01a\x3a" + bytes([len(blob)]) + blob
        (tmp_path / "m").write_bytes(b"\xa2\x06" + bytes([len(layer)]) + layer)
        expected = np.arange(1, 6, dtype="f4")
        assert_same_layers(read_caffemodel(tmp_path / "m"), [("a", "", [expected])])


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT", "FLOAT16"])
def test_raw_data_of_nvcaffe(kind: str, tmp_path: Path) -> None:
    """Its files since 0.16 hold the bytes of the numbers, and their type."""
    values = np.array([[1.5, -2], [0.25, 3]])
    blob = pb.BlobProto(
        shape=pb.BlobShape(dim=[2, 2]),
        raw_data_type=pb.Type.Value(kind),
        raw_data=values.astype({"DOUBLE": "<f8", "FLOAT": "<f4", "FLOAT16": "<f2"}[kind]).tobytes(),
    )
    net = pb.NetParameter(layer=[pb.LayerParameter(name="a", type="Scale", blobs=[blob])])
    path = tmp_path / "a.caffemodel"
    path.write_bytes(net.SerializeToString())
    (stored,) = read_caffemodel(path).layers
    np.testing.assert_array_equal(stored.blobs[0], values)
    net.layer[0].blobs[0].raw_data_type = pb.BOOL
    path.write_bytes(net.SerializeToString())
    with pytest.raises(WeightsError, match=r'layer "a": blob 0: raw_data of type 5'):
        read_caffemodel(path)


def test_layer_beside_layers_is_refused(tmp_path: Path) -> None:
    net = old_net()
    net.layer.add(name="new")
    (tmp_path / "m").write_bytes(net.SerializeToString())
    with pytest.raises(WeightsError, match="both 'layer' and 'layers'"):
        read_caffemodel(tmp_path / "m")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'net: "a.prototxt"\nbase_lr: 1\n', "a text"),
        (b"<!DOCTYPE html>", "a text"),
        (b"PK\x03\x04\x14\x00", r"a zip archive, as torch\.save writes; net\.load_state_dict"),
        (b"\x80\x02}q\x00", r"a pickle, as torch\.save writes"),
        (b"\x93NUMPY\x01\x00", "an array of NumPy's"),
    ],
)
def test_another_kind_of_file_is_said_to_be_it(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(WeightsError, match=f"m: not a caffemodel but {what}"):
        read_caffemodel(tmp_path / "m")


# --- damage


def test_every_cut_is_refused_with_its_byte_or_lies_between_layers(tmp_path: Path) -> None:
    content = SNAPSHOTS[0].read_bytes()
    whole = by_protobuf(content)
    path, between = tmp_path / "m", 0
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        try:
            expected = by_protobuf(content[:size])
        except DecodeError:
            with pytest.raises(
                WeightsError, match=rf"^{path}: .*byte {size}\b.*byte \d+ and needs"
            ):
                read_caffemodel(path)
        else:
            # protobuf cannot tell this file from a whole one.
            assert_same_layers(read_caffemodel(path), expected)
            between += 1
    assert between == len(whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\x00" * 20, "byte 0 begins no protobuf field"),
        (b'name: "net"\nlayer {\n}\n', "not a caffemodel"),
        (b"\xff" * 20, "no protobuf number"),
    ],
)
def test_foreign_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_caffemodel(tmp_path / "m")


def test_a_solverstate_is_no_caffemodel() -> None:
    with pytest.raises(WeightsError, match=r"solverstate\?"):
        read_caffemodel(SNAPSHOTS[0].with_suffix(".solverstate"))


def test_absent_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(WeightsError, match=rf"^{path}: cannot be read"):
            read_caffemodel(path)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (pb.BlobProto(data=[1, 2, 3], shape=pb.BlobShape(dim=[2, 2])), r"3 values.*\(2, 2\) of 4"),
        (pb.BlobProto(shape=pb.BlobShape(dim=[2])), r"0 values.*\(2,\)"),
        (pb.BlobProto(data=[1], shape=pb.BlobShape(dim=[-1, -1])), r"the shape \(-1, -1\) has a"),
        (pb.BlobProto(data=[1, 2]), r"2 values do not fill the shape \(\)"),
        (pb.BlobProto(data=[1], num=1), r"1 values.*\(1, 0, 0, 0\)"),
    ],
)
def test_values_that_do_not_fill_their_shape(
    blob: pb.BlobProto, message: str, tmp_path: Path
) -> None:
    net = pb.NetParameter()
    net.layer.add(name="conv1").blobs.extend([pb.BlobProto(data=[0]), blob])
    (tmp_path / "m").write_bytes(net.SerializeToString())
    with pytest.raises(WeightsError, match=rf'layer "conv1": blob 1: {message}'):
        read_caffemodel(tmp_path / "m")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_ends_in_a_model_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from([SAMPLE, old_net().SerializeToString()])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.caffemodel"
    path.write_bytes(content)
    try:
        read_caffemodel(path)
    except WeightsError as error:
        assert str(path) in str(error)


SAMPLE = SNAPSHOTS[0].read_bytes()


# --- HDF5


def tree(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}

    def visit(name: str, one: h5py.Group | h5py.Dataset) -> None:
        found[name] = (one.dtype, one.shape, one[()].tobytes()) if hasattr(one, "dtype") else None

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_hdf5_as_caffe_writes_it(tmp_path: Path) -> None:
    model = read_caffemodel(HDF5)
    assert [layer.name for layer in model.layers if layer.blobs] == ["bn", "conv", "fc", "sc"]
    write_caffemodel(tmp_path / "m.caffemodel.h5", golden_net(HDF5), arrays(model))
    assert tree(tmp_path / "m.caffemodel.h5") == tree(HDF5)


def slashed_net() -> tuple[pb.NetParameter, dict[str, list[np.ndarray]]]:
    net = pb.NetParameter()
    blobs = {}
    for index, name in enumerate(["a", "a/b", "a/b/c", "x/y"]):
        net.layer.add(name=name)
        blobs[name] = [np.full(2, index, "f4"), np.float32(index)]
    net.layer.add(name="x")
    return net, blobs


def test_slashes_in_hdf5_become_groups_and_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net, blobs = slashed_net()
    with caplog.at_level(logging.WARNING):
        write_caffemodel(tmp_path / "m.h5", net, blobs)
    assert "Caffe cannot read" in caplog.text and "a/b" in caplog.text
    read = arrays(read_caffemodel(tmp_path / "m.h5"))
    assert list(read) == list(blobs)
    for name, stored in read.items():
        np.testing.assert_array_equal(stored[0], blobs[name][0])
        assert stored[1].shape == () and stored[1] == blobs[name][1]
    assert "x" in arrays(read_caffemodel(tmp_path / "m.h5", layer_names=["x"]))


def test_shared_blobs_are_left_to_their_owner_in_hdf5(tmp_path: Path) -> None:
    net = parse_net(
        'layer { name: "a" param { name: "w" } param { name: "" } }'
        'layer { name: "b" param { name: "w" } param { name: "" } }'
    )
    blobs = {name: [np.ones(2, "f4"), np.zeros(1, "f4")] for name in "ab"}
    write_caffemodel(tmp_path / "m.h5", net, blobs)
    owner, sharer = read_caffemodel(tmp_path / "m.h5").layers
    assert (owner.positions, sharer.positions) == ((0, 1), (1,))
    write_caffemodel(tmp_path / "m", net, blobs)
    assert [layer.positions for layer in read_caffemodel(tmp_path / "m").layers] == [(0, 1)] * 2


@pytest.mark.parametrize("names", [["a", "a/0"], ["a/0", "a"], ["/a"], ["a//b"], ["a/./b"]])
def test_names_that_hdf5_cannot_hold(names: list[str], tmp_path: Path) -> None:
    net = pb.NetParameter()
    for name in names:
        net.layer.add(name=name)
    with pytest.raises(WeightsError, match=r"m\.h5: .*a.*write a \.caffemodel"):
        write_caffemodel(tmp_path / "m.h5", net, {name: [np.ones(1, "f4")] for name in names})
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_hdf5(tmp_path: Path) -> None:
    content = HDF5.read_bytes()
    for size in (8, 100, len(content) // 2):
        (tmp_path / "m.h5").write_bytes(content[:size])
        with pytest.raises(WeightsError, match=r"m\.h5: cut short"):
            read_caffemodel(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["weights/x"] = 1.0
    with pytest.raises(WeightsError, match=r"no group /data.*it has: weights"):
        read_caffemodel(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["data/x/kernel"] = 1.0
    with pytest.raises(WeightsError, match="kernel"):
        read_caffemodel(tmp_path / "m.h5")


# --- writing


@pytest.mark.parametrize("name", ["m.caffemodel", "m.caffemodel.h5"])
def test_a_failed_write_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    net = pb.NetParameter()
    net.layer.add(name="a")
    path = tmp_path / name
    write_caffemodel(path, net, {"a": [np.ones(3, "f4")]})
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_caffemodel(path, net, {"a": [np.array(["no number"])]})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match=rf"^{path}/{name}: cannot be written"):
        write_caffemodel(path / name, net, {"a": [np.ones(3, "f4")]})


OVER_LIMIT = """
import resource, signal, sys
import numpy as np
from converters.formats.caffemodel import write_caffemodel
from converters.errors import OutputError
from converters.proto import caffe_pb2 as pb

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
net = pb.NetParameter()
net.layer.add(name="a")
try:
    write_caffemodel(sys.argv[1], net, {"a": [np.ones(10**6, "f4")]})
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["m.caffemodel", "m.caffemodel.h5"])
def test_a_disk_that_takes_no_more(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("the previous snapshot")
    command = [sys.executable, "-c", OVER_LIMIT, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=GOLDEN.parent.parent)
    assert run.stdout.startswith(f"{path}: cannot be written") and "too large" in run.stdout
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "the previous snapshot"


def test_blobs_of_unknown_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="the net lacks: a, b"):
        write_caffemodel(tmp_path / "m", pb.NetParameter(), {"b": [], "a": []})
