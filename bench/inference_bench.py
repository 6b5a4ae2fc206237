"""Inference as users run it: `load_net` in phase TEST and `net(x)`, beside folded modules.

The hand-written module has its BatchNorm folded into the convolutions, and the best of what torch
offers: both memory layouts, frozen and optimised TorchScript, torch.compile (where there is a C++
compiler), its weights frozen.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from bench.agreement import copy_weights
from bench.cases import CASES, Case, write_deploy, write_training
from bench.hand_written.classifier import Probabilities
from bench.hand_written.training import LAYOUTS
from bench.options import Measurements, Options
from bench.rows import Measure, Row, alternate_for, fastest, seconds
from converters import CaffeNet, load_net, save_caffemodel
from converters.errors import DataError, NetError
from gmnet_pt import feeds

BATCHES = {
    "bua": (1, 32),
    "lenet": (1, 32),
    "alexnet": (1, 8),
    "googlenet": (1, 8),
    "resnet50": (1, 8),
}
OPENCV_BOUNDS = {("bua", 32): 1.0, ("lenet", 32): 1.0, ("alexnet", 8): 1.0}
"""The other rows beside OpenCV inform only."""
AGREEMENT = 1e-4
"""Of probabilities, absolutely; they are near 1 / classes or far above."""
AVERAGED = 3
"""Batches whose statistics BatchNorm has averaged before a net is used."""


def measurements(options: Options) -> Measurements:
    """Two rows for each net, one for each batch."""
    return {name: partial(_rows, CASES[name], options.budget / 2) for name in BATCHES}


def opencv(options: Options) -> Measurements:
    """The same beside OpenCV's Caffe importer."""
    if options.cv_python is None:
        return {}
    return {
        name: partial(_opencv_rows, CASES[name], options.cv_python, options.budget / 2)
        for name in BATCHES
    }


class Trained(NamedTuple):
    """A net's weights as a caffemodel, and as a module for inference."""

    weights: Path
    module: Probabilities


@contextmanager
def trained(case: Case) -> Iterator[Trained]:
    """Weights of the fillers, with statistics that are the data's."""
    with TemporaryDirectory(prefix="bench_") as folder:
        files = write_training(case, Path(folder), batch=8)
        net = load_net(files.net, phase="TRAIN")
        stream = feeds(net)
        with torch.no_grad():
            for _ in range(AVERAGED):
                net(next(stream))
        weights = Path(folder, "net.caffemodel")
        save_caffemodel(net, weights)
        module = case.module()
        copy_weights(case, net, module)
        yield Trained(weights, Probabilities(module).eval())


def _rows(case: Case, budget: float) -> Iterable[Row]:
    with trained(case) as made, torch.no_grad():
        for batch in BATCHES[case.name]:
            images = _images(case, batch)
            net = _ours(case, made, batch)
            ways = hand_written(made.module, images)
            best, tried = fastest(ways)
            if has_compiler():
                ways["compiled"] = compiled(made.module, images, best.split(", ")[1])
                tried |= fastest({"compiled": ways["compiled"]})[1]
                best = min(tried, key=tried.__getitem__)
            for name, way in ways.items():
                _require_equal(case, name, net(images)["prob"], way())
            ours, yardstick = alternate_for(budget, partial(net, images), ways[best], sample=0.1)
            yield Row(
                f"inference, {case.name}, batch {batch}",
                ours,
                yardstick,
                1.0,
                note=f"yardstick: {best}",
                tried=tried,
            ).in_milliseconds()


def hand_written(module: Probabilities, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The module run eagerly and as frozen TorchScript, in both layouts."""
    ways: dict[str, Callable[[], Tensor]] = {}
    for layout in LAYOUTS:
        own, given = _in_layout(module, images, layout)
        ways[f"eager, {layout}"] = partial(own, given)
        ways[f"frozen, {layout}"] = partial(_frozen(own, given), given)
    return ways


def compiled(module: Probabilities, images: Tensor, layout: str) -> Callable[[], Tensor]:
    """The module through torch.compile, which lays out frozen weights as it likes best."""
    own, given = _in_layout(module, images, layout)
    options: dict[str, Any] = {"freezing": True}
    way: Callable[[], Tensor] = partial(torch.compile(own, dynamic=False, options=options), given)
    way()
    return way


def _in_layout(module: Probabilities, images: Tensor, layout: str) -> tuple[Probabilities, Tensor]:
    kind = LAYOUTS[layout]
    own = copy.deepcopy(module).to(memory_format=kind)  # type: ignore[call-overload]
    return own, images.contiguous(memory_format=kind)


def has_compiler() -> bool:
    """Whether torch.compile finds what it needs for a CPU."""
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


def _frozen(module: Probabilities, images: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old, and says so
        traced = torch.jit.trace(module, images)  # type: ignore[no-untyped-call]
        return torch.jit.optimize_for_inference(torch.jit.freeze(traced))


def _ours(case: Case, made: Trained, batch: int) -> CaffeNet:
    path = write_deploy(case, made.weights.with_name(f"deploy{batch}.prototxt"), batch)
    return load_net(path, phase="TEST", weights=made.weights)


def _images(case: Case, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.rand(case.images.batch(batch), generator=generator) - 0.5


def _require_equal(case: Case, name: str, ours: Tensor, theirs: Tensor) -> None:
    apart = float((ours - theirs).abs().max())
    if not apart <= AGREEMENT:
        raise NetError(f"{case.name}: probabilities differ from {name} by {apart:g}")


# OpenCV ------------------------------------------------------------------------------------------

CHILD = """
import sys
import cv2
import numpy
model, weights, images, threads = sys.argv[1:]
cv2.setNumThreads(int(threads))
net = cv2.dnn.readNetFromCaffe(model, weights)
images = numpy.load(images)
net.setInput(images)
numpy.save(sys.argv[3] + ".out.npy", net.forward())
print(cv2.__version__, flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        net.setInput(images)
        net.forward()
    print(flush=True)
"""
"""What OpenCV's process runs: as many passes as a line says, answered by a line."""
TOGETHER = 0.05
"""Seconds of passes that are asked for at once: asking and answering take some 0.0001."""


class OpenCV:
    """A net in a process of OpenCV 4's; `with` ends it.

    Raises:
        DataError: that Python has no OpenCV with a Caffe importer, or it cannot read the net.
    """

    def __init__(self, python: Path, model: Path, weights: Path, images: Tensor) -> None:
        given = weights.with_name("images.npy")
        np.save(given, images.numpy())
        threads = str(torch.get_num_threads())
        self._process = subprocess.Popen(
            [python, "-c", CHILD, model, weights, given, threads],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer()
        self.result = torch.from_numpy(np.load(f"{given}.out.npy"))

    def run(self, passes: int) -> None:
        """So many passes on the images."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{passes}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise DataError(f"OpenCV ended: {self._process.stderr.read()[-300:]}")
        return line.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._process.communicate()


def beside(other: OpenCV, net: CaffeNet, images: Tensor, budget: float) -> tuple[Measure, Measure]:
    """Seconds of a pass of both, in alternation."""
    other.run(2)
    passes = max(1, round(TOGETHER / seconds(partial(other.run, 1))))
    ours, yardstick = alternate_for(
        budget,
        partial(_repeated, partial(net, images), passes),
        partial(other.run, passes),
        sample=0.1,
    )
    return ours * (1 / passes), yardstick * (1 / passes)


def _repeated(action: Callable[[], object], times: int) -> None:
    for _ in range(times):
        action()


def _opencv_rows(case: Case, python: Path, budget: float) -> Iterable[Row]:
    with trained(case) as made, torch.no_grad():
        for batch in BATCHES[case.name]:
            images, net = _images(case, batch), _ours(case, made, batch)
            model = made.weights.with_name(f"deploy{batch}.prototxt")
            with OpenCV(python, model, made.weights, images) as other:
                _require_equal(case, f"OpenCV {other.version}", net(images)["prob"], other.result)
                ours, yardstick = beside(other, net, images, budget)
            yield Row(
                f"inference, {case.name}, batch {batch}; OpenCV",
                ours,
                yardstick,
                OPENCV_BOUNDS.get((case.name, batch)),
                note=f"OpenCV {other.version}",
            ).in_milliseconds()
