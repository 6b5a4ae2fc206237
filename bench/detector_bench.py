"""Detectors: SSD300's DetectionOutput for an image; a MobileNet-SSD beside OpenCV 4's importer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from google.protobuf import text_format
from torch import Tensor

from bench.inference_bench import OpenCV, beside
from bench.nets.mobilenet_ssd import mobilenet_ssd
from bench.options import Measurements, Options
from bench.rows import Measure, Row, seconds
from converters import CaffeNet, load_net, save_caffemodel
from converters.errors import NetError

PRIORS, CLASSES = 8732, 21
"""SSD300's, background included."""
MILLISECONDS = 15.0
"""What DetectionOutput may take for one image."""
_AGREEMENT = 1e-3

_OUTPUT = f"""
layer {{ name: "data" type: "Input" top: "loc" top: "conf" top: "prior" input_param {{
  shape {{ dim: 1 dim: {4 * PRIORS} }}
  shape {{ dim: 1 dim: {CLASSES * PRIORS} }}
  shape {{ dim: 1 dim: 2 dim: {4 * PRIORS} }} }} }}
layer {{ name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
  detection_output_param {{ num_classes: {CLASSES} code_type: CENTER_SIZE
    nms_param {{ nms_threshold: 0.45 top_k: 400 }}
    keep_top_k: 200 confidence_threshold: 0.01 }} }}
"""


def measurements(options: Options) -> Measurements:
    """The layer alone; the whole net where there is an OpenCV to compare with."""
    rows = {"output": partial(_output, options.budget)}
    if options.cv_python is not None:
        rows["mobilenet_ssd"] = partial(_beside_opencv, options.cv_python, options.budget)
    return rows


def _output(budget: float) -> Iterable[Row]:
    with TemporaryDirectory(prefix="bench_") as folder, torch.no_grad():
        path = Path(folder, "output.prototxt")
        path.write_text(_OUTPUT)
        net, given = load_net(path, phase="TEST"), _predictions()
        net(given)
        taken = tuple(seconds(partial(net, given), 5) for _ in range(max(5, int(budget))))
    found = int(net(given)["out"].shape[2])
    yield Row(
        f"DetectionOutput, SSD300, {PRIORS} boxes, {CLASSES} classes, batch 1; {MILLISECONDS:g} ms",
        Measure(taken),
        Measure((MILLISECONDS / 1000,)),
        1.0,
        note=f"{found} detections",
    ).in_milliseconds()


def _predictions() -> dict[str, Tensor]:
    """Boxes all over the image, with a few objects of high scores, as a trained net gives them."""
    random = torch.Generator().manual_seed(0)
    centers = torch.rand(PRIORS, 2, generator=random)
    halves = 0.02 + 0.2 * torch.rand(PRIORS, 2, generator=random)
    boxes = torch.cat([centers - halves, centers + halves], 1)
    variances = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(PRIORS)
    logits = torch.randn(PRIORS, CLASSES, generator=random)
    logits[:, 0] += 5
    near = torch.cdist(centers, torch.rand(6, 2, generator=random)).min(1)
    logits[torch.arange(PRIORS), 1 + near.indices] += 8 * torch.exp(-((near.values / 0.05) ** 2))
    return {
        "loc": 0.1 * torch.randn(1, 4 * PRIORS, generator=random),
        "conf": logits.softmax(1).reshape(1, -1),
        "prior": torch.stack([boxes.reshape(-1), variances])[None],
    }


def _beside_opencv(python: Path, budget: float) -> Iterable[Row]:
    with TemporaryDirectory(prefix="bench_") as folder, torch.no_grad():
        model, weights = Path(folder, "net.prototxt"), Path(folder, "net.caffemodel")
        model.write_text(text_format.MessageToString(mobilenet_ssd()))
        torch.manual_seed(0)
        save_caffemodel(load_net(model, phase="TEST"), weights)
        net = load_net(model, phase="TEST", weights=weights)
        images = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0)) - 0.5
        with OpenCV(python, model, weights, images) as other:
            found = _require_equal(net, images, other)
            ours, yardstick = beside(other, net, images, budget)
        yield Row(
            "inference, a MobileNet-SSD, batch 1; OpenCV",
            ours,
            yardstick,
            1.0,
            note=f"OpenCV {other.version}; {found} detections",
        ).in_milliseconds()


def _require_equal(net: CaffeNet, images: Tensor, other: OpenCV) -> int:
    """The number of detections, of which each has its like in the other's.

    Raises:
        NetError: another number, or another class, score or box.
    """
    ours, theirs = net(images)["detection_out"][0, 0], other.result[0, 0]
    theirs = theirs[theirs[:, 2] > 0]  # it fills up with rows of zeros
    apart = math.inf
    if ours.shape == theirs.shape:
        between = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")
        apart = float(between.min(1).values.max())
    if not apart <= _AGREEMENT:
        raise NetError(
            f"detections differ from OpenCV {other.version}: {len(ours)} and {len(theirs)}, "
            f"{apart:g} apart"
        )
    return len(ours)
