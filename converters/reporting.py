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


_LONGEST = 2000


def escaped(text: str, keep: str = "") -> str:
    """`text` with what a terminal would obey, or not show, as escapes: `\\x1b`, `\\u202e`.

    Characters in `keep` stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode()
        for one in text
    )


def readable(text: str, longest: int = _LONGEST) -> str:
    """`text` as one line of at most `longest` characters, cut in its middle, and `escaped`.

    Errors begin with the place and end with the reason: both stay.
    """
    if len(text) > 2 * longest:  # before the work on each character: it may be a file's whole text
        text = f"{text[:longest]}…{text[-longest:]}"
    return shortened(escaped(" ".join(text.split())), longest)


def shortened(line: str, longest: int = _LONGEST) -> str:
    """`line` of at most `longest` characters: without its middle if it has more."""
    if len(line) <= longest:
        return line
    head = longest * 2 // 3
    return f"{line[:head]} … {line[head + 3 - longest :]}"
