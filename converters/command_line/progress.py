"""Progress of long work: a bar on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from converters.reporting import Reporter, escaped, readable

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

        yield from tqdm(items, desc=escaped(label), total=total, unit=f" {unit}", leave=False)
        return
    due = time.monotonic() + every
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() >= due:
            due = time.monotonic() + every
            of = f" of {total}" if total is not None else ""
            tell(f"{label}: {done}{of} {unit}")


def show(line: str) -> None:
    """A line on stdout, in a line of its own where `progress` has a bar on the same terminal."""
    if "tqdm" not in sys.modules:
        print(line, flush=True)
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stdout):
        print(line, flush=True)


def tell(line: str) -> None:
    """A line on stderr, which nobody needs to see: where it cannot be shown, work goes on."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


class TerminalReporter(Reporter):
    """Tells it on stderr."""

    def note(self, text: str) -> None:
        tell(readable(text))

    def progress(
        self, items: Iterable[Item], label: str, total: int | None = None, unit: str = "records"
    ) -> Iterator[Item]:
        return progress(items, label, total, unit)
