"""Layers that a user wrote in Python, run against `converters.layers.pycaffe` if the user allows
it.

NumPy alone is needed to build and shape them; `gradients.PythonCall` joins them to autograd.
"""

from __future__ import annotations

import dis
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.errors import CaffeError
from converters.layers import pycaffe
from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    from torch import Tensor

    from converters.layers import gradients

register = Family("#f7b6d2")


@register("Python", "python_param")
class Python(Layer):
    """A class from a Python module, with pycaffe's setup, reshape, forward and backward.

    The module is looked for in the prototxt's folder, in `layers` there, and on sys.path. A
    message from the user's code becomes a NetError, whatever it raises: a SystemExit of its own
    does not end the run as if it were done. Source: Caffe layers/python_layer.hpp.
    """

    bottoms = Count(0, None)
    tops = Count(0, None)
    needs_host = "runs code of its own"
    has_effects = True
    ignored = {"python_param.share_in_parallel": "Caffe ignores it too; nothing is shared"}
    refused = {"without --allow-python-layers": "it runs code that the net names"}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.python_param
        self.label = f"{param.module}.{param.layer}"
        if not self.environment.allow_python_layers:
            raise self.error(
                f"would run Python code, {self.label}; allow it with --allow-python-layers or "
                "allow_python_layers=True if you trust it"
            )
        self.user = self._make()
        self.bottom_blobs = [pycaffe.Blob(shape) for shape in bottoms]
        names = list(self.param.bottom)
        # A top that works in place is its bottom, as in Caffe.
        self.top_blobs = [
            self.bottom_blobs[index] if names[index : index + 1] == [name] else pycaffe.Blob()
            for index, name in enumerate(self.param.top)
        ]
        self._call("setup", self.bottom_blobs, self.top_blobs)
        return [
            BlobSpec(f"blob{index}", blob.shape, values=blob.data.copy())
            for index, blob in enumerate(self.user.blobs)
        ]

    def _make(self) -> Any:
        """The user's object, made and given what Caffe gives it before setup."""
        param = self.param.python_param
        folder = Path(self.environment.folder).resolve()
        caffe = pycaffe.stand_in()
        if getattr(caffe, "Layer", None) is not pycaffe.Layer:
            raise self.error(
                "the caffe module that is installed would run the layer, and it knows only its own "
                "nets; use an environment without it"
            )
        with _on_path(folder, folder / "layers"):
            try:
                _forget_another(param.module, [str(folder), str(folder / "layers")])
                made = getattr(importlib.import_module(param.module), param.layer)()
            except ModuleNotFoundError as error:
                raise self.error(
                    f"{error}; looked in {folder}, {folder / 'layers'} and PYTHONPATH"
                ) from error
            except BaseException as error:
                raise self._failed("import", error) from error
        if not isinstance(made, pycaffe.Layer):
            raise self.error(f"{self.label} is no caffe.Layer")
        made.param_str = param.param_str
        made.phase = pycaffe.TRAIN if self.phase == "TRAIN" else pycaffe.TEST
        return made

    def _call(self, method: str, *args: Any) -> None:
        try:
            getattr(self.user, method)(*args)
        except CaffeError:
            raise
        except BaseException as error:
            raise self._failed(method, error) from error

    def _failed(self, method: str, error: BaseException) -> CaffeError:
        """The error to raise; Ctrl-C, which may come in the middle of any code, is none."""
        if isinstance(error, KeyboardInterrupt) and not _raised_by_code(error):
            raise error
        try:
            told = " ".join(str(error).split())
        except BaseException:  # noqa: BLE001 (its __str__ is the user's code too)
            told = "(its text cannot be made)"
        return self.error(f"{self.label}: {method} raised {type(error).__name__}: {told}")

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for blob, shape in zip(self.bottom_blobs, bottoms):
            blob.reshape(*shape)
        self._call("reshape", self.bottom_blobs, self.top_blobs)
        return [blob.shape for blob in self.top_blobs]

    def state_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        # A layer without bottoms learns the net's device and floating type from this tensor.
        return {"like": ()}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        self.user.phase = pycaffe.TRAIN if state.training else pycaffe.TEST
        tops: tuple[Tensor, ...] = gradients.PythonCall.apply(  # type: ignore[no-untyped-call]
            self, len(bottoms), (*bottoms, state.state["like"])[0], *bottoms, *state.blobs
        )
        return tops[0] if len(tops) == 1 else tops

    # What gradients.PythonCall uses ---------------------------------------------------------------

    def run_forward(
        self, bottoms: Sequence[np.ndarray], blobs: Sequence[np.ndarray], dtype: Any
    ) -> list[np.ndarray]:
        """The tops' values for the bottoms' and the parameter blobs', which it may change."""
        self._load(self.bottom_blobs, bottoms)
        self._load(self.user.blobs, blobs)
        self._call("reshape", self.bottom_blobs, self.top_blobs)
        self._call("forward", self.bottom_blobs, self.top_blobs)
        return [np.array(blob.data, dtype) for blob in self.top_blobs]

    def run_backward(
        self,
        bottoms: Sequence[np.ndarray],
        tops: Sequence[np.ndarray],
        top_diffs: Sequence[np.ndarray],
        propagate_down: Sequence[bool],
    ) -> list[np.ndarray]:
        """The gradients of the bottoms, then of the parameter blobs, after `run_forward`."""
        self._load(self.bottom_blobs, bottoms)
        self._load(self.top_blobs, tops)
        for blob in self.user.blobs:
            blob.diff[...] = 0
        for blob, diff in zip(self.top_blobs, top_diffs):
            blob.diff[...] = diff
        self._call("backward", self.top_blobs, list(propagate_down), self.bottom_blobs)
        return [blob.diff for blob in (*self.bottom_blobs, *self.user.blobs)]

    @staticmethod
    def _load(blobs: Sequence[pycaffe.Blob], values: Sequence[np.ndarray]) -> None:
        for blob, array in zip(blobs, values):
            blob.load(array)


@contextmanager
def _on_path(*folders: Path) -> Iterator[None]:
    """Look for modules in `folders` first."""
    before = list(sys.path)
    sys.path[:0] = map(str, folders)
    try:
        yield
    finally:
        sys.path[:] = before


def _forget_another(name: str, folders: Sequence[str]) -> None:
    """Drop a module of this name that another net's folder gave, or the package that it is in."""
    top = name.partition(".")[0]
    found, known = PathFinder.find_spec(top, list(folders)), sys.modules.get(top)
    if found is None or known is None:
        return
    own, old = list(found.submodule_search_locations or ()), list(getattr(known, "__path__", ()))
    if (found.origin, own) != (getattr(known, "__file__", None), old):
        for module in [one for one in sys.modules if one == top or one.startswith(f"{top}.")]:
            del sys.modules[module]


def _raised_by_code(error: BaseException) -> bool:
    """Whether a `raise` in the code made the exception, and no signal."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    handler = getattr(signal.getsignal(signal.SIGINT), "__code__", None)
    return code is not handler and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
