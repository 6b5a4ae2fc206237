"""Every error that a user can cause: one base class, one clear line each.

A message names the file, the layer and the value, and says what would be accepted. The command
lines print it without a traceback and exit with status 1 (`converters.command_line.program`).
"""

from __future__ import annotations

import importlib
from typing import Any


class CaffeError(Exception):
    """Base of all errors this project raises on bad input; `str(error)` is one line."""


class PrototxtError(CaffeError):
    """A prototxt that cannot be read: names file:line:column, or the unknown field."""


class NetError(CaffeError):
    """A net that Caffe would refuse: an unknown layer type, a missing bottom, a bad field."""


class ShapeError(NetError):
    """Blobs whose shapes do not fit: names the layer, the blobs and both shapes."""


class WeightsError(CaffeError):
    """A caffemodel that is damaged, or belongs to another net."""


class SolverError(CaffeError):
    """A solver file or a snapshot that cannot be used."""


class DataError(CaffeError):
    """A database, a data set archive, an image or a mean file that cannot be used."""


class OutputError(CaffeError):
    """A result that cannot be written: a full disk, a folder below a regular file."""


class MissingExtraError(CaffeError):
    """An optional package is absent; the message is the line that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'gmnet-caffe[{extra}]'")


def import_extra(module: str, package: str, extra: str, purpose: str) -> Any:
    """A module of an optional package, imported when `purpose` first needs it.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, extra, purpose) from error
