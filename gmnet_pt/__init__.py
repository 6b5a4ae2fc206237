"""Training, testing and timing of Caffe nets as Caffe does it, on PyTorch.

Names are resolved on first use: importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from converters.version import __version__

if TYPE_CHECKING:
    from gmnet_pt.solver.batches import feeds
    from gmnet_pt.solver.solver import Solver

_HOMES = {"Solver": "gmnet_pt.solver.solver", "feeds": "gmnet_pt.solver.batches"}

__all__ = ["Solver", "__version__", "feeds"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({"__doc__", "__file__", "__name__", "__path__", *__all__})
