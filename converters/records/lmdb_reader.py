"""LMDB databases read in key order, from any position.

A truncated file is detected before LMDB would die of it (SIGBUS). The records themselves are
`converters.records.datum`'s; `converters.records.lmdb_writer` writes. A database is a folder with a
`data.mdb`; no lock file is made or needed, as readers never write.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import lmdb

from converters.errors import DataError
from converters.records.datum import Batch, RecordError, decode_batch
from converters.records.images import Buffer

DATA_FILE = "data.mdb"
LONGEST_KEY = 511  # LMDB's own limit
BLOCK = 1000  # records that `once` decodes together


def key_text(key: bytes) -> str:
    """A key as messages show it."""
    return key.decode("utf-8", "backslashreplace")


class _Meta(NamedTuple):
    """What one of the two meta pages says (LMDB's MDB_page and MDB_meta, 64-bit, native order)."""

    page_size: int
    last_page: int
    transaction: int
    entries: int


_META_BYTES = 152
# page header: number, pad, flags, lower, upper; meta: magic, version, address, map size;
# then two MDB_db (pad, flags, depth, branch, leaf, overflow pages, entries, root); last page, txn.
_META = struct.Struct("=QHHHHIIQQ" + "IHHQQQQQ" * 2 + "QQ")
_META_FLAG, _MAGIC, _VERSION = 0x08, 0xBEEFC0DE, 1
assert _META.size == _META_BYTES


def _read_meta(file: Path) -> _Meta:
    """The newer of the two meta pages.

    Raises:
        DataError: the file is no LMDB data file of this kind of machine.
    """
    with open(file, "rb") as handle:
        first = _parse_meta(handle.read(_META_BYTES))
        if first is None:
            raise DataError(f"{file}: not an LMDB data file (or one of a 32-bit machine)")
        handle.seek(first.page_size)
        second = _parse_meta(handle.read(_META_BYTES))
    if second is None:
        raise DataError(f"{file}: truncated inside its second page; build the database again")
    return max(first, second, key=lambda meta: meta.transaction)


def _parse_meta(data: bytes) -> _Meta | None:
    if len(data) < _META_BYTES:
        return None
    fields = _META.unpack(data)
    flags, magic, version = fields[2], fields[5], fields[6]
    if not flags & _META_FLAG or magic != _MAGIC or version != _VERSION:
        return None
    return _Meta(fields[9], fields[25], fields[26], fields[23])


def check_lmdb(path: str | Path) -> None:
    """Refuse what cannot be read as an LMDB, without letting LMDB touch it.

    Raises:
        DataError: nothing there, a LevelDB, another kind of file, or a truncated database.
    """
    path = Path(path)
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
    size = file.stat().st_size
    if size == 0:
        raise DataError(f"{file}: empty; build the database again")
    try:
        meta = _read_meta(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    needed = (meta.last_page + 1) * meta.page_size
    if size < needed:
        raise DataError(
            f"{file}: truncated: {size} bytes of {needed}; copy or build the database again"
        )


class _Environments:
    """Open databases by file identity: py-lmdb refuses to open one twice in a process.

    The lock is one that a thread may take twice: a reader can be collected while another opens.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], tuple[Any, int]] = {}
        self._lock = threading.RLock()

    def acquire(self, file: Path) -> tuple[tuple[int, int], Any]:
        status = file.stat()
        identity = (status.st_dev, status.st_ino)
        with self._lock:
            if identity not in self._open:
                self._open[identity] = (_open_environment(file), 0)
            env, users = self._open[identity]
            self._open[identity] = (env, users + 1)
        return identity, env

    def release(self, identity: tuple[int, int]) -> None:
        with self._lock:
            env, users = self._open.pop(identity)
            if users > 1:
                self._open[identity] = (env, users - 1)
            else:
                env.close()


def _open_environment(file: Path) -> Any:
    return lmdb.open(str(file), subdir=False, readonly=True, lock=False, max_readers=1024)


_environments = _Environments()


class LmdbReader:
    """A database opened for reading, its records in key order as Caffe's cursor gives them.

    Several readers may be open at once, in one process or in many; a reader sent to another process
    (pickled) opens the database there. Values are views of the mapped file, valid until `close`.

    Raises:
        DataError: `path` is no readable LMDB (see `check_lmdb`), or has no records.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_lmdb(self.path)
        try:
            self._identity, env = _environments.acquire(self.path / DATA_FILE)
        except lmdb.Error as error:
            raise DataError(f"{self.path}: cannot be opened: {error}") from error
        self._transaction = env.begin(buffers=True)
        self._length: int = self._transaction.stat()["entries"]
        self._closed = False
        if not self._length:
            self.close()
            raise DataError(f"{self.path}: holds no records")

    def __reduce__(self) -> tuple[Any, ...]:
        return LmdbReader, (self.path,)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        """Every record once, in key order: (key, value)."""
        with self._damage():
            for key, value in self._transaction.cursor():
                yield bytes(key), value

    @cached_property
    def keys(self) -> list[bytes]:
        """Every key, in order; made at first use (0.2 s for a million records)."""
        with self._damage():
            return [bytes(key) for key in self._transaction.cursor().iternext(values=False)]

    def __getitem__(self, position: int) -> memoryview:
        """The record at `position` in key order."""
        with self._damage():
            value: memoryview = self._transaction.get(self.keys[position])
        return value

    def values(self, position: int = 0) -> Iterator[memoryview]:
        """Records without end: from `position`, and again from the first after the last."""
        cursor = self._transaction.cursor()
        if position % self._length:
            cursor.set_key(self.keys[position % self._length])
        else:
            cursor.first()
        with self._damage():
            while True:
                yield from cursor.iternext(keys=False)
                cursor.first()

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

    def decode(self, records: Sequence[Buffer], position: int, color: bool | None = None) -> Batch:
        """`decode_batch` whose error names the key; `records[0]` is the one at `position`."""
        try:
            return decode_batch(records, color)
        except RecordError as error:
            key = self.keys[(position + error.index) % self._length]
            raise DataError(f"{self.path}: record {key_text(key)!r} {error.reason}") from error

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """LMDB's own complaints about a page become one clear line."""
        try:
            yield
        except lmdb.Error as error:
            raise DataError(
                f"{self.path}: damaged: {error}; `python -m converters verify` says where"
            ) from error

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._transaction.abort()
            _environments.release(self._identity)

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
        if not getattr(self, "_closed", True):
            self.close()
