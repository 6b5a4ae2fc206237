"""`gmnet classify`, `python -m gmnet_pt.classify`: the likeliest classes of images.

`gmnet_pt.options.classify` has the options. Source: Caffe
examples/cpp_classification/classification.cpp.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from converters.command_line.net_options import net_choice
from converters.command_line.program import run_program
from converters.command_line.suffix import form_of
from converters.errors import DataError, NetError, ShapeError, import_extra
from converters.formats.whole_files import written_beside
from converters.records.images import Pixels, opencv
from converters.reporting import escaped, shortened
from gmnet_pt.image_input import read_channel_means, read_image
from gmnet_pt.log.events import Message
from gmnet_pt.log.open_log import open_log
from gmnet_pt.net_command import OpenNet, open_net, use_threads
from gmnet_pt.options import classify as options
from gmnet_pt.solver.precision import FP32

FORMS = (".png", ".jpg", ".svg", ".pdf")
IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The files of a folder that are taken for images."""
MOST_DRAWN = 50
_LARGEST = 400


class Prediction(NamedTuple):
    """A class with the net's output for it."""

    label: str
    score: float


class Classified(NamedTuple):
    """An image and its likeliest classes; `image` (H, W, 3), RGB, where it is to be drawn."""

    path: Path
    predictions: list[Prediction]
    image: Pixels | None

    def plain(self) -> dict[str, Any]:
        """As JSON has it; a score that is not finite is null."""
        return {
            "image": str(self.path),
            "predictions": [
                {"label": label, "score": score if math.isfinite(score) else None}
                for label, score in self.predictions
            ],
        }


@dataclass(frozen=True)
class Preprocessing:
    """From an image to a net's input (1, C, H, W): channels, size, (pixel - mean) · scale."""

    channels: int
    height: int
    width: int
    mean: NDArray[np.float32]
    scale: float = 1.0

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """The input for an image (H, W) or (H, W, C): gray, BGR or BGRA as OpenCV reads it."""
        cv2 = opencv("classifying images")
        given = 1 if image.ndim == 2 else image.shape[2]
        conversions = {
            (3, 1): cv2.COLOR_BGR2GRAY,
            (4, 1): cv2.COLOR_BGRA2GRAY,
            (4, 3): cv2.COLOR_BGRA2BGR,
            (1, 3): cv2.COLOR_GRAY2BGR,
        }
        if (given, self.channels) in conversions:
            image = cv2.cvtColor(image, conversions[given, self.channels])
        if image.shape[:2] != (self.height, self.width):
            image = cv2.resize(image, (self.width, self.height))
        pixels = image.reshape(self.height, self.width, self.channels).astype(np.float32)
        result: NDArray[np.float32] = (pixels - self.mean) * np.float32(self.scale)
        return np.ascontiguousarray(result.transpose(2, 0, 1))[np.newaxis]


def run(args: argparse.Namespace) -> int:
    """Classify the images."""
    if args.draw:
        form_of(args.draw, FORMS)
    files = image_files(args.images)
    if args.draw and len(files) > MOST_DRAWN:
        raise DataError(f"--draw {args.draw}: {len(files)} images; at most {MOST_DRAWN} are drawn")
    use_threads(args.threads)
    log = open_log("caffe")
    opened = open_net(net_choice(args), args.device, log.show)
    preprocessing = read_preprocessing(opened, args.mean, args.scale)
    labels = read_labels(opened, args.labels)
    if args.mean is None:
        log.show(Message("No --mean: nothing is subtracted.", "classify.py:1", "W"))
    found = []
    for first in range(0, len(files), args.batch):
        paths = files[first : first + args.batch]
        images = [read_image(path) for path in paths]
        pixels = np.concatenate([preprocessing(image) for image in images])
        for path, image, scores in zip(paths, images, classify(opened, pixels), strict=True):
            predictions = likeliest(scores, labels, args.top)
            if not args.json:
                print(f"---------- Prediction for {path} ----------")
                for label, score in predictions:
                    print(f'{score:.4f} - "{label}"')
            found.append(Classified(path, predictions, thumbnail(image) if args.draw else None))
    if args.json:
        print(json.dumps([one.plain() for one in found], indent=1))
    if args.draw:
        draw_classes(found, args.draw)
    return 0


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and in the place of a folder its images in the order of their names.

    Raises:
        DataError: a folder has no images.
    """
    files: list[Path] = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
            if not inside:
                raise DataError(f"{path}: no images in this folder ({', '.join(IMAGES)})")
        files += inside
    return files


def read_preprocessing(opened: OpenNet, mean: str | None, scale: float) -> Preprocessing:
    """What makes images fit the net.

    Raises:
        NetError: the net has not one input (N, C, H, W) of 1 or 3 channels and one output.
        DataError: the mean cannot be read or has another number of channels.
    """
    plan = opened.net.plan
    shapes = list(plan.input_shapes().values())
    if len(shapes) != 1 or len(plan.outputs) != 1:
        raise NetError(
            f"{plan.source}: has inputs {', '.join(plan.inputs) or 'none'} and outputs "
            f"{', '.join(plan.outputs)}; classifying needs one of each (a deploy net)"
        )
    if len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        raise NetError(
            f"{plan.source}: input {next(iter(plan.inputs))} has shape {shapes[0]}; "
            "(N, C, H, W) with 1 or 3 channels is needed"
        )
    _, channels, height, width = shapes[0]
    return Preprocessing(channels, height, width, read_channel_means(mean, channels), scale)


def read_labels(opened: OpenNet, path: Path | None) -> list[str]:
    """The classes' names, a line each; their numbers without a file.

    Raises:
        DataError: the file cannot be read, or has another number of lines than the net outputs.
    """
    plan = opened.net.plan
    (value,) = plan.outputs.values()
    shape = next(
        shape
        for position in plan.layers
        for top, shape in zip(position.tops, position.top_shapes)
        if top == value
    )
    classes = shape[1] if len(shape) > 1 else 1
    if path is None:
        return [str(number) for number in range(classes)]
    try:
        labels = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(labels) != classes:
        raise DataError(
            f"{path}: has {len(labels)} labels, {plan.source} has {classes} outputs "
            f"(blob {next(iter(plan.outputs))}); a line for each is needed"
        )
    return labels


def classify(opened: OpenNet, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The net's output for inputs (N, C, H, W): scores (N, classes).

    They are one batch, unless the net's own shapes hold only one: then they go one by one.
    """
    if len(pixels) > 1:
        try:
            scores = _forward(opened, pixels)
        except ShapeError:
            pass
        else:
            if len(scores) == len(pixels):
                return scores.reshape(len(pixels), -1)
    rows = [_forward(opened, pixels[place : place + 1]).ravel() for place in range(len(pixels))]
    return np.stack(rows)


def _forward(opened: OpenNet, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    net, device = opened
    (name,) = net.inputs
    with torch.no_grad(), FP32.arithmetic(device):
        (output,) = net({name: torch.from_numpy(pixels).to(device)}).values()
    scores: NDArray[np.float32] = np.atleast_1d(output.float().cpu().numpy())
    return scores


def likeliest(scores: NDArray[np.float32], labels: Sequence[str], top: int) -> list[Prediction]:
    """The `top` classes by falling score; of equals the lower class first."""
    order = np.argsort(-scores[: len(labels)], kind="stable")[:top]
    return [Prediction(labels[place], float(scores[place])) for place in order]


def thumbnail(image: NDArray[Any]) -> Pixels:
    """An image as OpenCV reads it, in RGB of 8 bits and at most `_LARGEST` pixels a side."""
    cv2 = opencv("drawing images")
    factor = _LARGEST / max(image.shape[:2])
    if factor < 1:
        size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return rgb(image)


def rgb(image: NDArray[Any]) -> Pixels:
    """An image as OpenCV reads it, in RGB of 8 bits (H, W, 3)."""
    if image.dtype != np.uint8:
        image = (image * (255 / (float(image.max()) or 1))).clip(0, 255).astype(np.uint8)
    three = image[..., np.newaxis] if image.ndim == 2 else image[..., :3]
    return np.ascontiguousarray(three[..., ::-1].repeat(3 // three.shape[2], axis=2))


def draw_classes(found: Sequence[Classified], out: Path) -> None:
    """A row an image: on its right a bar and the score of each class.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: `out` cannot be written, or has a suffix that is not one of `FORMS`.
    """
    form = form_of(out, FORMS)
    figures = import_extra("matplotlib.figure", "matplotlib", "plots", "drawing classes")
    tall = max(2.0, 0.6 + 0.28 * max(len(one.predictions) for one in found))
    figure = figures.Figure(figsize=(9, tall * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 2, squeeze=False, width_ratios=(2, 3))
    largest = max((p.score for one in found for p in one.predictions), default=1.0)
    for (left, right), one in zip(axes, found, strict=True):
        left.imshow(one.image)
        left.set_axis_off()
        left.set_title(shortened(escaped(one.path.name), 40), fontsize=9, parse_math=False)
        places = range(len(one.predictions))
        right.barh(places, [p.score for p in one.predictions], color="#9ecae1", height=0.8)
        for place, (label, score) in enumerate(one.predictions):
            # Over the bar: a long name has the whole width.
            right.annotate(
                f"{score:.4f}  {shortened(escaped(label), 60)}",
                (0, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                parse_math=False,
            )
        right.set_xlim(0, largest if largest > 0 else 1)
        right.set_ylim(len(one.predictions) - 0.4, -0.6)
        right.set_axis_off()
    with written_beside(out) as partial, warnings.catch_warnings(action="ignore"):
        figure.savefig(partial, format=form[1:], dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and classify."""
    return run_program("gmnet_pt.classify", options.__doc__, options.configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
