"""The nets that are measured: their Caffe form, their hand-written form, and what they learn from.

Files for a case, its database among them, are written into a scratch folder (`write_training`,
`write_deploy`): what is measured is what a user has.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import lmdb
import numpy as np
from google.protobuf import text_format

from bench.hand_written.rule import (
    RatesOf,
    Rule,
    bias_twice,
    cifar10_full_rates,
    equal_rates,
    lenet_rates,
)
from bench.nets.alexnet import alexnet
from bench.nets.builder import deploy
from bench.nets.cifar10_full import cifar10_full
from bench.nets.googlenet import googlenet
from bench.nets.lenet import lenet
from bench.nets.resnet50 import resnet50
from bench.processes import environment
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from bench.hand_written.classifier import Classifier

RECORDS = 8
"""Batches in a database, at least; its readers go round and round …"""
DATABASE = 8 << 20
"""… and bytes, so that small images do not come round in the twinkling of an eye."""


class Images(NamedTuple):
    """Pixels as they are stored, (channels, stored, stored), and the side that the net sees."""

    channels: int
    stored: int
    seen: int

    def batch(self, count: int) -> tuple[int, int, int, int]:
        """Shape of a batch as the net takes it."""
        return count, self.channels, self.seen, self.seen


@dataclass(frozen=True)
class Case:
    """A net and its usual batch.

    Args:
        name: on the command line and in tables.
        batch: images in a step.
        images: what it learns from, `classes` of them, drawn at random.
        layers: the Caffe net without data layers.
        hand_written: name of the function or class in `bench.hand_written.MODULE`.
        rates: lr_mult and decay_mult of a parameter of the hand-written module, by its name.
        transform: text of transform_param; `mean_image` adds a mean_file.
        bound: of the time of a training step.
    """

    name: str
    batch: int
    images: Images
    classes: int
    layers: Callable[[], pb.NetParameter]
    hand_written: str
    rule: Rule
    rates: RatesOf = equal_rates
    transform: str = ""
    mean_image: bool = False
    bound: float = 1.0

    def module(self) -> Classifier:
        """A new hand-written module, in training mode."""
        place, name = self.hand_written.rsplit(".", 1)
        made: Classifier = getattr(importlib.import_module(f"bench.hand_written.{place}"), name)()
        return made

    def without_dropout(self) -> Case:
        """The same net where nothing is random, for comparisons."""

        def layers() -> pb.NetParameter:
            net = pb.NetParameter()
            net.CopyFrom(self.layers())
            for layer in net.layer:
                if layer.type == "Dropout":
                    layer.dropout_param.dropout_ratio = 0
            return net

        return replace(self, layers=layers)


@cache
def _generated(variant: str) -> pb.NetParameter:
    """What `python -m prototxt_gen VARIANT` writes, less its data layers and accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "prototxt_gen", variant, "--mean", "none", "--out", folder],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment(),
        )
        text = next(Path(folder).rglob("net.prototxt")).read_text()
    whole = text_format.Parse(text, pb.NetParameter())
    net = pb.NetParameter(name=whole.name)
    net.layer.extend(layer for layer in whole.layer if not layer.include)
    return net


_CIFAR = Images(3, 32, 32)
_CIFAR_MEAN = "mean_value: 125.3 mean_value: 123 mean_value: 113.9"
_GMNET = Rule(0.1, 1e-4, nesterov=True)

CASES = {
    case.name: case
    for case in (
        Case(
            "bua",
            64,
            _CIFAR,
            10,
            partial(_generated, "bua"),
            "gmnet.bua",
            _GMNET,
            transform=_CIFAR_MEAN,
            bound=0.9,
        ),
        Case(
            "baseline",
            64,
            _CIFAR,
            10,
            partial(_generated, "baseline"),
            "gmnet.baseline",
            _GMNET,
            transform=_CIFAR_MEAN,
            bound=0.9,
        ),
        Case(
            "lenet",
            64,
            Images(1, 28, 28),
            10,
            lenet,
            "lenet.LeNet",
            Rule(0.01, 0.0005),
            lenet_rates,
            transform="scale: 0.00390625",
        ),
        Case(
            "cifar10_full",
            100,
            _CIFAR,
            10,
            cifar10_full,
            "cifar10_full.Cifar10Full",
            Rule(0.001, 0.004),
            cifar10_full_rates,
            mean_image=True,
        ),
        Case(
            "alexnet",
            16,
            Images(3, 256, 227),
            1000,
            alexnet,
            "alexnet.AlexNet",
            Rule(0.01, 0.0005),
            bias_twice,
            transform="mirror: true crop_size: 227",
            mean_image=True,
        ),
        Case(
            "googlenet",
            8,
            Images(3, 256, 224),
            1000,
            googlenet,
            "googlenet.GoogLeNet",
            Rule(0.01, 0.0002),
            bias_twice,
            transform="mirror: true crop_size: 224 mean_value: 104 mean_value: 117 mean_value: 123",
        ),
        Case(
            "resnet50",
            8,
            Images(3, 256, 224),
            1000,
            resnet50,
            "resnet50.ResNet50",
            Rule(0.1, 1e-4),
            transform="mirror: true crop_size: 224 mean_value: 104 mean_value: 117 mean_value: 123",
        ),
    )
}
"""By name. Batches, rates and transformations are those of the nets' own solvers and data layers,
batches of the three largest aside, which are as large as 2 cores bear."""


class Training(NamedTuple):
    """Files of a training: net.prototxt and solver.prototxt, which names it, in one folder."""

    net: Path
    solver: Path


def write_training(
    case: Case, folder: Path, batch: int = 0, jpeg: bool = False, solver: str = ""
) -> Training:
    """Net, solver, mean and database of a case; `solver` is text with more of the solver's fields.

    With `jpeg` the database holds compressed images.
    """
    batch = batch or case.batch
    net = pb.NetParameter()
    net.name = case.layers().name
    data = net.layer.add(name="data", type="Data", top=["data", "label"])
    text_format.Merge(case.transform, data.transform_param)
    if case.mean_image:
        data.transform_param.mean_file = str(_write_mean(case.images, folder / "mean.binaryproto"))
    data.data_param.source = str(folder / "lmdb")
    data.data_param.batch_size = batch
    data.data_param.backend = pb.DataParameter.LMDB
    net.layer.extend(case.layers().layer)
    image = case.images.channels * case.images.stored**2
    count = max(RECORDS, DATABASE // (batch * image)) * batch
    write_database(folder / "lmdb", case.images, case.classes, count, jpeg)
    files = Training(folder / "net.prototxt", folder / "solver.prototxt")
    files.net.write_text(text_format.MessageToString(net))
    rule = case.rule
    param = pb.SolverParameter(
        net=str(files.net),
        type="Nesterov" if rule.nesterov else "SGD",
        base_lr=rule.base_lr,
        momentum=rule.momentum,
        weight_decay=rule.weight_decay,
        lr_policy="fixed",
        random_seed=1,
        snapshot_prefix=str(folder / case.name),
        snapshot_after_train=False,
    )
    text_format.Merge(solver, param)
    files.solver.write_text(text_format.MessageToString(param))
    return files


def write_deploy(case: Case, path: Path, batch: int) -> Path:
    """The net for inference on a batch, from "data" to "prob"."""
    net = deploy(case.layers(), case.images.batch(batch))
    path.write_text(text_format.MessageToString(net))
    return path


def write_database(path: Path, images: Images, classes: int, count: int, jpeg: bool) -> None:
    """`count` images of noise, or smooth ones as JPEG, in an LMDB."""
    random = np.random.default_rng(0)
    side = images.stored
    path.mkdir()
    with lmdb.open(str(path), map_size=1 << 32) as env, env.begin(write=True) as transaction:
        for index in range(count):
            pixels = random.integers(0, 256, (images.channels, side, side), np.uint8)
            datum = pb.Datum(label=int(random.integers(classes)))
            if jpeg:
                datum.data, datum.encoded = _compressed(pixels), True
            else:
                datum.channels, datum.height, datum.width = pixels.shape
                datum.data = pixels.tobytes()
            transaction.put(b"%08d" % index, datum.SerializeToString())


def _compressed(pixels: np.ndarray) -> bytes:
    import cv2

    done, jpeg = cv2.imencode(".jpg", cv2.blur(pixels.transpose(1, 2, 0), (5, 5)))
    if not done:
        raise OSError("OpenCV compressed no JPEG")
    return bytes(jpeg)


def _write_mean(images: Images, path: Path) -> Path:
    shape = (images.channels, images.stored, images.stored)
    values = np.random.default_rng(0).uniform(100, 150, shape)
    blob = pb.BlobProto(num=1, channels=shape[0], height=shape[1], width=shape[2])
    blob.data.extend(values.ravel().tolist())
    path.write_bytes(blob.SerializeToString())
    return path
