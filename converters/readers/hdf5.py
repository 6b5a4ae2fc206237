"""HDF5Data: rows of datasets in HDF5 files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.environment import find_file
from converters.formats.hdf5 import import_h5py
from converters.formats.input_files import byte_order_mark, read_file
from converters.readers.reader import READERS, Reader, Shape
from converters.reporting import SILENT, Reporter

# Bytes that are not asked for; and how much larger than stored a compressed dataset may be.
_SMALL, _MOST_TIMES = 1 << 26, 1100


@READERS.add("HDF5Data")
class Hdf5Reader(Reader):
    """Rows of the datasets named like the tops, file after file. Source: hdf5_data_layer.cpp."""

    def open(self) -> None:
        param = self.param.hdf5_data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        if self.param.HasField("transform_param"):
            raise self.fail("takes no transform_param")
        listed = self.find(param.source)
        try:
            content = read_file(listed)
        except OSError as error:
            raise self.fail(f"list {param.source} cannot be read: {error.strerror}") from error
        if mark := byte_order_mark(content):
            raise self.fail(f"list {param.source} begins with {mark}")
        names = [os.fsdecode(name) for name in content.split()]
        if not names:
            raise self.fail(f"list {param.source} is empty")
        if wrong := next((name for name in names if "\0" in name), None):
            raise self.fail(f"list {param.source} names {wrong!r}, which no file can be called")
        self.files = [find_file(self.find(name), listed.parent) for name in names]
        self._listed = listed
        # Rows read so far are in `position`; the file's place in its order is `file`.
        self.file = 0
        self._loaded: Path | None = None
        self._reorder()
        self.position = self.share.first(self.batch_size)

    def _reorder(self) -> None:
        count = len(self.files)
        shuffled = self.param.hdf5_data_param.shuffle
        self._file_order = self.random(1).permutation(count) if shuffled else np.arange(count)
        self._load()

    def _load(self) -> None:
        h5py = import_h5py("HDF5Data")
        path = self.files[self._file_order[self.file]]
        if path != self._loaded:
            try:
                with h5py.File(path, "r") as file:
                    self.rows = [self._values(path, file, top) for top in self.param.top]
            except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
                raise self.fail(
                    f"{path}: {error}; it needs datasets {list(self.param.top)}"
                ) from error
            self._loaded = path
        counts = [len(rows) if rows.ndim else 0 for rows in self.rows]
        if len(set(counts)) != 1 or not counts[0]:
            raise self.fail(f"{path}: datasets {list(self.param.top)} have {counts} rows")
        shuffled = self.param.hdf5_data_param.shuffle
        number = self.epoch * len(self.files) + self.file
        generator = np.random.default_rng((self.seed, 2, number))
        self._row_order = generator.permutation(counts[0]) if shuffled else np.arange(counts[0])

    def _values(self, path: Path, file: Any, top: str) -> NDArray[np.float32]:
        """The dataset `top`, of which a few stored bytes may announce any number of values."""
        dataset = file[top]
        if not isinstance(dataset, import_h5py("HDF5Data").Dataset) or (
            dataset.dtype.kind not in "fiub"
        ):
            raise TypeError(f"{top} is no dataset of real numbers")
        size, stored = dataset.size * 4, dataset.id.get_storage_size()
        if size > max(_SMALL, stored * _MOST_TIMES):
            raise self.fail(
                f"{path}: {top} announces {size} bytes of values, but {stored} are stored"
            )
        try:
            return np.asarray(dataset, np.float32)
        except MemoryError as error:
            raise self.fail(f"{path}: {top} needs {size} bytes of memory") from error

    @property
    def items(self) -> int:
        """The rows of all files; each is opened for it."""
        h5py = import_h5py("HDF5Data")
        rows, top = 0, self.param.top[0]
        for path in self.files:
            try:
                with h5py.File(path, "r") as file:
                    rows += len(file[top])
            except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
                raise self.fail(f"{path}: {error}; it needs a dataset {top}") from error
        return rows

    def check(self, reporter: Reporter = SILENT) -> None:
        absent = [path for path in self.files if not path.exists()]
        if absent:
            raise self.fail(
                f"{len(absent)} of the {len(self.files)} files of {self._listed} do not exist: "
                f"{', '.join(map(str, absent[:8]))}{' …' if len(absent) > 8 else ''}"
            )

    def shapes(self) -> list[Shape]:
        return [(self.batch_size, *rows.shape[1:]) for rows in self.rows]

    def read(self) -> list[NDArray[np.float32]]:
        picked: list[list[NDArray[np.float32]]] = [[] for _ in self.rows]
        for _ in range(self.batch_size):
            while self.position >= len(self._row_order):
                self._next_file()
            for rows, chosen in zip(self.rows, picked):
                chosen.append(rows[self._row_order[self.position]])
            self.position += self.share.step
        self.position += self.share.gap(self.batch_size)
        try:
            return [np.stack(chosen) for chosen in picked]
        except ValueError as error:
            raise self.fail(f"the files' datasets have different shapes: {error}") from error

    def _next_file(self) -> None:
        self.position, self.file = self.position - len(self._row_order), self.file + 1
        if self.file == len(self.files):
            self.file, self.epoch = 0, self.epoch + 1
            self._reorder()
        else:
            self._load()

    def state(self) -> dict[str, int]:
        return {**super().state(), "file": self.file}

    def reopen(self) -> None:
        if self.file >= len(self.files):
            raise ValueError(f"file {self.file} of {len(self.files)}")
        self._reorder()
        # Behind the last row are the next files', as far on as a share may have stepped.
        if self.position > len(self._row_order) + (self.share.of - 1) * self.batch_size:
            raise ValueError(f"row {self.position} of {len(self._row_order)}")
