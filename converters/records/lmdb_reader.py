"""LMDB databases read in key order, from any position.

The file's pages are `converters.records.lmdb_pages`', which checks them; the records themselves are
`converters.records.datum`'s; `converters.records.lmdb_writer` writes. A database is a folder with a
`data.mdb`; no lock file is made or needed, as readers never write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

from converters.errors import DataError
from converters.records.datum import Batch, RecordError, decode_batch
from converters.records.images import Buffer
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
        raise DataError(f"{path}: no such database; `python -m converters lmdb` builds one")
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
                "`python -m converters imageset` (or Caffe's tools with --backend=lmdb) and set "
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
            for index, value in enumerate(self._pages.values(leaves)):
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
        # Joined by chain, not by `yield from`: no Python code runs for a record.
        return chain.from_iterable(self._rounds(position % self._length))

    def _rounds(self, skip: int) -> Iterator[Iterator[memoryview]]:
        """The values of the leaves, round after round, the first `skip` of the first left out."""
        while True:
            for before, leaves in self._leaves():
                if skip <= before:
                    yield self._pages.values(leaves)
                elif skip < before + len(leaves):
                    yield islice(self._pages.values(leaves), skip - before, None)
            if self._pages.replaced():
                raise self._changed()
            skip = 0

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
        values = islice(self.values(), self._length)
        position = 0
        while records := list(islice(values, size)):
            yield self.decode(records, position)
            position += len(records)

    def batches(self, size: int, position: int = 0, color: bool | None = None) -> Iterator[Batch]:
        """Batches without end from `position`, wrapping around mid-batch as Caffe does.

        Raises:
            DataError: a damaged record, or one of another shape; names database and key.
        """
        values = self.values(position)
        while True:
            yield self.decode(list(islice(values, size)), position, color)
            position += size

    def decode(
        self, records: Sequence[Buffer], position: int, color: bool | None = None, step: int = 1
    ) -> Batch:
        """`decode_batch` whose error names the key; every `step`-th record from `position` on."""
        try:
            return decode_batch(records, color)
        except RecordError as error:
            key = self.keys[(position + error.index * step) % self._length]
            raise DataError(f"{self.path}: record {key_text(key)!r} {error.reason}") from error

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
