"""The suffix of an output decides its form, in every command that knows several."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from converters.errors import OutputError


def form_of(out: str | Path, forms: Iterable[str], besides: str = "") -> str:
    """The suffix of `out` in small letters, one of `forms` (`.png` …).

    `besides` tells, in the error, what else a name may be.

    Raises:
        OutputError: it is none of them.
    """
    forms = tuple(forms)
    suffix = Path(out).suffix
    if suffix.lower() in forms:
        return suffix.lower()
    ending = f"as {suffix!r}" if suffix else "without a suffix"
    raise OutputError(f"{out}: cannot be written {ending}, only as {', '.join(forms)}{besides}")
