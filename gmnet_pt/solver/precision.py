"""How arithmetic is done, as contexts: plain fp32 without TF32, TF32, or bf16 by autocast.

Torch's switches for TF32 belong to the process. They are set for the time of a step, a test or a
command's passes, and put back behind it: neither another solver nor the caller's own code sees
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from converters.errors import SolverError


@dataclass(frozen=True)
class Precision:
    """Autocast's type (None is plain fp32), and whether a GPU may round products to TF32."""

    autocast: torch.dtype | None
    tf32: bool

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Set whether TF32 may be used; for forward, backward and update."""
        switches = _tf32_switches(self.tf32)
        saved = [getattr(owner, name) for owner, name, _ in switches]
        try:
            for owner, name, value in switches:
                setattr(owner, name, value)
            yield
        finally:
            for (owner, name, _), value in zip(switches, saved):
                setattr(owner, name, value)

    @contextmanager
    def arithmetic(self, device: torch.device) -> Iterator[None]:
        """As `kernels`, and autocast on `device`; for forward passes, and backward in fp32."""
        chosen = self.autocast
        kind = chosen or torch.bfloat16
        with self.kernels(), torch.autocast(device.type, dtype=kind, enabled=chosen is not None):
            yield


def _tf32_switches(allowed: bool) -> list[tuple[Any, str, Any]]:
    """What decides about TF32: owner, attribute, and the value that is wanted."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    old = [(owner, "allow_tf32", allowed) for owner in (matmul, cudnn)]
    try:
        for owner, name, _ in old:
            getattr(owner, name)
    except RuntimeError:
        # Torch 2.9 refuses to show them where its newer switches were set apart from them.
        value = "tf32" if allowed else "ieee"
        return [(owner, "fp32_precision", value) for owner in (matmul, cudnn.conv, cudnn.rnn)]
    return old


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
