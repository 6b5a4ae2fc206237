"""Progress of long work: a bar on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from converters.reporting import Reporter

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    label: str,
    total: int | None = None,
    unit: str = "records",
    every: float = 10.0,
) -> Iterator[Item]:
    """Yield `items` and show on stderr how far they are; `every` is in seconds, for plain lines."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total, unit=f" {unit}", leave=False)
        return
    due = time.monotonic() + every
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() >= due:
            due = time.monotonic() + every
            of = f" of {total}" if total is not None else ""
            print(f"{label}: {done}{of} {unit}", file=sys.stderr, flush=True)


class TerminalReporter(Reporter):
    """Tells it on stderr."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def progress(
        self, items: Iterable[Item], label: str, total: int | None = None, unit: str = "records"
    ) -> Iterator[Item]:
        return progress(items, label, total, unit)
