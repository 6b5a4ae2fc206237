"""How arithmetic is done, as contexts: plain fp32 without TF32, TF32, or bf16 by autocast.

Torch's switches for TF32 belong to the process. They are set for the time of a step, a test or a
command's passes, and put back behind it: neither another solver nor the caller's own code sees
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from converters.errors import SolverError


@dataclass(frozen=True)
class Precision:
    """The type that autocast chooses (None is plain fp32), and whether a GPU may round to TF32."""

    kind: torch.dtype | None
    tf32: bool

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Set whether TF32 may be used; for forward, backward and update."""
        owners, name, wanted, saved = _tf32_switches(self.tf32)
        try:
            for owner in owners:
                setattr(owner, name, wanted)
            yield
        finally:
            for owner, value in zip(owners, saved):
                setattr(owner, name, value)

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


def _tf32_switches(allowed: bool) -> tuple[list[Any], str, Any, list[Any]]:
    """What decides about TF32: owners, attribute, the value that is wanted, and those of now."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    try:
        return [matmul, cudnn], "allow_tf32", allowed, [matmul.allow_tf32, cudnn.allow_tf32]
    except RuntimeError:
        # Torch 2.9 refuses to show them where its newer switches were set apart from them.
        owners = [matmul, cudnn.conv, cudnn.rnn]
        value = "tf32" if allowed else "ieee"
        return owners, "fp32_precision", value, [owner.fp32_precision for owner in owners]


FP32 = Precision(None, False)
PRECISIONS = {
    "fp32": FP32,
    "tf32": Precision(None, True),
    "bf16": Precision(torch.bfloat16, True),
}


def named_precision(name: str) -> Precision:
    """The precision of a name; raises SolverError for another."""
    if name not in PRECISIONS:
        raise SolverError(f"--precision {name}: one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
