"""Files of detections, as the evaluations of VOC, COCO and ILSVRC take them.

DetectionOutput writes them with save_output_param. Source: weiliu89/caffe
detection_output_layer.cpp.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from converters.formats.whole_files import written_beside
from converters.raw_text import encoded, file_name
from converters.registry import Registry

_NUMBER = re.compile(r"null|true|false|-?[0-9]+(\.[0-9]+)?")


def _hundredths(value: float) -> float:
    return math.floor(value * 100 + 0.5) / 100


class Found(NamedTuple):
    """A detection: the image's name, the label and its name, the score, and corners in pixels."""

    image: str
    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]

    def side_by_side(self) -> tuple[float, float, float, float]:
        """Left, top, width and height, to hundredths of a pixel."""
        left, top, right, bottom = self.box
        return (
            _hundredths(left),
            _hundredths(top),
            _hundredths(right - left),
            _hundredths(bottom - top),
        )

    def whole(self) -> str:
        """The corners in whole pixels: what is behind the point is dropped, of the sides too."""
        left, top, width, height = map(int, self.side_by_side())
        return f"{left} {top} {left + width} {top + height}"


Form = Callable[[str, Sequence[str], Sequence[Found]], Iterator[tuple[str, str]]]
"""The names and texts of the files for a prefix, the names of the labels, and detections."""

FORMS: Registry[Form] = Registry("output_format")


@FORMS.add("VOC")
def _voc(prefix: str, names: Sequence[str], found: Sequence[Found]) -> Iterator[tuple[str, str]]:
    """PREFIXlabel.txt for each label: image, score, corners."""
    for name in names:
        lines = (f"{one.image} {one.score:g} {one.whole()}\n" for one in found if one.name == name)
        yield f"{prefix}{name}.txt", "".join(lines)


@FORMS.add("ILSVRC")
def _ilsvrc(prefix: str, names: Sequence[str], found: Sequence[Found]) -> Iterator[tuple[str, str]]:
    """PREFIX.txt: image, label, score, corners."""
    lines = (f"{one.image} {one.label} {one.score:g} {one.whole()}\n" for one in found)
    yield f"{prefix}.txt", "".join(lines)


@FORMS.add("COCO")
def _coco(prefix: str, names: Sequence[str], found: Sequence[Found]) -> Iterator[tuple[str, str]]:
    """PREFIX.json: a list of image_id, category_id (the label's name), bbox and score.

    Names that are numbers are written as numbers.
    """

    def written(name: str) -> str:
        return name if _NUMBER.fullmatch(name) else json.dumps(name)

    entries = (
        f'{{"image_id": {written(one.image)}, "category_id": {written(one.name)}, '
        f'"bbox": {json.dumps(one.side_by_side())}, "score": {one.score:.9g}}}'
        for one in found
    )
    yield f"{prefix}.json", "[\n" + ",\n".join(entries) + "\n]\n"


def write_detections(
    folder: str, prefix: str, form: str, names: Iterable[str], found: Sequence[Found]
) -> None:
    """Write the files of a form into a folder, which is made; each is whole or absent.

    Raises:
        OutputError: the folder cannot be made, or a file cannot be written.
    """
    place = Path(file_name(folder))
    for name, text in FORMS[form](prefix, list(dict.fromkeys(names)), found):
        with written_beside(place / file_name(name)) as partial:
            partial.write_bytes(encoded(text))
