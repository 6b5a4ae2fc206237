"""A synthetic set for detectors: coloured circles, squares and triangles, with VOC's annotations.

`converters.records.annotated_set` makes databases of what is written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from converters.errors import OutputError
from converters.records.images import Pixels, opencv
from converters.reporting import SILENT, Reporter

CLASSES = ("circle", "square", "triangle")
"""Labels 1, 2 and 3; 0 is the background."""
_MOST = 3  # shapes on an image
_SIDES = (0.2, 0.5)  # of a shape, in parts of the image's side
_OVERLAP = 0.1  # what part of a shape others may hide


class Shape(NamedTuple):
    """A shape and its box in pixels, the last ones included."""

    name: str
    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Scene(NamedTuple):
    """An image (H, W, 3) BGR and the shapes on it."""

    pixels: Pixels
    shapes: list[Shape]


def scenes(number: int, side: int, seed: int) -> Iterator[Scene]:
    """`number` images of `side` × `side` pixels; a seed always gives the same."""
    for index in range(number):
        yield _scene(side, np.random.default_rng((seed, index)))


def _scene(side: int, random: np.random.Generator) -> Scene:
    cv2 = opencv("drawing shapes")
    background = random.integers(0, 256, 3)
    pixels = np.clip(background + random.normal(0, 12, (side, side, 3)), 0, 255).astype(np.uint8)
    pixels = cv2.GaussianBlur(pixels, (3, 3), 0)
    shapes: list[Shape] = []
    for _ in range(random.integers(1, _MOST + 1)):
        sides = random.uniform(*_SIDES) * side * random.uniform(0.85, 1, 2)
        width, height = np.maximum(sides.astype(int), 6).tolist()
        left, top = (int(random.integers(side - one)) for one in (width, height))
        shape = Shape(str(random.choice(CLASSES)), left, top, left + width, top + height)
        if any(_hidden(shape, other) > _OVERLAP for other in shapes):
            continue
        shapes.append(shape)
        _draw(cv2, pixels, shape, _colour(background, random))
    return Scene(pixels, shapes)


def _colour(background: np.ndarray, random: np.random.Generator) -> list[int]:
    """A colour that stands out from the background."""
    while True:
        colour = random.integers(0, 256, 3)
        if np.abs(colour - background).max() > 80:
            return [int(value) for value in colour]


def _hidden(one: Shape, other: Shape) -> float:
    """What part of the smaller box the other one has in common with it."""
    width = min(one.xmax, other.xmax) - max(one.xmin, other.xmin)
    height = min(one.ymax, other.ymax) - max(one.ymin, other.ymin)
    smaller = min((s.xmax - s.xmin) * (s.ymax - s.ymin) for s in (one, other))
    return max(width, 0) * max(height, 0) / smaller


def _draw(cv2: Any, pixels: Pixels, shape: Shape, colour: list[int]) -> None:
    _, xmin, ymin, xmax, ymax = shape
    if shape.name == "square":
        cv2.rectangle(pixels, (xmin, ymin), (xmax, ymax), colour, cv2.FILLED)
    elif shape.name == "circle":
        box = ((xmin + xmax) / 2, (ymin + ymax) / 2), (xmax - xmin, ymax - ymin), 0
        cv2.ellipse(pixels, box, colour, cv2.FILLED)
    else:
        corners = [((xmin + xmax) // 2, ymin), (xmin, ymax), (xmax, ymax)]
        cv2.fillPoly(pixels, [np.array(corners, np.int32)], colour)


def write_shapes(
    folder: Path, train: int, test: int, side: int, seed: int = 1, reporter: Reporter = SILENT
) -> None:
    """Write images/, annotations/ (VOC's XML), train.txt, test.txt and labelmap.prototxt.

    Raises:
        OutputError: something cannot be written.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = opencv("drawing shapes")
    for split, (name, number) in enumerate((("train", train), ("test", test))):
        lines = []
        made = reporter.progress(scenes(number, side, 2 * seed + split), name, number, "images")
        for index, scene in enumerate(made):
            stem = f"{name}_{index:05}"
            image, annotation = f"images/{stem}.png", f"annotations/{stem}.xml"
            _write(folder / image, bytes(cv2.imencode(".png", scene.pixels)[1]))
            _write(folder / annotation, _voc(image, side, scene.shapes))
            lines.append(f"{image} {annotation}\n")
        _write(folder / f"{name}.txt", "".join(lines))
    items = ("background", *CLASSES)
    _write(
        folder / "labelmap.prototxt",
        "".join(f'item {{ name: "{one}" label: {label} }}\n' for label, one in enumerate(items)),
    )


def _voc(image: str, side: int, shapes: list[Shape]) -> str:
    objects = "".join(
        f"  <object>\n    <name>{name}</name>\n    <bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>\n  </object>\n"
        for name, xmin, ymin, xmax, ymax in shapes
    )
    return (
        f"<annotation>\n  <filename>{Path(image).name}</filename>\n  <size><width>{side}</width>"
        f"<height>{side}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )


def _write(path: Path, content: str | bytes) -> None:
    """Write a file of many; one that an interruption cuts short is made again with all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
