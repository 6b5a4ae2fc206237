"""LMDB's file format, as far as reading a database in key order needs it.

The pages are read, not mapped, and each is checked before anything in it is believed: a damaged
file, or one that is cut while it is read, ends in a DataError. LMDB itself would follow what a
damaged page says, to the end of its process. Only pages that are asked for are read, so opening
takes the same time for any size of file. `converters.records.lmdb_reader` makes records of it.

Format (LMDB 0.9, data version 1, 64 bits, the machine's byte order): pages of equal size, each with
its number, flags, and where its free space lies, or how many pages it goes on over. The first two
are meta pages, written in turn; the one of the later transaction says where the tree begins. Branch
pages hold the numbers of pages below, leaf pages the records; a value that is too long for a leaf
lies in overflow pages of its own.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice, pairwise
from mmap import mmap
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.records.extents import Extents

# A meta page: number, pad, flags, lower, upper; magic, version, address, map size; then two MDB_db,
# of the free pages and of the records: pad (the first one's is the page size), flags, depth,
# branch, leaf and overflow pages, entries, root; last page, transaction.
_META = struct.Struct("=QHHHHIIQQ" + "IHHQQQQQ" * 2 + "QQ")
_HEADER = 16  # bytes: number (8), pad (2), flags (2), lower and upper (2 each) or pages (4)
_OVERFLOW_HEAD = np.dtype(
    [("number", np.uint64), ("pad", np.uint16), ("flags", np.uint16), ("pages", np.uint32)]
)
# A node's first 8 bytes: the value's size (4), flags (2), key size (2); in a branch the first 6 are
# the number of a page. Key and value follow.
_NODE = 8
_FOUR = np.arange(4)[:, np.newaxis]

_BRANCH, _LEAF, _OVERFLOW, _IS_META, _KIND = 0x01, 0x02, 0x04, 0x08, 0x6F
_BIG, _SUBTREE = 0x01, 0x02 | 0x04  # flags of a leaf's node: in overflow pages; no record at all
_OTHER_ORDER = 0x02 | 0x08  # flags of a database: keys compared from the end, or as integers
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_SMALLEST_PAGE, _LARGEST_PAGE = 256, 1 << 15
_DEEPEST = 32  # LMDB's own limit
_NO_PAGE = (1 << 64) - 1
_FIRST_PAGE = 2
_LEAST_RECORD = _NODE + 2  # with its place in the page

_ORDER = "its keys come before those of the page before it"

_RUN = 2 << 20  # bytes of neighbouring pages that are read at once
_SKIPPED = 2  # pages that are read with those around them: a leaf between overflow pages
_KEPT = 4  # blocks of that size
_FIRST_LEAVES = 2  # that are checked at once; later ones are more, up to a run


class Meta(NamedTuple):
    """What a meta page says."""

    page_size: int
    flags: int
    depth: int
    entries: int
    root: int
    last_page: int
    transaction: int


class Leaves(NamedTuple):
    """Neighbouring leaf pages that were checked, and where in `block` their records lie."""

    block: NDArray[np.uint8]
    begins: NDArray[np.int64]  # of the values
    sizes: NDArray[np.int64]
    key_sizes: NDArray[np.int64]
    big: NDArray[np.bool_]  # in overflow pages: `begins` is where the number of the first lies
    firsts: NDArray[np.int64]  # which records are the first of their pages

    def __len__(self) -> int:
        return len(self.begins)

    def key(self, index: int) -> bytes:
        """The key of a record."""
        begin = int(self.begins[index])
        return self.block[begin - int(self.key_sizes[index]) : begin].tobytes()


class _Nodes(NamedTuple):
    """Nodes of some pages: each one's page, place in the block, head: 16 bits each (4, N)."""

    row: NDArray[np.int64]
    starts: NDArray[np.int64]
    heads: NDArray[np.int64]


def _together(leaves: Leaves, start: int, stop: int, large: Extents) -> Extents:
    """The values of records start … stop, in overflow pages (`large`) or in the leaves, as one."""
    if len(large) == stop - start:
        return large
    some, big = slice(start, stop), leaves.big[start:stop]
    begins, sizes = leaves.begins[some].copy(), leaves.sizes[some]
    # The leaves' part of that range; records of a page lie in it from its end to its beginning.
    low, high = int(begins[~big].min()), int((begins + sizes)[~big].max())
    begins[~big] -= low
    begins[big] = large.begins + (high - low)
    return Extents(np.concatenate([leaves.block[low:high], large.block]), begins, sizes)


class _Memory:
    """Blocks to read pages into, each filled again once nobody holds a part of it.

    They begin where a page does: 16 bytes behind it the kernel copies three times as long. New
    memory would cost more than reading: the system clears it page by page.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._blocks: deque[tuple[mmap, ref[NDArray[np.uint8]]]] = deque(maxlen=_KEPT)

    def take(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes, whatever they hold."""
        with self._lock:
            for number, (memory, held) in enumerate(self._blocks):
                if held() is None and len(memory) >= size:
                    del self._blocks[number]
                    break
            else:
                memory = mmap(-1, max(size, _RUN))
            # Parts of this array, not of the memory, are what others hold.
            block = np.frombuffer(memory, np.uint8, size)
            self._blocks.append((memory, ref(block)))
            return block


class LmdbPages:
    """The tree of an LMDB file, of its last transaction; several may walk it at once.

    Raises:
        DataError: no LMDB data file of this kind of machine, or one that is truncated or whose
            meta page is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        try:
            self._file = open(file, "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from error
        try:
            self._memory = _Memory()
            self._opened = os.fstat(self._file.fileno())
            if not self._opened.st_size:
                raise DataError(f"{file}: empty; build the database again")
            self.meta = max(self._metas(), key=lambda meta: meta.transaction)
            self._check_meta()
            self._page = np.dtype(
                {
                    "names": ["number", "flags", "lower", "upper"],
                    "formats": [np.uint64, np.uint16, np.uint16, np.uint16],
                    "offsets": [0, 10, 12, 14],
                    "itemsize": self.meta.page_size,
                }
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file; a second call does nothing. Values that were read stay."""
        self._file.close()

    # ------------------------------------------------------------ the walk

    def leaves(self) -> Iterator[Leaves]:
        """The leaf pages in key order, some at once.

        Raises:
            DataError: a page is damaged, a value is no record but a tree of its own, or the file
                was cut or cannot be read.
        """
        numbers = chain.from_iterable(self._leaf_numbers([self.meta.root], 1))
        count, last_key = _FIRST_LEAVES, b""
        while some := list(islice(numbers, count)):
            leaves = self._leaves(some)
            last_key = self._check_order(leaves, some, last_key)
            yield leaves
            count = min(2 * count, _RUN // self.meta.page_size)

    def values(self, leaves: Leaves) -> Iterator[Extents]:
        """Where the values of the leaves' records lie, in their order; raises as `leaves`."""
        done = 0  # records whose values were given
        if leaves.big.any():
            places = np.flatnonzero(leaves.big)
            for stop, inside in self._big_values(leaves, places):
                end = int(places[stop - 1]) + 1
                yield _together(leaves, done, end, inside)
                done = end
        if done < len(leaves):
            yield Extents(leaves.block, leaves.begins[done:], leaves.sizes[done:])

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The leaf pages in key order, and the first record of each; raises as `leaves`."""
        numbers = np.fromiter(
            chain.from_iterable(self._leaf_numbers([self.meta.root], 1)), np.int64
        )
        before, firsts = 0, [np.empty(0, np.int64)]
        for leaves in self.leaves():
            firsts.append(leaves.firsts + before)
            before += len(leaves)
        return numbers, np.concatenate(firsts)

    def value(self, page: int, index: int) -> Extents:
        """The value of one record of a leaf page; raises as `leaves`."""
        leaves = self._leaves([page])
        self._require(np.array([index < len(leaves)]), [page], np.zeros(1, int), "a record is gone")
        one = slice(index, index + 1)
        some = Leaves(
            leaves.block,
            leaves.begins[one],
            leaves.sizes[one],
            leaves.key_sizes[one],
            leaves.big[one],
            np.zeros(1, np.int64),
        )
        return next(self.values(some))

    def _leaf_numbers(self, numbers: list[int], level: int) -> Iterator[list[int]]:
        """The leaf pages at or below the pages `numbers` of a level, which is the root's at 1."""
        if level == self.meta.depth:
            yield numbers
            return
        for number in numbers:
            page = self._read(number * self.meta.page_size, self.meta.page_size)
            row, _, (low, middle, high, _) = self._nodes([number], page, _BRANCH)
            children = low | middle << 16 | high << 32
            inside = (children >= _FIRST_PAGE) & (children <= self.meta.last_page)
            self._require(inside, [number], row, "a page below it lies outside the file")
            yield from self._leaf_numbers(children.tolist(), level + 1)

    def _leaves(self, numbers: Sequence[int]) -> Leaves:
        """The leaf pages `numbers`."""
        size = self.meta.page_size
        block = self._memory.take(len(numbers) * size)
        ones = np.ones(len(numbers), np.int64)
        for start, stop, first, _ in self._runs(np.array(numbers), ones, 0):
            self._read_into(block[start * size : stop * size], first * size)
        row, starts, nodes = self._nodes(numbers, block, _LEAF)
        low, high, flags, key_sizes = nodes
        if (flags & _SUBTREE).any():
            raise DataError(
                f"{self.path}: holds named databases or several values for a key; Caffe's "
                "databases have one record for each key"
            )
        big, sizes = flags == _BIG, low | high << 16
        begins = starts + _NODE + key_sizes
        ends = begins + np.where(big, 8, sizes)
        whole = (ends <= (row + 1) * size) & (flags <= _BIG)
        self._require(whole, numbers, row, "a record passes its end")
        firsts = np.searchsorted(row, np.arange(len(numbers)))
        return Leaves(block, begins, sizes, key_sizes, big, firsts)

    def _nodes(self, numbers: Sequence[int], block: NDArray[np.uint8], kind: int) -> _Nodes:
        """The nodes of the pages `numbers`, which `block` holds, all in one pass of NumPy."""
        size = self.meta.page_size
        pages = block.view(self._page)
        lower, upper = pages["lower"].astype(np.int64), pages["upper"].astype(np.int64)
        self._require(
            pages["number"] == np.array(numbers, np.uint64), numbers, None, "it has another number"
        )
        what = "leaf" if kind == _LEAF else "branch"
        self._require(pages["flags"] & _KIND == kind, numbers, None, f"it is no {what} page")
        bounded = (lower > _HEADER) & (lower <= upper) & (upper <= size) & (lower % 2 == 0)
        self._require(bounded, numbers, None, "its bounds are wrong")
        counts = (lower - _HEADER) // 2
        row = np.repeat(np.arange(len(numbers)), counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)  # records of earlier pages
        halves = block.view(np.uint16)
        starts = row * size
        places = halves[(starts + _HEADER) // 2 + np.arange(len(row)) - before].astype(np.int64)
        inside = (places >= upper[row]) & (places <= size - _NODE) & (places % 2 == 0)
        self._require(inside, numbers, row, "a node lies outside it")
        starts += places
        return _Nodes(row, starts, halves[starts // 2 + _FOUR].astype(np.int64))

    def _require(
        self,
        right: NDArray[np.bool_],
        numbers: Sequence[int],
        row: NDArray[np.int64] | None,
        reason: str,
    ) -> None:
        """Raise for the first that is not right, a page or, with `row`, a node of page row[…]."""
        if not right.all():
            wrong = int(right.argmin())
            raise self.fail(numbers[wrong if row is None else int(row[wrong])], reason)

    def _check_order(self, leaves: Leaves, numbers: Sequence[int], last_key: bytes) -> bytes:
        """Pages that were exchanged are whole, but their keys no longer ascend; the last key."""
        if self.meta.flags & _OTHER_ORDER:
            return last_key
        last = np.append(leaves.firsts[1:], len(leaves)) - 1
        places = np.stack([leaves.firsts, last], axis=1).ravel()
        sizes = leaves.key_sizes[places]
        if last_key and (sizes == len(last_key)).all():
            # Keys of one size compare as NumPy's strings, which leave out NULs at the end.
            keys = Extents(leaves.block, leaves.begins[places] - sizes, sizes).rows(len(last_key))
            ends = keys.view(f"S{len(last_key)}").ravel()
            before = np.append(np.frombuffer(last_key, ends.dtype), ends[1:-1:2])
            self._require(before < ends[::2], numbers, None, _ORDER)
            return bytes(keys[-1].data)
        corners = iter([leaves.key(place) for place in places.tolist()])
        for number, first, key in zip(numbers, corners, corners):
            if last_key and first <= last_key:
                raise self.fail(number, _ORDER)
            last_key = key
        return last_key

    def _big_values(
        self, leaves: Leaves, places: NDArray[np.int64]
    ) -> Iterator[tuple[int, Extents]]:
        """The values in overflow pages of the records `places`, run by run: (stop, values)
        of the places before `stop`."""
        page_size, last_page = self.meta.page_size, self.meta.last_page
        begins, sizes = leaves.begins[places], leaves.sizes[places]
        firsts = leaves.block[begins[:, np.newaxis] + np.arange(8)].view(np.int64).ravel()
        counts = (_HEADER - 1 + sizes) // page_size + 1
        inside = (firsts >= _FIRST_PAGE) & (firsts <= last_page + 1 - counts)
        if not inside.all():
            wrong = int(inside.argmin())
            raise self.fail(
                int(firsts[wrong]),
                f"a value of {sizes[wrong]} bytes there passes the last page, {last_page}",
            )
        for start, stop, first, after in self._runs(firsts, counts, _SKIPPED):
            some = slice(start, stop)
            block = self._read(first * page_size, (after - first) * page_size)
            at = (firsts[some] - first) * page_size
            heads = block.view(_OVERFLOW_HEAD)[at // _HEADER]
            right = (
                (heads["number"] == firsts[some].astype(np.uint64))
                & (heads["flags"] & _KIND == _OVERFLOW)
                & (heads["pages"] >= counts[some])
            )
            if not right.all():
                wrong = start + int(right.argmin())
                raise self.fail(
                    int(firsts[wrong]),
                    f"it begins no {counts[wrong]} pages for a value of {sizes[wrong]} bytes",
                )
            yield stop, Extents(block, at + _HEADER, sizes[some])

    # ------------------------------------------------------------ reading

    def _runs(
        self, firsts: NDArray[np.int64], counts: NDArray[np.int64], skip: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """Counts[i] pages of the file from page firsts[i]: those to be read at once.

        That is neighbours, with up to `skip` other pages between two. Yields (start, stop, first
        page, page after the last) for those of start … stop.
        """
        ends = firsts + counts
        most = max(1, _RUN // self.meta.page_size)
        skipped = firsts[1:] - ends[:-1]
        gaps = np.flatnonzero((skipped < 0) | (skipped > skip)) + 1
        for start, after in pairwise([0, *gaps.tolist(), len(firsts)]):
            while start < after:
                first = int(firsts[start])
                fitting = int(np.searchsorted(ends[start:after], first + most, side="right"))
                stop = start + max(1, fitting)
                yield start, stop, first, int(ends[stop - 1])
                start = stop

    def _read(self, offset: int, size: int) -> NDArray[np.uint8]:
        """`size` bytes of the file at `offset`."""
        data = self._memory.take(size)
        self._read_into(data, offset)
        return data

    def _read_into(self, data: NDArray[np.uint8], offset: int) -> None:
        """Fill `data` with the file's bytes at `offset`."""
        done = 0
        try:
            while done < len(data):  # Linux gives at most 2 GiB at once
                got = os.preadv(self._file.fileno(), [data.data[done:]], offset + done)
                if not got:
                    raise DataError(
                        f"{self.path}: truncated: it ends at byte {offset + done}, inside a "
                        f"page; {self._changed_text()}copy or build the database again"
                    )
                done += got
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error

    def fail(self, number: int, reason: str) -> DataError:
        """The error for a damaged page."""
        return DataError(
            f"{self.path}: damaged: page {number}: {reason}; {self._changed_text()}copy or build "
            "the database again"
        )

    def _changed_text(self) -> str:
        return "the file changed while it was read; " if self.changed() else ""

    # ------------------------------------------------------------ the meta pages

    def _metas(self) -> tuple[Meta, Meta]:
        first = self._meta_at(0)
        if first is None:
            raise DataError(f"{self.path}: not an LMDB data file (or one of a 32-bit machine)")
        second = self._meta_at(first.page_size)
        if second is None:
            raise DataError(
                f"{self.path}: truncated inside its second page; build the database again"
            )
        return first, second

    def _meta_at(self, offset: int) -> Meta | None:
        try:
            data = os.pread(self._file.fileno(), _META.size, offset)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error
        if len(data) < _META.size:
            return None
        fields = _META.unpack(data)
        page_size = fields[9]
        if not fields[2] & _IS_META or fields[5:7] != (_MAGIC, _VERSION):
            return None
        if page_size & page_size - 1 or not _SMALLEST_PAGE <= page_size <= _LARGEST_PAGE:
            return None
        return Meta(page_size, *fields[18:20], *fields[23:27])

    def _check_meta(self) -> None:
        meta, size = self.meta, self._opened.st_size
        needed = (meta.last_page + 1) * meta.page_size
        if size < needed:
            raise DataError(
                f"{self.path}: truncated: {size} bytes of {needed}; copy or build the database "
                "again"
            )
        if meta.root == _NO_PAGE and not meta.entries:
            return
        if (
            not _FIRST_PAGE <= meta.root <= meta.last_page
            or not 1 <= meta.depth <= _DEEPEST
            or not 1 <= meta.entries <= size // _LEAST_RECORD
        ):
            raise DataError(
                f"{self.path}: damaged: its meta page announces {meta.entries} records in a tree "
                f"of depth {meta.depth} at page {meta.root} of {meta.last_page + 1}; copy or build "
                "the database again"
            )

    def changed(self) -> bool:
        """Whether the file has other bytes than when it was opened, those of the tree included.

        One commit by another process changes none of the tree's pages: LMDB writes to others, and
        to the older meta page. The second may.
        """
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns) == (self._opened.st_size, self._opened.st_mtime_ns):
            return False
        try:
            metas = self._metas()
        except DataError:
            return True
        newest = max(meta.transaction for meta in metas)
        return self.meta not in metas or newest != self.meta.transaction + 1

    def replaced(self) -> bool:
        """Whether another file, or none, stands at its path now."""
        try:
            return not os.path.samestat(os.stat(self.path), self._opened)
        except OSError:
            return True
