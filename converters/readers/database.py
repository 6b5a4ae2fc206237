"""Data: records of an LMDB (`converters.records.lmdb_reader`), decoded by
`converters.records.datum`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import DataError
from converters.readers.reader import READERS, Reader, Shape
from converters.readers.transform import Images
from converters.records.datum import RecordError, decode_images
from converters.records.extents import Extents, batched, every, views
from converters.records.images import Buffer
from converters.records.lmdb_reader import DATA_FILE, LmdbReader


@READERS.add("Data")
class DatabaseReader(Reader):
    """Records of an LMDB in key order, wrapping around mid-batch. Source: layers/data_layer.cpp."""

    def open(self) -> None:
        param = self.param.data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        # A folder of that name without a database hides none beside the prototxt.
        path = self.find(str(Path(param.source) / DATA_FILE)).parent
        path = path if path.exists() else self.find(param.source)
        if not path.exists():
            raise self.fail(
                f"database {param.source} does not exist: build it, or give input shapes"
            )
        try:
            self.records = LmdbReader(path)
        except DataError as error:
            raise self.fail(str(error)) from error
        self._sizes_differ = False
        self.position = self.share.first(self.batch_size) % len(self.records)
        self.reopen()

    def reopen(self) -> None:
        if self.position >= len(self.records):
            raise ValueError(f"record {self.position} of {len(self.records)}")
        dealt = self.batch_size * self.share.of
        self._batches = batched(self.records.extents(self.position), dealt)

    def shapes(self) -> list[Shape]:
        with self._named():
            images, _ = self._decode_each([next(self.records.values())], 0)
        shape = self.transform.shape(images[0].shape)
        return [(self.batch_size, *shape), (self.batch_size,)][: len(self.param.top)]

    def read(self) -> list[NDArray[np.float32]]:
        with self._named():
            own = every(self.share.step, next(self._batches), self.batch_size)
            images, labels = self._decode(own)
        data = self.transform(images, self.random(0))
        self.position = (self.position + self.batch_size * self.share.of) % len(self.records)
        return [data, labels.astype(np.float32)]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """An error of the database is one of this layer."""
        try:
            yield
        except DataError as error:
            raise self.fail(str(error)) from error

    def _decode(self, records: Sequence[Extents]) -> tuple[Images, NDArray[np.int32]]:
        """Images (N, C, H, W) or, where crops make them alike, each of its size; labels (N,)."""
        if not self._sizes_differ:
            try:
                color, step = self.transform.color, self.share.step
                return self.records.decode(records, self.position, color, step)
            except DataError:
                if not self.transform.param.crop_size:
                    raise
                self._sizes_differ = True
        return self._decode_each(list(views(records)), self.position)

    def _decode_each(
        self, records: Sequence[Buffer], position: int
    ) -> tuple[list[NDArray[Any]], NDArray[np.int32]]:
        try:
            return decode_images(records, self.transform.color)
        except RecordError as error:
            raise self.records.named(error, position, self.share.step) from error
