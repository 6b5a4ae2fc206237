"""LMDB databases written: whole or not at all, in key order, in transactions of many records.

`create_lmdb` writes beside the final name and renames at the end; `converters.records.lmdb_reader`
reads. No lock file is made: a build works on a file that nobody else knows yet.
"""

from __future__ import annotations

import operator
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import lmdb

from converters.errors import DataError, OutputError
from converters.formats.locks import only_writer
from converters.formats.whole_files import output_error, written_beside
from converters.records.images import Buffer
from converters.records.lmdb_reader import DATA_FILE, LONGEST_KEY, key_text

RECORDS_PER_COMMIT = 1000  # as Caffe's tools
BYTES_PER_COMMIT = 16 << 20  # large records are committed earlier: memory stays flat
FIRST_MAP_SIZE = 64 << 20


class LmdbWriter:
    """Appends records in key order to a database that `create_lmdb` opened."""

    def __init__(self, file: Path, final: Path, expected: int | None, map_size: int) -> None:
        self.records = 0
        self._final = final
        self._expected = expected
        self._waiting: list[tuple[bytes, Buffer]] = []
        self._waiting_bytes = 0
        self._last_key = b""
        # Nothing is synced until the end: the file has no name that anybody would open. LMDB clears
        # new pages (meminit), else what is free in them would differ between two builds.
        self._env = lmdb.open(str(file), subdir=False, lock=False, sync=False, map_size=map_size)

    def put(self, key: bytes, value: Buffer) -> None:
        """Append one record.

        Raises:
            DataError: the key does not follow the one before it, or is too long for LMDB.
            OutputError: the disk is full.
        """
        self.put_all([key], [value])

    def put_all(self, keys: Sequence[bytes], values: Sequence[Buffer]) -> None:
        """Append a block of records, checked and handed over together; as `put`, but faster.

        The values must not change until they are written: at the latest when the database closes.
        """
        if len(keys) != len(values):
            raise ValueError(f"{len(keys)} keys for {len(values)} values")
        ascend = all(map(operator.lt, chain((self._last_key,), keys), keys))
        if not ascend or max(map(len, keys), default=0) > LONGEST_KEY:
            raise self._key_error(keys)
        if keys:
            self._last_key = keys[-1]
        self._waiting.extend(zip(keys, values, strict=True))
        self._waiting_bytes += sum(map(len, keys)) + sum(map(len, values))
        if len(self._waiting) >= RECORDS_PER_COMMIT or self._waiting_bytes >= BYTES_PER_COMMIT:
            self._commit()

    def finish(self) -> None:
        """Write what is waiting, and wait until the disk has it."""
        try:
            self._commit()
            self._env.sync(True)
        except lmdb.Error as error:
            raise self._full(error) from error

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        self._env.close()

    def _commit(self) -> None:
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    transaction.cursor().putmulti(self._waiting, append=True)
                break
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:
                raise self._full(error) from error
        self.records += len(self._waiting)
        self._waiting, self._waiting_bytes = [], 0

    def _key_error(self, keys: Sequence[bytes]) -> DataError:
        """Which of `keys` cannot be appended, and why."""
        for last, key in zip(chain((self._last_key,), keys), keys, strict=False):
            if len(key) > LONGEST_KEY:
                return DataError(
                    f"{self._final}: key {key_text(key)!r} has {len(key)} bytes, LMDB takes at "
                    f"most {LONGEST_KEY}"
                )
            if not last < key:
                break
        return DataError(
            f"{self._final}: key {key_text(key)!r} must sort after the last one, {key_text(last)!r}"
        )

    def _full(self, error: lmdb.Error) -> OutputError:
        """LMDB says ENOSPC, EFBIG or, after a short write, EIO: give the two numbers anyway."""
        expected = max(self._expected or 0, self.records + len(self._waiting))
        if self.records:
            info = self._env.info()
            written = (info["last_pgno"] + 1) * self._env.stat()["psize"]
            needed = written * expected // self.records
        else:
            needed = self._waiting_bytes * expected // max(len(self._waiting), 1)
        free = shutil.disk_usage(self._final.parent).free
        reason = "the disk is full" if free < needed else f"cannot be written ({error})"
        about = "about" if self._expected else "more than"
        return OutputError(
            f"{self._final}: {reason}: {about} {needed} bytes are needed, {free} are free"
        )


@contextmanager
def create_lmdb(
    path: str | Path,
    force: bool = False,
    expected: int | None = None,
    map_size: int = FIRST_MAP_SIZE,
) -> Iterator[LmdbWriter]:
    """Open a new database for writing; it appears under `path` when the block succeeds, whole.

    `expected` is the number of records to come, for the message about a full disk. With `force` an
    existing database is replaced in one step; anything else at `path` is never touched.

    Raises:
        OutputError: `path` exists, another process is building it, it cannot be written, or the
            disk is full.
    """
    final = Path(path)
    check_target(final, force)
    if final.is_symlink():
        final = Path(os.path.realpath(final))
    replaced = (final / DATA_FILE).is_file()
    # Replacing the file inside the folder is one atomic step; replacing a full folder is not.
    target = final / DATA_FILE if replaced else final
    with being_built(final), written_beside(target, folder=not replaced) as partial:
        if not replaced:
            partial.mkdir()
        file = partial if replaced else partial / DATA_FILE
        try:
            writer = LmdbWriter(file, final, expected, map_size)
        except lmdb.Error as error:
            raise OutputError(f"{final}: cannot be written: {error}") from error
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
        # Another build may have been faster.
        check_target(final, force)
        if replaced:
            # It describes the readers of the old file.
            (final / "lock.mdb").unlink(missing_ok=True)


@contextmanager
def being_built(path: str | Path) -> Iterator[None]:
    """Keep other processes from building `path` in the block; `create_lmdb` does, too.

    Raises:
        OutputError: one does.
    """
    way_out = "wait for its end, or choose another name"
    with only_writer(os.path.realpath(path), "another build", way_out):
        yield


def check_target(path: str | Path, force: bool = False) -> None:
    """Refuse a target that `create_lmdb` would refuse, before any work is done.

    Raises:
        OutputError: something exists there (with `force`: something that is no LMDB).
    """
    path = Path(path)
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
    except OSError as error:  # a folder that we may not read, a link to itself
        raise output_error(path, error) from error
    if not (path / DATA_FILE).is_file():
        raise OutputError(f"{path}: exists and is no LMDB; remove it or choose another name")
    if not force:
        raise OutputError(f"{path}: exists; --force replaces it")
