"""`gmnet classify`, `python -m gmnet_pt.classify`: the likeliest classes of images.

`gmnet_pt.options.classify` has the options. Source: Caffe
examples/cpp_classification/classification.cpp.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from converters.command_line.net_options import net_choice
from converters.command_line.program import run_program
from converters.errors import DataError, NetError
from converters.records.images import opencv
from gmnet_pt.image_input import read_channel_means, read_image
from gmnet_pt.log.events import Message
from gmnet_pt.log.open_log import open_log
from gmnet_pt.net_command import OpenNet, open_net, use_threads
from gmnet_pt.options import classify as options
from gmnet_pt.solver.precision import FP32


class Prediction(NamedTuple):
    """A class with the net's output for it."""

    label: str
    score: float


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
    use_threads(args.threads)
    log = open_log("caffe")
    opened = open_net(net_choice(args), args.device, log.show)
    preprocessing = read_preprocessing(opened, args.mean, args.scale)
    labels = read_labels(opened, args.labels)
    if args.mean is None:
        log.show(Message("No --mean: nothing is subtracted.", "classify.py:1", "W"))
    for path in args.images:
        scores = classify(opened, preprocessing(read_image(path)))
        print(f"---------- Prediction for {path} ----------")
        for label, score in likeliest(scores, labels, args.top):
            print(f'{score:.4f} - "{label}"')
    return 0


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
    """The net's output for one input (1, C, H, W), a score a class."""
    net, device = opened
    (name,) = net.inputs
    with torch.no_grad(), FP32.arithmetic(device):
        (output,) = net({name: torch.from_numpy(pixels).to(device)}).values()
    scores: NDArray[np.float32] = output.float().flatten().cpu().numpy()
    return scores


def likeliest(scores: NDArray[np.float32], labels: Sequence[str], top: int) -> list[Prediction]:
    """The `top` classes by falling score; of equals the lower class first."""
    order = np.argsort(-scores[: len(labels)], kind="stable")[:top]
    return [Prediction(labels[place], float(scores[place])) for place in order]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and classify."""
    return run_program("gmnet_pt.classify", options.__doc__, options.configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
