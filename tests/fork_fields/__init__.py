"""What shows that forks' layers honour their fields, a file per family, for `test_fields`.

A module here may have ROWS (settings whose result is a naive formula), FILLED (the blob that a
filler fills), REFUSED (settings that are an error), UNCHANGED (by type, what checks that a changed
net gives the same), and checks of its own (`field_checks.shows`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from field_rows import Row

from converters.layers.registry import Shape
from converters.proto import caffe_pb2 as pb


class Filled(NamedTuple):
    """A layer with `settings` beside its filler, and the place of the blob that it fills."""

    settings: str
    bottoms: tuple[Shape, ...]
    blob: int


class Refused(NamedTuple):
    """A layer with these settings is an error that says this; they are whole, message included."""

    settings: str
    bottoms: tuple[Shape, ...]
    says: str
    tops: int = 1
    files: Callable[[Path], None] = lambda folder: None


Change = Callable[[pb.NetParameter], None]

ROWS: list[Row] = []
FILLED: dict[tuple[str, str], Filled] = {}
REFUSED: dict[tuple[str, str], Refused] = {}
UNCHANGED: dict[str, Callable[[Path, Change], None]] = {}
for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    ROWS += getattr(_module, "ROWS", [])
    FILLED.update(getattr(_module, "FILLED", {}))
    REFUSED.update(getattr(_module, "REFUSED", {}))
    UNCHANGED.update(getattr(_module, "UNCHANGED", {}))
