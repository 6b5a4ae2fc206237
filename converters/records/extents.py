"""Records as a database gives them: many in one block of memory, decoded together.

`converters.records.lmdb_pages` makes them of pages, `converters.records.datum` knows a record. No
line of Python runs for a record where all of a block are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.records.datum import Batch, Layout, decode_batch, labels_of, layout_of


class Alike(NamedTuple):
    """What records have in common, and their labels (N,)."""

    layout: Layout
    labels: NDArray[np.int32]


class Extents:
    """Records in their order: `sizes[i]` bytes from `begins[i]` of `block`, all inside it."""

    def __init__(
        self, block: NDArray[np.uint8], begins: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> None:
        self.block = block
        self.begins = begins
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.begins)

    def part(self, start: int, stop: int | None = None, step: int = 1) -> Extents:
        """The records start … stop, every `step`-th."""
        chosen = slice(start, stop, step)
        some = Extents(self.block, self.begins[chosen], self.sizes[chosen])
        if self.alike:
            some.alike = Alike(self.alike.layout, self.alike.labels[chosen])
        return some

    @cached_property
    def alike(self) -> Alike | None:
        """Of records that differ in pixels and one-byte label alone, what `decode` needs."""
        size = int(self.sizes[0]) if len(self) else 0
        if not size or not (self.sizes == size).all():
            return None
        layout = layout_of(next(self.views()))
        if layout is None:
            return None
        # All but the pixels: what stands before them, and the label and what may follow it.
        around = np.delete(np.arange(size), slice(layout.start, layout.stop))
        labels = labels_of(self.block[self.begins[:, np.newaxis] + around], layout.start)
        return None if labels is None else Alike(layout, labels)

    def pixels(self, layout: Layout) -> NDArray[np.uint8]:
        """A copy (N, C, H, W) of the pixels of records that have that layout."""
        return self._copied(layout.start, layout.stop - layout.start).reshape(-1, *layout.shape)

    def rows(self, size: int) -> NDArray[np.uint8]:
        """A copy (N, size) of records that have that size, at least 1."""
        return self._copied(0, size)

    def _copied(self, start: int, size: int) -> NDArray[np.uint8]:
        # Items of that size: one indexing operation copies each whole.
        count = len(self.block) - start - size + 1
        items = np.ndarray((count,), f"V{size}", self.block.data, start, (1,))
        return items[self.begins].view(np.uint8).reshape(-1, size)

    def views(self) -> Iterator[memoryview]:
        """Each record, read-only; made without a line of Python for each."""
        ends = self.begins + self.sizes
        block = self.block.data.toreadonly()
        return map(block.__getitem__, map(slice, self.begins.tolist(), ends.tolist()))


def views(extents: Iterable[Extents]) -> Iterator[memoryview]:
    """Each record."""
    return chain.from_iterable(map(Extents.views, extents))


def batched(extents: Iterable[Extents], size: int) -> Iterator[list[Extents]]:
    """Batches of `size` records, each in the parts it is made of; the last may have fewer."""
    parts: list[Extents] = []
    missing = size
    for some in extents:
        start = 0
        while len(some) - start >= missing:
            yield [*parts, some.part(start, start + missing)]
            parts, start, missing = [], start + missing, size
        if start < len(some):
            parts.append(some.part(start))
            missing -= len(parts[-1])
    if parts:
        yield parts


def every(step: int, parts: Sequence[Extents], size: int) -> Sequence[Extents]:
    """Every `step`-th record, from the first on, `size` of them."""
    if step == 1 and sum(map(len, parts)) == size:
        return parts
    chosen = []
    skip = 0
    for part in parts:
        some = part.part(skip, None, step).part(0, size)
        size -= len(some)
        skip = (skip - len(part)) % step if skip < len(part) else skip - len(part)
        if len(some):
            chosen.append(some)
    return chosen


def decode(parts: Sequence[Extents], color: bool | None = None) -> Batch:
    """`decode_batch` of the records of all parts; the pixels are contiguous where all are alike."""
    found = [part.alike for part in parts]
    first = found[0]
    if first is None or not all(one and one.layout == first.layout for one in found):
        return decode_batch(list(views(parts)), color)
    pixels = [part.pixels(first.layout) for part in parts]
    if len(parts) == 1:
        return Batch(pixels[0], first.labels)
    return Batch(np.concatenate(pixels), np.concatenate([one.labels for one in found if one]))
