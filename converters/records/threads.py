"""Images decoded by a thread a core: OpenCV and NumPy let others run meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, pairwise
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

_FEWEST = 8
"""Items for a thread: for fewer it takes longer to hand them over."""


def in_threads(call: Callable[[Given], Made], items: Sequence[Given]) -> list[Made]:
    """`call` of each item, in their order; raises what the first that fails raises."""
    parts = min(_cores(), len(items) // _FEWEST)
    if parts < 2:
        return list(map(call, items))
    bounds = [len(items) * part // parts for part in range(parts + 1)]
    shares = (items[start:stop] for start, stop in pairwise(bounds))
    made = _pool().map(lambda share: list(map(call, share)), shares)
    return list(chain.from_iterable(made))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), "decoding")


# A forked process has none of the threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
