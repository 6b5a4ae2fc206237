"""Caffe's files and nets, read, written and run on PyTorch.

Names are resolved on first use: importing this package costs nothing, and
`converters.prototxt.text` or `converters.net.summary` never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from converters.version import __version__

if TYPE_CHECKING:
    from converters.errors import CaffeError
    from converters.net.caffe_net import CaffeNet, load_net
    from converters.net.saving import save_caffemodel

_HOMES = {
    "CaffeError": "converters.errors",
    "CaffeNet": "converters.net.caffe_net",
    "load_net": "converters.net.caffe_net",
    "save_caffemodel": "converters.net.saving",
}

__all__ = ["CaffeError", "CaffeNet", "__version__", "load_net", "save_caffemodel"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({"__doc__", "__file__", "__name__", "__path__", *__all__})
