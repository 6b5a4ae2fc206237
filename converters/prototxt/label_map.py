"""SSD's label maps: the names of classes and their numbers, as prototxt.

An `item` has `name`, as annotations call the class, `label`, its number, and `display_name`.
"""

from __future__ import annotations

from pathlib import Path

from converters.errors import DataError
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_text, read_text


def read_label_map(path: Path) -> pb.LabelMap:
    """The label map of a file.

    Raises:
        PrototxtError: it cannot be read or parsed.
        DataError: it is empty, or two items have one name or one label.
    """
    found = parse_text(read_text(path), pb.LabelMap(), str(path))
    if not found.item:
        raise DataError(f"{path}: has no item; a label map is item {{ name … label … }} for each")
    for field in ("name", "label"):
        seen = set()
        for item in found.item:
            value = getattr(item, field)
            if value in seen:
                raise DataError(f"{path}: two items have the {field} {value!r}")
            seen.add(value)
    return found


def shown_names(label_map: pb.LabelMap) -> dict[int, str]:
    """What each label is called where people see it."""
    return {item.label: item.display_name or item.name for item in label_map.item}


def numbers(label_map: pb.LabelMap) -> dict[str, int]:
    """Labels by name; a name for display is one too, where no item is called so."""
    shown = {item.display_name: item.label for item in label_map.item if item.display_name}
    return {**shown, **{item.name: item.label for item in label_map.item}}
