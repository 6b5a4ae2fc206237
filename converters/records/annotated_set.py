"""Databases of images with boxes, as SSD's convert_annoset makes them, of VOC's or COCO's files.

`converters.records.annotations` reads those files; a record is `converters.records.annotated`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from converters.errors import DataError
from converters.formats.input_files import byte_order_mark, read_file
from converters.nearest import known_names
from converters.proto import caffe_pb2 as pb
from converters.records.annotated import Boxes, boxes_of, encode_annotated
from converters.records.annotations import Annotation, Coco, Thing, read_coco, read_voc
from converters.records.image_list import LARGEST_LIST, shown
from converters.records.images import decode, opencv, planes
from converters.records.imageset import Settings, compressed
from converters.records.lmdb_writer import create_lmdb
from converters.records.threads import in_threads
from converters.reporting import SILENT, Reporter

SETTINGS = Settings(encoded=True)
_TOGETHER = 64  # images that are read before their records are written
_OUTSIDE = 1.0
"""Pixels that a box may reach over its image's edge: annotators count from 0 and from 1."""


class Imported(NamedTuple):
    """How many records and boxes were written, and how many boxes were left out as impossible."""

    records: int
    boxes: int
    dropped: int


class _Line(NamedTuple):
    """An image of the list: its name, where it is named, and what is on it."""

    name: str
    place: str
    annotation: Path | Annotation


class _Record(NamedTuple):
    key: bytes
    value: bytes
    boxes: int
    dropped: int
    shape: tuple[int, ...]
    notes: tuple[str, ...]


def convert_annotated(
    root: str | Path,
    listed: Path,
    out: str | Path,
    labels: Mapping[str, int],
    settings: Settings = SETTINGS,
    drop_bad: bool = False,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> Imported:
    """Write images and their boxes to a new LMDB under keys `%08d_NAME`.

    A list has lines `IMAGE ANNOTATION`, both relative to `root`, an annotation being an .xml or
    .json file; or it is COCO's JSON of the whole set itself. Corners are divided by the width and
    height that the annotation tells, or else the image's. `drop_bad` leaves impossible boxes out.

    Raises:
        DataError: an empty or bad list, a missing file, a name that `labels` has not, a box that is
            inside out or outside its image, or with check_size images of different sizes.
        OutputError: `out` exists or cannot be written.
        MissingExtraError: OpenCV is not installed.
    """
    lines = _lines(root, listed)
    order = np.arange(len(lines))
    if settings.shuffle is not None:
        order = np.random.RandomState(settings.shuffle).permutation(len(lines))
    sets: dict[Path, Coco | Annotation] = {}
    for line in lines:
        path = line.annotation
        if isinstance(path, Path) and path.suffix.lower() == ".json" and path not in sets:
            sets[path] = read_coco(path)
    make = partial(_record, Path(root), labels, settings, drop_bad, sets)
    records = boxes = dropped = 0
    first: _Record | None = None
    with create_lmdb(out, force, expected=len(lines)) as writer:
        made = _in_turn(make, [(number, lines[row]) for number, row in enumerate(order.tolist())])
        for one in reporter.progress(made, str(out), len(lines), "images"):
            first = first or one
            if settings.check_size and one.shape != first.shape:
                raise DataError(
                    f"{listed}: {os.fsdecode(one.key[9:])} is {one.shape}, the images before it "
                    f"{first.shape}; give --resize, or leave --check-size out"
                )
            for note in one.notes:
                reporter.note(note)
            writer.put(one.key, one.value)
            records, boxes, dropped = records + 1, boxes + one.boxes, dropped + one.dropped
    return Imported(records, boxes, dropped)


def _in_turn(make: partial[_Record], numbered: Sequence[tuple[int, _Line]]) -> Iterator[_Record]:
    for start in range(0, len(numbered), _TOGETHER):
        yield from in_threads(make, numbered[start : start + _TOGETHER])


def _lines(root: str | Path, listed: Path) -> list[_Line]:
    if listed.suffix.lower() == ".json":
        found = read_coco(listed)
        if not isinstance(found, Coco):
            raise DataError(
                f"{listed}: is of one image; a list, or COCO's JSON of a set, is needed"
            )
        lines = [_Line(name, str(listed), one) for name, one in found.images.items()]
        if not lines:
            raise DataError(f"{listed}: names no image")
        return lines
    try:
        content = read_file(listed, LARGEST_LIST)
    except OSError as error:
        raise DataError(f"{listed}: cannot be read: {error.strerror or error}") from error
    if mark := byte_order_mark(content):
        raise DataError(f"{listed}: begins with {mark}")
    lines = []
    for number, line in enumerate(content.split(b"\n"), 1):
        words = line.split()
        if not words:
            continue
        place = f"{listed}:{number}"
        if len(words) != 2 or b"\0" in line:
            raise DataError(f"{place}: {shown(line)}: a line is IMAGE ANNOTATION, two names")
        image, annotation = map(os.fsdecode, words)
        path = Path(root) / annotation
        if path.suffix.lower() not in (".xml", ".json"):
            raise DataError(f"{place}: {annotation}: an annotation is an .xml or .json file")
        lines.append(_Line(image, place, path))
    if not lines:
        raise DataError(f"{listed}: names no image; a line is IMAGE ANNOTATION")
    return lines


def _record(
    root: Path,
    labels: Mapping[str, int],
    settings: Settings,
    drop_bad: bool,
    sets: Mapping[Path, Coco | Annotation],
    numbered: tuple[int, _Line],
) -> _Record:
    number, line = numbered
    path = root / line.name
    datum, height, width = _datum(path, line, settings)
    annotation, told = _annotation(line, sets)
    notes = []
    if annotation.height and annotation.width:
        if (annotation.height, annotation.width) != (height, width):
            notes.append(
                f"{told}: says that {line.name} has {annotation.height}×{annotation.width} pixels; "
                f"it has {height}×{width}"
            )
        height, width = annotation.height, annotation.width
    good = []
    for place, thing in enumerate(annotation.things, 1):
        problem = _problem(thing, height, width)
        if problem and not drop_bad:
            raise DataError(
                f"{told}: object {place} ({thing.names[-1]}) of {line.name}: {problem}; "
                "--drop-bad-boxes leaves such boxes out"
            )
        if not problem:
            good.append((thing, _label(thing, labels, f"{told}: object {place} of {line.name}")))
    boxes = _boxes(good, height, width)
    return _Record(
        b"%08d_%b" % (number, os.fsencode(line.name)),
        encode_annotated(datum, boxes),
        len(boxes),
        len(annotation.things) - len(boxes),
        (datum.height, datum.width),
        tuple(notes),
    )


def _annotation(
    line: _Line, sets: Mapping[Path, Coco | Annotation]
) -> tuple[Annotation, Path | str]:
    """What is on an image, and the file that says it."""
    if isinstance(line.annotation, Annotation):
        return line.annotation, line.place
    path = line.annotation
    if path not in sets:
        if not path.exists():
            raise DataError(f"{line.place}: {path} does not exist")
        return read_voc(path), path
    found = sets[path]
    one = found.of(line.name) if isinstance(found, Coco) else found
    if one is None:
        raise DataError(f"{line.place}: {path} has no image called {line.name}")
    return one, path


def _datum(path: Path, line: _Line, settings: Settings) -> tuple[pb.Datum, int, int]:
    """An image as it is stored, and its own height and width."""
    if not path.exists():
        raise DataError(f"{line.place}: image {path} does not exist")
    try:
        content = read_file(path)
        pixels = decode(content, not settings.gray)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if pixels is None:
        raise DataError(f"{line.place}: {path} is not an image that OpenCV can decode")
    height, width = pixels.shape[:2]
    if settings.resize is not None:
        pixels = opencv().resize(pixels, (settings.resize.width, settings.resize.height))
    image = planes(pixels)
    datum = pb.Datum(channels=image.shape[0], height=image.shape[1], width=image.shape[2], label=-1)
    if not settings.encoded:
        datum.data, datum.encoded = image.tobytes(), False
    else:
        as_it_is = settings.resize is None and not settings.gray
        datum.data = content if as_it_is else compressed(pixels, str(path))
        datum.encoded = True
    return datum, height, width


def _problem(thing: Thing, height: int, width: int) -> str:
    """What is wrong with a box on an image of that size; "" if nothing is."""
    xmin, ymin, xmax, ymax = thing.corners
    box = f"box {xmin:g}, {ymin:g} to {xmax:g}, {ymax:g}"
    if xmin >= xmax or ymin >= ymax:
        return f"{box} is empty or inside out"
    if min(xmin, ymin) < -_OUTSIDE or xmax > width + _OUTSIDE or ymax > height + _OUTSIDE:
        return f"{box} reaches outside the image of {width} by {height}"
    return ""


def _label(thing: Thing, labels: Mapping[str, int], place: str) -> int:
    for name in thing.names:
        if name in labels:
            return labels[name]
    name = thing.names[-1]
    raise DataError(f"{place}: the label map has no {name!r}{known_names(name, labels)}")


def _boxes(good: Sequence[tuple[Thing, int]], height: int, width: int) -> Boxes:
    size = np.array([width, height, width, height], np.float32)
    corners = np.array([thing.corners for thing, _ in good], np.float32).reshape(-1, 4) / size
    return boxes_of(
        corners.tolist(), [label for _, label in good], [thing.difficult for thing, _ in good]
    )
