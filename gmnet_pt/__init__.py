"""Training, testing and timing of Caffe nets as Caffe does it, on PyTorch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmnet_pt.solver.solver import Solver

__all__ = ["Solver"]


def __getattr__(name: str) -> Any:
    if name != "Solver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("gmnet_pt.solver.solver").Solver
