"""`gmnet detect`, `python -m gmnet_pt.detect`: the objects that a detector finds on images.

`gmnet_pt.options.detect` has the options. Source: SSD's examples/ssd/ssd_detect.cpp.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from converters.command_line.net_options import net_choice
from converters.command_line.program import run_program
from converters.command_line.suffix import form_of
from converters.errors import NetError, OutputError, import_extra
from converters.formats.whole_files import written_beside
from converters.prototxt.label_map import read_label_map, shown_names
from converters.prototxt.text import read_text
from converters.reporting import escaped, shortened
from gmnet_pt.classify import FORMS, Preprocessing, image_files, rgb
from gmnet_pt.image_input import read_channel_means, read_image
from gmnet_pt.log.events import Message
from gmnet_pt.log.open_log import open_log
from gmnet_pt.net_command import OpenNet, open_net, use_threads
from gmnet_pt.options import detect as options
from gmnet_pt.solver.precision import FP32

COLUMNS = 7
DRAWN = 0.5
"""The least score of what is printed and drawn, unless another is given."""
_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008080",
    "#9a6324",
    "#800000",
    "#808000",
    "#000075",
)
_SMALLEST, _LARGEST = 480, 1600
"""Pixels of a picture's longer side."""


class Detection(NamedTuple):
    """An object: its class, the score, and its box in pixels, xmin, ymin, xmax, ymax."""

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]


class Detected(NamedTuple):
    """An image, its size, and what was found on it, by falling score."""

    path: Path
    height: int
    width: int
    detections: list[Detection]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "image": str(self.path),
            "width": self.width,
            "height": self.height,
            "detections": [{**one._asdict(), "box": list(one.box)} for one in self.detections],
        }


def run(args: argparse.Namespace) -> int:
    """Find the objects on the images."""
    files = image_files(args.images)
    pictures = picture_files(args.out, files) if args.out else []
    names = read_names(args.labels) if args.labels else {}
    use_threads(args.threads)
    log = open_log("caffe")
    opened = open_net(net_choice(args), args.device, log.show)
    preprocessing = read_preprocessing(opened, args.mean, args.scale)
    if args.mean is None:
        log.show(Message("No --mean: nothing is subtracted.", "detect.py:1", "W"))
    least = DRAWN if args.threshold is None else args.threshold
    found = []
    for number, path in enumerate(files):
        image = read_image(path)
        one = detect(opened, preprocessing, path, image, names)
        shown = one._replace(detections=[d for d in one.detections if d.score >= least])
        for _, name, score, box in shown.detections:
            print(path, name, f"{score:.4f}", *(f"{edge:.1f}" for edge in box))
        if args.out:
            draw_boxes(shown, image, pictures[number])
        found.append(one if args.threshold is None else shown)
    if args.json:
        with written_beside(args.json) as partial:
            text = json.dumps([one.plain() for one in found], indent=1)
            partial.write_text(text + "\n", encoding="utf-8")
    return 0


def picture_files(out: str, images: Sequence[Path]) -> list[Path]:
    """The picture of each image: `out` itself, or a .png of the image's name in that folder.

    Raises:
        OutputError: several images and no folder, or a suffix that is not one of `FORMS`.
    """
    path = Path(out)
    if not (out.endswith("/") or path.is_dir()):
        if len(images) > 1:
            raise OutputError(
                f"--out {out}: {len(images)} images need a folder, a picture each: --out {out}/"
            )
        form_of(path, FORMS, "; or a folder, DIR/")
        return [path]
    path.mkdir(parents=True, exist_ok=True)
    times: Counter[str] = Counter()
    pictures = []
    for image in images:
        times[image.stem] += 1
        again = f"_{times[image.stem]}" if times[image.stem] > 1 else ""
        pictures.append(path / f"{image.stem}{again}.png")
    return pictures


def read_names(path: Path) -> dict[int, str]:
    """What each label is called: a label map's names for display, or a line each.

    Raises:
        DataError, PrototxtError: the file cannot be read, or is a label map with mistakes.
    """
    text = read_text(path)
    if re.search(r"^\s*item\b", text, re.MULTILINE):
        return shown_names(read_label_map(path))
    return dict(enumerate(text.splitlines()))


def read_preprocessing(opened: OpenNet, mean: str | None, scale: float) -> Preprocessing:
    """What makes images fit the net.

    Raises:
        NetError: the net has not one input (N, C, H, W) of 1 or 3 channels, or no detections.
        DataError: the mean cannot be read or has another number of channels.
    """
    plan = opened.net.plan
    shapes = plan.input_shapes()
    shape = next(iter(shapes.values()), ())
    if len(shapes) != 1 or len(shape) != 4 or shape[1] not in (1, 3):
        told = ", ".join(f"{name} {size}" for name, size in shapes.items()) or "none"
        raise NetError(
            f"{plan.source}: has inputs {told}; one (N, C, H, W) with 1 or 3 channels is needed"
        )
    detections_of(opened)
    _, channels, height, width = shape
    return Preprocessing(channels, height, width, read_channel_means(mean, channels), scale)


def detections_of(opened: OpenNet) -> str:
    """The output that has the detections.

    Raises:
        NetError: there is not one output (1, 1, K, 7).
    """
    plan = opened.net.plan
    shapes = {
        value: shape
        for position in plan.layers
        for value, shape in zip(position.tops, position.top_shapes)
    }
    found = {name: shapes[value] for name, value in plan.outputs.items()}
    fitting = [n for n, size in found.items() if len(size) == 4 and size[3] == COLUMNS]
    if len(fitting) != 1:
        told = ", ".join(f"{name} {size}" for name, size in found.items()) or "none"
        raise NetError(
            f"{plan.source}: has outputs {told}; one of detections (1, 1, K, {COLUMNS}), as "
            "DetectionOutput has it, is needed"
        )
    return fitting[0]


def detect(
    opened: OpenNet,
    preprocessing: Preprocessing,
    path: Path,
    image: NDArray[Any],
    names: Mapping[int, str],
) -> Detected:
    """What the net finds on an image as OpenCV reads it."""
    net, device = opened
    (name,) = net.inputs
    pixels = torch.from_numpy(preprocessing(image)).to(device)
    with torch.no_grad(), FP32.arithmetic(device):
        output = net({name: pixels})[detections_of(opened)]
    rows: NDArray[np.float32] = output.float().cpu().numpy().reshape(-1, COLUMNS)
    # Without a detection there is a row an image, of the label -1.
    rows = rows[(rows[:, 1] >= 0) & np.isfinite(rows).all(axis=1)]
    rows = rows[np.argsort(-rows[:, 2], kind="stable")]
    height, width = image.shape[:2]
    boxes = rows[:, 3:].clip(0, 1).astype(float) * [width, height, width, height]
    return Detected(
        path,
        height,
        width,
        [
            Detection(int(row[1]), names.get(int(row[1]), str(int(row[1]))), float(row[2]), box)
            for row, box in zip(rows, map(tuple, boxes.tolist()))
        ],
    )


def draw_boxes(found: Detected, image: NDArray[Any], out: Path) -> None:
    """The image with its boxes, each with class and score, in a colour a class.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: `out` cannot be written, or has a suffix that is not one of `FORMS`.
    """
    form = form_of(out, FORMS)
    figures = import_extra("matplotlib.figure", "matplotlib", "plots", "drawing boxes")
    longest = max(found.height, found.width)
    factor = min(max(longest, _SMALLEST), _LARGEST) / longest
    size = (found.width * factor / 100, found.height * factor / 100)
    figure = figures.Figure(figsize=size, dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(rgb(image), extent=(0, found.width, found.height, 0), aspect="auto")
    axes.set_axis_off()
    # The likeliest last: over the others.
    for label, name, score, (xmin, ymin, xmax, ymax) in reversed(found.detections):
        colour = _COLOURS[label % len(_COLOURS)]
        xs, ys = (xmin, xmax, xmax, xmin, xmin), (ymin, ymin, ymax, ymax, ymin)
        axes.plot(xs, ys, color=colour, linewidth=2)
        above = ymin * factor > 16
        left = xmin * factor < found.width * factor - 80
        axes.annotate(
            f"{shortened(escaped(name), 30)} {score:.2f}",
            (xmin if left else xmax, ymin),
            (0, 1 if above else -2),
            textcoords="offset points",
            ha="left" if left else "right",
            va="bottom" if above else "top",
            color="white",
            fontsize=8,
            parse_math=False,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
        )
    axes.set_xlim(0, found.width)
    axes.set_ylim(found.height, 0)
    with written_beside(out) as partial, warnings.catch_warnings(action="ignore"):
        figure.savefig(partial, format=form[1:], dpi=100)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and detect."""
    return run_program("gmnet_pt.detect", options.__doc__, options.configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
