"""How arithmetic is done, as contexts: plain fp32 without TF32, TF32, or bf16 by autocast.

Torch's switches for TF32 belong to the process. They are set for the time of a step, a test or a
command's passes, and put back behind it: neither another solver nor the caller's own code sees
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from converters.errors import SolverError
from gmnet_pt.solver.choices import PRECISION_NAMES


@dataclass(frozen=True)
class Precision:
    """The type that autocast chooses (None is plain fp32), and whether a GPU may round to TF32."""

    kind: torch.dtype | None
    tf32: bool

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Set whether TF32 may be used; for forward, backward and update."""
        saved = _taken()
        try:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
            for operation in _OPERATIONS if _set else ():
                _set(*operation, "tf32" if self.tf32 and operation[0] == "cuda" else "ieee")
            yield
        finally:
            saved.put_back()

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Autocast on `device` as this precision has it, whatever is on outside."""
        if self.kind is None and not torch.is_autocast_enabled(device.type):
            return nullcontext()
        kind = self.kind or torch.bfloat16
        return torch.autocast(device.type, dtype=kind, enabled=self.kind is not None)

    @contextmanager
    def arithmetic(self, device: torch.device) -> Iterator[None]:
        """Both; for forward passes, and in fp32 for backward."""
        with self.kernels(), self.autocast(device):
            yield


# Since torch 2.9 each operation has a switch of its own, which follows the general ones while it is
# "none". The public attributes lack one of them and take a multiple of the time.
_get: Any = getattr(torch._C, "_get_fp32_precision_getter", None)
_set: Any = getattr(torch._C, "_set_fp32_precision_setter", None)
_GENERAL = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
_OPERATIONS = tuple((at, what) for at in ("cuda", "mkldnn") for what in ("matmul", "conv", "rnn"))


class _Switches(NamedTuple):
    """The process's switches for less than fp32: those of operations, the two older ones."""

    newer: dict[tuple[str, str], str]
    matmul: str
    cudnn: bool

    def put_back(self) -> None:
        """The older ones first, as they set the newer."""
        torch.set_float32_matmul_precision(self.matmul)
        torch.backends.cudnn.allow_tf32 = self.cudnn
        for switch, value in self.newer.items():
            _set(*switch, value)


def _taken() -> _Switches:
    """All switches as they are; the newer ones are "none" afterwards.

    What one says itself shows only once the general ones are "none", and the older ones refuse to
    be read where they and the newer disagree.
    """
    newer = {}
    for switch in (*_GENERAL, *_OPERATIONS) if _set else ():
        newer[switch] = _get(*switch)
        _set(*switch, "none")
    matmul = torch.get_float32_matmul_precision()
    for operation in ("conv", "rnn") if _set else ():
        _set("cuda", operation, "tf32")
    try:
        return _Switches(newer, matmul, torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return _Switches(newer, matmul, False)


FP32 = Precision(None, False)
PRECISIONS = dict(
    zip(
        PRECISION_NAMES,
        (FP32, Precision(None, True), Precision(torch.bfloat16, True)),
        strict=True,
    )
)


def named_precision(name: str) -> Precision:
    """The precision of a name; raises SolverError for another."""
    if name not in PRECISIONS:
        raise SolverError(f"--precision {name}: one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
