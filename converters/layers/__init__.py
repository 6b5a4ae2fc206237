"""All 61 layer types of Caffe, a file per family; `registry` says what a layer is."""

from __future__ import annotations

import importlib
from types import ModuleType

from converters.layers.registry import LAYERS, Layer, make_layer

FAMILIES = (
    "activation",
    "choosing",
    "convolution",
    "data",
    "joining",
    "linear",
    "loss",
    "normalization",
    "pooling",
    "python_layer",
    "recurrent",
    "reducing",
    "shaping",
)
_modules: list[ModuleType] = [
    importlib.import_module(f"converters.layers.{family}") for family in FAMILIES
]

__all__ = ["FAMILIES", "LAYERS", "Layer", "bind_torch", "make_layer"]


def bind_torch() -> None:
    """Give the families the torch modules that they name: called once, by
    `converters.net.caffe_net`."""
    import torch
    import torch.nn.functional

    ours = {
        name: importlib.import_module(f"converters.layers.{name}")
        for name in ("gradients", "local_response", "masks")
    }
    for module in _modules:
        vars(module).update(torch=torch, F=torch.nn.functional, **ours)
