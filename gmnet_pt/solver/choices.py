"""What a run can be asked for, by the names that command lines and `Solver` take. Without torch."""

from __future__ import annotations

import re
from enum import Enum

AUTO = "auto"
LAYOUT_NAMES = ("contiguous", "channels_last")
"""Memory formats (`gmnet_pt.solver.layout`); AUTO measures which is faster."""

PRECISION_NAMES = ("fp32", "tf32", "bf16")
"""`gmnet_pt.solver.precision` says what they are."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Request(Enum):
    """What a signal asks of a running solver."""

    NONE = "none"
    SNAPSHOT = "snapshot"
    STOP = "stop"


def memory_size(text: str) -> int:
    """Bytes of a size like `2G`, `500M` or `0`.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([KMGT]?)(?:I?B)?", text.strip().upper())
    if found is None:
        raise ValueError(f"{text} is no size")
    return int(float(found[1]) * _UNITS[found[2]])
