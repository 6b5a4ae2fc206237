"""Every data layer feeds training: the solver's weights are those of naive SGD on its batches."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import gmnet_pt
from converters import load_net
from converters.environment import Environment
from converters.errors import DataError
from converters.layers import make_layer
from converters.prototxt.text import parse_net
from gmnet_pt import Solver, feeds
from gmnet_pt.solver.batches import Batches, open_batches

GOLDEN = Path(__file__).parent / "golden"
CLASSES, RATE, SEED, STEPS = 10, 0.01, 4, 6
DATA = {
    "Data": (
        GOLDEN / "data" / "data_mean_value_crop",
        """transform_param { crop_size: 9 mirror: true scale: 0.01 }
        data_param { source: "lmdb" batch_size: 5 backend: LMDB }""",
    ),
    "ImageData": (
        GOLDEN / "imageset",
        """transform_param { crop_size: 9 mirror: true scale: 0.01 }
        image_data_param { source: "list.txt" root_folder: "images/" batch_size: 4
          rand_skip: 5 shuffle: true new_height: 14 new_width: 12 }""",
    ),
    "WindowData": (
        GOLDEN / "imageset",
        """transform_param { crop_size: 11 mirror: true }
        window_data_param { source: "../../windows.txt" root_folder: "images/"
          batch_size: 5 context_pad: 1 scale: 0.01 }""",
    ),
    "HDF5Data": (
        GOLDEN / "data" / "data_hdf5",
        'hdf5_data_param { source: "list.txt" batch_size: 4 shuffle: true }',
    ),
    "MemoryData": (
        GOLDEN,
        """transform_param { mirror: true scale: 0.01 }
        memory_data_param { batch_size: 3 channels: 2 height: 4 width: 5 }""",
    ),
}
NET = """
layer {{ name: "d" type: "{kind}" top: "data" top: "label" {fields} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param {{ num_output: {classes} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }}
"""
SOLVER = f"""net: "fed.prototxt" base_lr: {RATE} lr_policy: "fixed" max_iter: {STEPS}
random_seed: {SEED} snapshot_prefix: "FOLDER/s" snapshot_format: BINARYPROTO
"""


class Case:
    """A net with one data layer and its solver; paths are those of the golden folder."""

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source, fields = DATA[kind]
        self.text = NET.format(kind=kind, fields=fields, classes=CLASSES)
        self.needs_images = kind == "MemoryData"
        self.path = folder / "solver.prototxt"
        (folder / "fed.prototxt").write_text(self.text)
        self.path.write_text(SOLVER.replace("FOLDER", str(folder)))
        monkeypatch.chdir(self.source)

    def solver(self, snapshot: Path | None = None) -> Solver:
        solver = Solver(self.path, snapshot=snapshot, device="cpu")
        self.give_images(solver.batches(solver.net)[0])
        return solver

    def batches(self) -> Batches:
        layer = parse_net(self.text).layer[0]
        (batches,) = open_batches(
            [make_layer(layer, Environment("net", "TRAIN", str(self.source)))], SEED
        )
        self.give_images(batches)
        return batches

    def give_images(self, batches: Batches) -> None:
        if self.needs_images:
            random = np.random.default_rng(2)
            images = random.integers(0, 256, (9, 2, 4, 5)).astype(np.uint8)
            batches.add(images, random.integers(0, CLASSES, 9))


@pytest.fixture(params=DATA)
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(request.param, tmp_path, monkeypatch)


def test_training_takes_every_batch_in_turn(case: Case) -> None:
    solver = case.solver()
    assert solver.solve()
    batches = case.batches()
    labels_seen = set()
    width = solver.net.params["fc"][0].shape[1]
    weight, bias = np.zeros((width, CLASSES)), np.zeros(CLASSES)
    for _ in range(STEPS):
        batch = batches.next()
        data = batch["data"].numpy().reshape(-1, width).astype(np.float64)
        labels = batch["label"].numpy().astype(int).ravel()
        labels_seen.update(labels)
        score = data @ weight + bias
        probability = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
        error = (probability - np.eye(CLASSES)[labels]) / len(labels)
        weight = weight - RATE * data.T @ error
        bias = bias - RATE * error.sum(axis=0)
    assert len(labels_seen) > 1
    found_weight, found_bias = (blob.detach().numpy() for blob in solver.net.params["fc"])
    # float32 sums against float64 ones: some 1e-6; one other batch would change the first digits.
    np.testing.assert_allclose(found_weight, weight.T, atol=1e-5 * np.abs(weight).max())
    np.testing.assert_allclose(found_bias, bias, atol=1e-5 * np.abs(bias).max())


def test_a_resumed_run_goes_on_with_the_next_batch(case: Case) -> None:
    whole = case.solver()
    for _ in range(3):
        whole.step()
    whole.snapshot()
    parts = case.solver(case.path.parent / "s_iter_3.solverstate")
    for _ in range(4):
        whole.step()
        parts.step()
    for one, other in zip(whole.net.params["fc"], parts.net.params["fc"], strict=True):
        np.testing.assert_array_equal(one.detach().numpy(), other.detach().numpy())


def test_feeds_are_the_nets_own_batches_without_end(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.needs_images:
        pytest.skip("MemoryData is given its images")
    net = load_net(case.path.parent / "fed.prototxt", phase="TRAIN")
    batches = case.batches()
    for found in islice(feeds(net, seed=SEED), 9):
        wanted = batches.next()
        assert found.keys() == wanted.keys() == set(net.inputs)
        assert all(np.array_equal(found[name], wanted[name]) for name in found)
        assert net.loss(found)[0].isfinite()


def test_feeds_of_a_file_say_what_is_wanted() -> None:
    with pytest.raises(TypeError, match=r"a net that load_net made, not 'net\.prototxt'"):
        next(feeds("net.prototxt"))  # type: ignore[arg-type]


def test_feeds_close_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("Data", tmp_path, monkeypatch)
    closed: list[Batches] = []
    close = Batches.close
    monkeypatch.setattr(Batches, "close", lambda one: (closed.append(one), close(one))[1])
    endless = feeds(load_net(case.path.parent / "fed.prototxt", phase="TRAIN"))
    next(endless)
    assert not closed
    endless.close()
    assert len(closed) == 1


def test_feeds_of_an_input_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_text(
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }'
    )
    with pytest.raises(DataError, match=r"Input reads no files; give its tops \(x\) as inputs"):
        next(feeds(load_net(path)))


def test_names_of_the_package_are_resolved_on_first_use() -> None:
    code = (
        "import sys, gmnet_pt; print('torch' in sys.modules, *dir(gmnet_pt))\n"
        "from gmnet_pt import *; print(callable(Solver), callable(feeds), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("False ")
    assert {"Solver", "feeds"} < set(first.split())
    assert second == "True True True"
    with pytest.raises(AttributeError, match="no attribute 'feed'"):
        gmnet_pt.feed  # noqa: B018
