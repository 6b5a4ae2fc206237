"""All layer types: Caffe's 61, a file per family, and those of forks in `forks`.

`registry` says what a layer is.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from converters.layers import forks
from converters.layers.forks import arithmetic
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


def _modules_of(package: ModuleType) -> list[str]:
    """The modules of a package by their whole names, packages within it aside."""
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [module.name for module in found if not module.ispkg]


_modules: list[ModuleType] = [
    importlib.import_module(name)
    for name in (*(f"{__name__}.{family}" for family in FAMILIES), *_modules_of(forks))
]

__all__ = ["FAMILIES", "LAYERS", "Layer", "bind_torch", "make_layer"]


def bind_torch() -> None:
    """Give the families the torch modules that they name: called once, by
    `converters.net.caffe_net`."""
    import torch
    import torch.nn.functional

    names = [f"{__name__}.{name}" for name in ("gradients", "local_response", "masks", "onednn")]
    ours = {
        name.rpartition(".")[2]: importlib.import_module(name)
        for name in names + _modules_of(arithmetic)
    }
    for module in _modules:
        vars(module).update(torch=torch, F=torch.nn.functional, **ours)
