"""What somebody may have meant by a name that there is not, for errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 8
"""Names that an error lists."""


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The names most like `name`, the likest first, upper and lower case alike; may be none."""
    by_lower: dict[str, str] = {}
    for one in known:
        by_lower.setdefault(one.lower(), one)
    if name.lower() in by_lower:
        return [by_lower[name.lower()]]
    return [by_lower[one] for one in difflib.get_close_matches(name.lower(), by_lower, most, 0.6)]


def known_names(name: str, known: Iterable[str], these: str = "known are") -> str:
    """The end of an error on `name`: `; did you mean 'bua'?` and `; known are 'a', 'b'`.

    Of many names the list has only the nearest, and none where one of them is meant.
    """
    names = list(known)
    near = nearest(name, names)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    if near and len(names) > MOST:
        return meant
    like = names if len(names) <= MOST else difflib.get_close_matches(name, names, MOST, 0.0)
    more = f" and {len(names) - len(like)} more" if len(like) < len(names) else ""
    listed = ", ".join(one for one in names if one in like)
    return f"{meant}{'' if meant else ';'} {these} {listed}{more}" if names else meant
