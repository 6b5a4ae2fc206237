"""What a run of the bench is given besides names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.rows import Row


class Options(NamedTuple):
    """Where and against what to measure."""

    device: str = "cpu"
    caffe: Path | None = None
    """A binary of real Caffe's."""
    cv_python: Path | None = None
    """A Python that has OpenCV 4."""
    budget: float = 20.0
    """Seconds of alternation that a row of steps or passes may take."""


Measurements = Mapping[str, Callable[[], Iterable[Row]]]
"""What a group measures by name; each is called once and yields its rows."""
