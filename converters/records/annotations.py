"""What is on images, in files: VOC's XML, an image each, and COCO's JSON, of a set or of one image.

`converters.records.annotated_set` makes records of them. Source: weiliu89/caffe ssd util/io.cpp.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from converters.errors import DataError
from converters.formats.input_files import read_file

LARGEST_XML = 1 << 24  # bytes
LARGEST_JSON = 1 << 31


class Thing(NamedTuple):
    """An object on an image; `names` are what a label map may call its class, the first first."""

    names: tuple[str, ...]
    corners: tuple[float, float, float, float]
    """xmin, ymin, xmax, ymax in pixels."""
    difficult: bool


class Annotation(NamedTuple):
    """The things on an image, and its size as the file tells it (0 where it does not)."""

    height: int
    width: int
    things: list[Thing]


class Coco(NamedTuple):
    """The annotations of a set, by the name of the image."""

    images: dict[str, Annotation]

    def of(self, name: str) -> Annotation | None:
        """Of an image by its name, or its name without folders."""
        return self.images.get(name) or self.images.get(PurePosixPath(name).name)


def read_voc(path: Path) -> Annotation:
    """The annotation in a file of VOC's form: `size`, and an `object` with `bndbox` for each.

    Raises:
        DataError: no such file, no XML, a document type (entities are not expanded), no such form.
    """
    root = _xml(path)
    if root.tag != "annotation":
        raise DataError(f"{path}: is <{root.tag}>, not an <annotation> of VOC's form")
    size = [_whole(path, root, f"size/{side}") for side in ("height", "width")]
    things = []
    for number, one in enumerate(root.iterfind("object"), 1):
        name = (one.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{path}: object {number} has no name")
        place = f"object {number} ({name})"
        corners = [
            _number(path, f"{place}: {side}", one.findtext(f"bndbox/{side}"))
            for side in ("xmin", "ymin", "xmax", "ymax")
        ]
        difficult = (one.findtext("difficult") or "").strip() == "1"
        things.append(Thing((name,), (corners[0], corners[1], corners[2], corners[3]), difficult))
    return Annotation(size[0], size[1], things)


def read_coco(path: Path) -> Coco | Annotation:
    """A set's annotations (`images`, `annotations`, `categories`) or one image's, as SSD has them.

    The latter is `image` with `height` and `width`, and a list `annotation`. What is crowded
    (`iscrowd`) is difficult.

    Raises:
        DataError: no such file, no JSON, no such form.
    """
    content = _content(path, LARGEST_JSON)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON: {error}") from error
    if isinstance(found, dict) and "images" in found:
        return _coco_set(path, found)
    if isinstance(found, dict) and isinstance(found.get("annotation"), list):
        image = found.get("image")
        sizes = image if isinstance(image, dict) else {}
        things = [
            _coco_thing(path, f"annotation {number}", one, {})
            for number, one in enumerate(found["annotation"])
        ]
        return Annotation(_side(path, sizes, "height"), _side(path, sizes, "width"), things)
    raise DataError(
        f"{path}: has neither COCO's images and annotations nor, of one image, image and annotation"
    )


def _coco_set(path: Path, found: Mapping[str, Any]) -> Coco:
    lists = {}
    for name in ("images", "annotations", "categories"):
        value = found.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise DataError(f"{path}: {name} is no list of objects")
        lists[name] = value
    names = {
        _key(path, f"category {number}", one, "id"): str(one.get("name", ""))
        for number, one in enumerate(lists["categories"])
    }
    images: dict[str, Annotation] = {}
    by_id: dict[object, Annotation] = {}
    for number, one in enumerate(lists["images"]):
        name = one.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise DataError(f"{path}: image {number}: file_name {name!r} is no file's name")
        if name in images:
            raise DataError(f"{path}: image {number}: {name} is there twice")
        empty = Annotation(_side(path, one, "height"), _side(path, one, "width"), [])
        images[name] = by_id[_key(path, f"image {number}", one, "id")] = empty
    for number, one in enumerate(lists["annotations"]):
        place = f"annotation {one.get('id', number)}"
        image = by_id.get(_key(path, place, one, "image_id"))
        if image is None:
            raise DataError(f"{path}: {place}: no image has image_id {one['image_id']!r}")
        image.things.append(_coco_thing(path, place, one, names))
    return Coco(images)


def _coco_thing(path: Path, place: str, one: Any, names: Mapping[object, str]) -> Thing:
    if not isinstance(one, dict):
        raise DataError(f"{path}: {place}: is no object")
    category = _key(path, place, one, "category_id")
    if names and category not in names:
        raise DataError(f"{path}: {place}: no category has id {category!r}")
    box = one.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{path}: {place}: bbox {box!r} is not x, y, width, height")
    x, y, width, height = (_number(path, f"{place}: bbox", value) for value in box)
    called = tuple(filter(None, (str(category), names.get(category, ""))))
    return Thing(called, (x, y, x + width, y + height), bool(one.get("iscrowd")))


def _key(path: Path, place: str, holder: Mapping[str, Any], name: str) -> object:
    value = holder.get(name)
    if not isinstance(value, int | str):
        raise DataError(f"{path}: {place}: {name} {value!r} is no number or name")
    return value


def _side(path: Path, sizes: Mapping[str, Any], name: str) -> int:
    value = sizes.get(name, 0)
    if not isinstance(value, int) or value < 0:
        raise DataError(f"{path}: {name} {value!r} is no number of pixels")
    return value


def _content(path: Path, most: int) -> bytes:
    try:
        return read_file(path, most)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _xml(path: Path) -> ElementTree.Element:
    """The root of an XML file that declares no document type, and so no entities."""
    content = _content(path, LARGEST_XML)

    def refuse(*declared: object) -> None:
        raise DataError(f"{path}: declares a document type (DOCTYPE), which is not read")

    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    try:
        guard.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: is no XML: {error}") from error


def _whole(path: Path, root: ElementTree.Element, place: str) -> int:
    """A size in pixels; 0 if it is not told."""
    text = (root.findtext(place) or "0").strip()
    if not text.isdecimal() or len(text) > 9:
        raise DataError(f"{path}: {place} {text[:40]!r} is no number of pixels")
    return int(text)


def _number(path: Path, place: str, value: object) -> float:
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        shown = "is missing" if value is None else f"{str(value)[:40]!r} is no number"
        raise DataError(f"{path}: {place} {shown}")
    return float(value)
