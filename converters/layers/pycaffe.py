"""What a Python layer needs of pycaffe: a stand-in for `import caffe`, without Caffe.

`caffe.Layer` is the base of the user's class, `Blob` what its methods get as bottoms and tops;
`converters.layers.python_layer` runs them. Only this part of pycaffe is here.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np


class Phase(IntEnum):
    """Caffe's phases; as a string, what Fast R-CNN's Caffe gives its layers: `TRAIN`, `TEST`."""

    TRAIN = 0
    TEST = 1

    def __str__(self) -> str:
        return self.name


TRAIN, TEST = Phase.TRAIN, Phase.TEST


class Blob:
    """Data and diff of one shape, as pycaffe shows a Blob; float32 unless `dtype` is given."""

    def __init__(self, shape: Sequence[int] = (), dtype: Any = np.float32) -> None:
        self._data: np.ndarray = np.zeros(shape, dtype)
        self._diff: np.ndarray = np.zeros(shape, dtype)

    @property
    def data(self) -> np.ndarray:
        """The values, to be written by `blob.data[...] = …`."""
        return self._data

    @property
    def diff(self) -> np.ndarray:
        """The gradient, to be written by `blob.diff[...] = …`."""
        return self._diff

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of all axes."""
        return self._data.shape

    @property
    def count(self) -> int:
        """The number of values."""
        return self._data.size

    @property
    def num(self) -> int:
        """The size of axis 0, 1 if there is none; `channels`, `height` and `width` follow it."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """The size of axis 1, 1 if there is none."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """The size of axis 2, 1 if there is none."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """The size of axis 3, 1 if there is none."""
        return self._legacy(3)

    def _legacy(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1

    def reshape(self, *shape: int) -> None:
        """Take another shape; the values stay if there are as many."""
        sizes = tuple(int(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise ValueError(f"cannot reshape a blob to {sizes}: sizes must be at least 0")
        if math.prod(sizes) == self.count:
            self._data, self._diff = self._data.reshape(sizes), self._diff.reshape(sizes)
        else:
            self._data = np.zeros(sizes, self._data.dtype)
            self._diff = np.zeros(sizes, self._diff.dtype)

    def load(self, values: np.ndarray) -> None:
        """Take a copy of `values`, with their shape and type, and a diff of zeros."""
        self._data = np.array(values)
        self._diff = np.zeros_like(self._data)


class BlobVec(list[Blob]):
    """The parameter blobs of a Python layer."""

    def add_blob(self, *shape: int) -> None:
        """Append a blob of this shape, filled with zeros."""
        self.append(Blob(shape))


class Layer:
    """The base of Python layers: they define setup, reshape, forward and backward.

    `param_str_` is what Fast R-CNN's Caffe calls `param_str`.
    """

    def __init__(self, param: Any = None) -> None:
        self.blobs = BlobVec()
        self.param_str = ""
        self.phase = TRAIN

    @property
    def param_str_(self) -> str:
        """The text of the prototxt's python_param."""
        return self.param_str


def stand_in() -> ModuleType:
    """`sys.modules["caffe"]`: the installed pycaffe where there is one, else this stand-in."""
    if "caffe" not in sys.modules:
        spec = importlib.util.find_spec("caffe")
        # A mere folder of that name, such as Caffe's source beside the net, has no origin.
        if spec is not None and spec.origin is not None:
            return importlib.import_module("caffe")
        module = ModuleType("caffe", __doc__)
        vars(module).update(Blob=Blob, Layer=Layer, TRAIN=TRAIN, TEST=TEST)
        sys.modules["caffe"] = module
    return sys.modules["caffe"]
