"""Caffemodels into nets and back where names are not one to a layer: shared blobs, equal names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small_net import load_text
from test_plan import DATA, X, product, total

from converters import CaffeNet, save_caffemodel
from converters.errors import WeightsError
from converters.net.caffe_net import build_net
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_net
from gmnet_pt import Solver


def blobs_of(net: CaffeNet, layer: str) -> list[np.ndarray]:
    """Copies of a layer's blobs."""
    return [blob.detach().numpy().copy() for blob in net.params[layer]]


def test_a_blob_that_a_file_has_under_its_sharers_name_alone_is_loaded(tmp_path: Path) -> None:
    named = 'param { name: "w" }'
    text = DATA + product("a", "x", named) + product("b", "a", named)
    saved = load_text(text)
    saved.params["b"][1].data.fill_(2)
    save_caffemodel(saved, tmp_path / "both.caffemodel")
    message = pb.NetParameter.FromString((tmp_path / "both.caffemodel").read_bytes())
    sharer = [layer for layer in message.layer if layer.name == "b"]
    alone = tmp_path / "alone.caffemodel"
    alone.write_bytes(pb.NetParameter(name=message.name, layer=sharer).SerializeToString())
    net = load_text(text, weights=alone)
    torch.testing.assert_close(net.params["a"][0], saved.params["a"][0])
    assert net.params["a"][1].tolist() == [0, 0, 0]
    assert net.params["b"][1].tolist() == [2, 2, 2]


def test_blobs_that_hdf5_has_with_their_owner_alone_are_found(tmp_path: Path) -> None:
    named = 'param { name: "w" } param { name: "b" }'
    text = DATA + product("a", "x", named) + product("b", "a", named)
    saved, model = load_text(text), tmp_path / "net.caffemodel.h5"
    save_caffemodel(saved, model)
    net = load_text(text, weights=model, strict=True)
    torch.testing.assert_close(net.params["b"][0], saved.params["a"][0])
    # Another net, whose layer "b" has blobs of its own, does not find them there.
    apart = DATA + product("a", "x") + product("b", "a")
    with pytest.raises(WeightsError, match=r"no blobs for layer b .*strict"):
        load_text(apart, weights=model, strict=True)


def test_a_blob_that_hdf5_leaves_out_must_have_another_owner(tmp_path: Path) -> None:
    """As in Caffe: where the layer owns the blob itself, the file is another net's."""
    named = 'param { name: "w" }'
    model = tmp_path / "net.caffemodel.h5"
    save_caffemodel(load_text(DATA + product("a", "x", named) + product("b", "a", named)), model)
    apart = DATA + product("a", "x") + product("b", "a")
    with pytest.raises(WeightsError, match=r'layer "b" has 1 blobs, .* needs 2'):
        load_text(apart, weights=model)


SHARED = 'param { name: "w" } param { name: "b" }'


@pytest.mark.parametrize(
    "sharer", [SHARED, SHARED.replace('"w"', '""'), SHARED.replace('"b"', '""')]
)
def test_a_snapshot_in_hdf5_is_resumed_where_blobs_are_shared(sharer: str, tmp_path: Path) -> None:
    """The file has those blobs, or the whole layer, under their owner alone."""
    pytest.importorskip("h5py")
    (tmp_path / "net.prototxt").write_text(
        DATA + product("a", "x", SHARED) + product("b", "a", sharer) + total("b")
    )
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 '
        f'snapshot_prefix: "{tmp_path}/run" random_seed: 1 snapshot_format: HDF5'
    )
    first = Solver(tmp_path / "solver.prototxt", device="cpu")
    first.step(inputs={"x": X})
    second = Solver(tmp_path / "solver.prototxt", device="cpu", snapshot=first.snapshot())
    for solver in (first, second):
        solver.step(inputs={"x": X})
    for one, other in zip(first.net.learnable, second.net.learnable, strict=True):
        assert torch.equal(one, other)


def test_a_blob_that_hdf5_leaves_to_an_owner_elsewhere_is_filled(tmp_path: Path) -> None:
    """The file's layer has its bias alone, and no layer of the net's owner."""
    pytest.importorskip("h5py")
    named = 'param { name: "w" }'
    old = DATA + product("old", "x", named) + product("b", "old", named)
    save_caffemodel(load_text(old), tmp_path / "old.h5")
    net = load_text(old.replace('"old"', '"new"'), weights=tmp_path / "old.h5")
    assert net.params["b"][0].all(), "xavier leaves no zeros"


def test_an_owned_blob_that_hdf5_lacks_is_an_error(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    save_caffemodel(load_text(DATA + product("a", "x")), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["data/a/0"]
    with pytest.raises(WeightsError, match=r'layer "a" has 1 blobs, .* needs 2'):
        load_text(DATA + product("a", "x"), weights=tmp_path / "a.h5")


# Two layers of one name --------------------------------------------------------------------------

TWINS = (
    DATA
    + product("a", "x").replace('top: "a"', 'top: "h"')
    + product("a", "h", outputs=2)
    + total("a")
)


def test_two_layers_of_one_name_are_both_filled_and_trained(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TWINS)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" '
        f'snapshot_prefix: "{tmp_path}/run" random_seed: 1'
    )
    solver = Solver(tmp_path / "solver.prototxt", device="cpu")
    assert [blob.shape for blob in solver.net.params["a"]] == [(3, 3), (3,)]
    assert [blob.shape for blob in solver.net.params["a#2"]] == [(2, 3), (2,)]
    before = {name: blobs_of(solver.net, name) for name in ("a", "a#2")}
    solver.step(inputs={"x": X})
    for name, old in before.items():
        assert old[0].all(), "xavier leaves no zeros"
        for blob, was in zip(blobs_of(solver.net, name), old):
            assert (blob != was).all()


def test_two_layers_of_one_name_are_saved_under_it_and_loaded_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved, model = load_text(TWINS), tmp_path / "net.caffemodel"
    save_caffemodel(saved, model)
    stored = [
        layer for layer in pb.NetParameter.FromString(model.read_bytes()).layer if layer.blobs
    ]
    assert [layer.name for layer in stored] == ["a", "a"]
    for layer, name in zip(stored, ("a", "a#2")):
        for blob, wanted in zip(layer.blobs, blobs_of(saved, name), strict=True):
            np.testing.assert_array_equal(blob.data, wanted.ravel())
    assert not caplog.records
    net = load_text(TWINS, weights=model)
    for name in ("a", "a#2"):
        for blob, wanted in zip(blobs_of(net, name), blobs_of(saved, name), strict=True):
            np.testing.assert_array_equal(blob, wanted)
    assert re.search(r"\ba\b.*Caffe.*first", caplog.text)


def test_a_layer_of_one_name_that_is_shared_still_counts_in_a_file(tmp_path: Path) -> None:
    """The file's second goes to the net's second, whose first is another net's."""
    saved, model = load_text(TWINS), tmp_path / "net.caffemodel"
    save_caffemodel(saved, model)
    train = load_text(DATA + product("a", "x"))
    before = blobs_of(train, "a")
    choice = NetChoice("test.prototxt", parse_net(TWINS), weights=(str(model),), strict=True)
    test = build_net(choice, train)
    for found, wanted in zip(blobs_of(test, "a"), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    for found, wanted in zip(blobs_of(test, "a#2"), blobs_of(saved, "a#2"), strict=True):
        np.testing.assert_array_equal(found, wanted)
