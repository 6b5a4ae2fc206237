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


Measurement = Callable[[], Iterable[Row]]
"""Called once, yields its rows."""
Measurements = Mapping[str, Measurement]
"""What a group measures, by name."""
