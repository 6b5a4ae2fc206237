"""LMDB databases read in key order, from any position.

The file's pages are `converters.records.lmdb_pages`', which checks them; the records themselves are
`converters.records.datum`'s; `converters.records.lmdb_writer` writes. A database is a folder with a
`data.mdb`; no lock file is made or needed, as readers never write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.records.datum import Batch, RecordError
from converters.records.extents import Extents, batched, decode, views
from converters.records.lmdb_pages import Leaves, LmdbPages

DATA_FILE = "data.mdb"
LONGEST_KEY = 511  # LMDB's own limit
BLOCK = 1000  # records that `once` decodes together


def key_text(key: bytes) -> str:
    """A key as messages show it."""
    return key.decode("utf-8", "backslashreplace")


def check_lmdb(path: str | Path) -> None:
    """Refuse what cannot be read as an LMDB; its meta pages are looked at, its records are not.

    Raises:
        DataError: nothing there, a LevelDB, another kind of file, or a truncated database.
    """
    LmdbPages(_data_file(Path(path))).close()


def _data_file(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path}: no such database; `gmnet lmdb` or `gmnet imageset` builds one")
    if not path.is_dir():
        raise DataError(f"{path}: is a file; an LMDB is a folder with {DATA_FILE} in it")
    file = path / DATA_FILE
    if not file.is_file():
        names = {entry.name for entry in path.iterdir()}
        if "CURRENT" in names or any(
            name.startswith("MANIFEST-") or name.endswith((".ldb", ".sst")) for name in names
        ):
            raise DataError(
                f"{path}: a LevelDB; only LMDB is read: build it again from its images with "
                "`gmnet imageset` (or Caffe's tools with --backend=lmdb) and set "
                "`backend: LMDB`"
            )
        raise DataError(f"{path}: no {DATA_FILE} in it; an LMDB is a folder with that file")
    return file


class LmdbReader:
    """A database opened for reading, its records in key order as Caffe's cursor gives them.

    Several readers may be open at once, in one process or in many; a reader sent to another process
    (pickled) opens the database there. What they read is the last transaction when they opened.

    Raises:
        DataError: `path` is no readable LMDB (see `check_lmdb`), or has no records.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._pages = LmdbPages(_data_file(self.path))
        self._length = self._pages.meta.entries
        if not self._length:
            self.close()
            raise DataError(f"{self.path}: holds no records")

    def __reduce__(self) -> tuple[Any, ...]:
        return LmdbReader, (self.path,)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        """Every record once, in key order: (key, value); raises as `values`."""
        for _, leaves in self._leaves():
            for index, value in enumerate(views(self._pages.values(leaves))):
                yield leaves.key(index), value

    @cached_property
    def keys(self) -> list[bytes]:
        """Every key, in order; made at first use (about a second for a million records)."""
        return [leaves.key(index) for _, leaves in self._leaves() for index in range(len(leaves))]

    def __getitem__(self, position: int) -> memoryview:
        """The record at `position` in key order; found by counting through the leaves."""
        if not -self._length <= position < self._length:
            raise IndexError(f"record {position} of {self._length}")
        return next(self.values(position))

    def values(self, position: int = 0) -> Iterator[memoryview]:
        """Records without end: from `position`, and again from the first after the last.

        Raises:
            DataError: a page is damaged; the tree has more or fewer records than it announces; or,
                after the last record, the database is another one than at the beginning.
        """
        return views(self.extents(position))

    def extents(self, position: int = 0) -> Iterator[Extents]:
        """Records without end, as `values` gives them; raises as it."""
        skip = position % self._length
        while True:
            for before, leaves in self._leaves():
                if skip >= before + len(leaves):
                    continue
                for some in self._pages.values(leaves):
                    if skip < before + len(some):
                        yield some.part(max(0, skip - before))
                    before += len(some)
            if self._pages.replaced():
                raise self._changed()
            skip = 0

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._pages.places()

    def picked(self, positions: NDArray[np.int64]) -> list[Extents]:
        """The records at these positions in key order, a part for each; raises as `values`."""
        pages, firsts = self._places
        at = np.searchsorted(firsts, positions, "right") - 1
        found = [
            self._pages.value(int(pages[page]), int(position - firsts[page]))
            for position, page in zip(positions, at)
        ]
        if self._pages.changed():
            raise self._changed()
        return found

    def _leaves(self) -> Iterator[tuple[int, Leaves]]:
        """The leaves, each after the number of records before it; as many as are announced."""
        found = 0
        for leaves in self._pages.leaves():
            before, found = found, found + len(leaves)
            if found > self._length:
                break
            yield before, leaves
        if self._pages.changed():
            raise self._changed()
        if found != self._length:
            some = "more" if found > self._length else f"{found}"
            raise DataError(
                f"{self.path}: damaged: {some} records found, {self._length} announced; copy or "
                "build the database again"
            )

    def _changed(self) -> DataError:
        return DataError(
            f"{self.path}: the database changed while it was read; start again with the one that "
            "is there now"
        )

    def once(self, size: int = BLOCK) -> Iterator[Batch]:
        """All records in batches of `size`, the last one shorter; raises as `batches`."""
        round_ = (some for _, leaves in self._leaves() for some in self._pages.values(leaves))
        for position, records in zip(count(0, size), batched(round_, size)):
            yield self.decode(records, position)

    def batches(self, size: int, position: int = 0, color: bool | None = None) -> Iterator[Batch]:
        """Batches without end from `position`, wrapping around mid-batch as Caffe does.

        Raises:
            DataError: a damaged record, or one of another shape; names database and key.
        """
        for at, records in zip(count(position, size), batched(self.extents(position), size)):
            yield self.decode(records, at, color)

    def decode(
        self, records: Sequence[Extents], position: int, color: bool | None = None, step: int = 1
    ) -> Batch:
        """The records of a batch, every `step`-th from `position` on; the error names the key."""
        try:
            return decode(records, color)
        except RecordError as error:
            raise self.named(error, position, step) from error

    def named(self, error: RecordError, position: int, step: int = 1) -> DataError:
        """The error of a record of such a batch, with its database and key."""
        key = self.keys[(position + error.index * step) % self._length]
        return DataError(f"{self.path}: record {key_text(key)!r} {error.reason}")

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        self._pages.close()

    def __enter__(self) -> LmdbReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_pages"):
            self.close()
