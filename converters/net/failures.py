"""What torch, NumPy and Python could not do, told as errors of a layer.

Settings are checked when a net is planned. What only the arithmetic finds out (too little memory, a
number that torch does not take) comes as an exception of theirs; whoever runs a command for a user
runs it `explained`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from converters.errors import CaffeError
from converters.memory import free_memory, gibibytes, ran_out

if TYPE_CHECKING:
    from converters.layers.registry import Layer

Result = TypeVar("Result")

_REFUSED = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError)


def explained(run: Callable[[], Result]) -> Result:
    """The result of `run`.

    Raises:
        NetError: an exception from within a layer, which it names.
        CaffeError: too little memory elsewhere.
        Exception: any other, as it is.
    """
    try:
        return run()
    except CaffeError:
        raise
    except Exception as error:
        told = _in_words(error)
        if told is None:
            raise
        raise told from error


def _in_words(error: Exception) -> CaffeError | None:
    layer = _layer_of(error.__traceback__)
    text = " ".join(str(error).split()) or type(error).__name__
    if ran_out(error):
        free = free_memory()
        left = "" if free is None else f"; {gibibytes(free)} are free now"
        told = f"too little memory ({text[:300]}){left}"
        return CaffeError(told) if layer is None else layer.error(told)
    if layer is None or not isinstance(error, _REFUSED):
        return None
    return layer.error(f"its settings cannot be computed: {text[:300]}")


def _layer_of(traceback: TracebackType | None) -> Layer | None:
    """The innermost layer that was at work."""
    # Imported late: every command begins in `explained`, and few end here.
    from converters.layers.registry import Layer

    found = None
    while traceback is not None:
        own = traceback.tb_frame.f_locals.get("self")
        found = own if isinstance(own, Layer) else found
        traceback = traceback.tb_next
    return found
