"""What a library tells while it works: it prints nothing itself, it is given a `Reporter`.

`converters.command_line.progress` has the one for terminals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Reporter:
    """Takes remarks and progress; this one keeps silent."""

    def note(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def progress(
        self, items: Iterable[Item], label: str, total: int | None = None, unit: str = "records"
    ) -> Iterator[Item]:
        """Yield `items`, telling how far they are."""
        yield from items


SILENT = Reporter()
