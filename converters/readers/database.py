"""Data: records of an LMDB (`converters.records.lmdb_reader`), decoded by
`converters.records.datum`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.datasets.registry import DATASETS
from converters.errors import DataError
from converters.readers.reader import READERS, Reader, Shape
from converters.readers.transform import Images, Places
from converters.records.datum import RecordError, decode_images
from converters.records.extents import Extents, batched, decode, every, views
from converters.records.images import Buffer
from converters.records.lmdb_reader import DATA_FILE, LmdbReader


class Drawn(NamedTuple):
    """A batch whose records someone else may have, and transforms: what was chosen at random."""

    at: NDArray[np.int64]  # places in the database (N,)
    stored: tuple[Images, NDArray[np.int32]] | None  # images and labels, where they were read
    windows: Places


class RecordReader(Reader):
    """A reader of an LMDB's records in key order, wrapping around mid-batch.

    With the forks' `shuffle` each round has an order of its own; `position` counts in it.
    """

    def open(self) -> None:
        param = self.param.data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        # A folder of that name without a database hides none beside the prototxt.
        path = self.find(str(Path(param.source) / DATA_FILE)).parent
        path = path if path.exists() else self.find(param.source)
        if not path.exists():
            raise self.fail(
                f"database {param.source} does not exist: build it, or give input shapes; "
                f"{_maker(param.source)}"
            )
        try:
            self.records = LmdbReader(path)
        except DataError as error:
            raise self.fail(str(error)) from error
        self.position = self.share.first(self.batch_size) % len(self.records)
        self.reopen()

    @property
    def items(self) -> int:
        return len(self.records)

    def close(self) -> None:
        self.records.close()

    def reopen(self) -> None:
        if self.position >= len(self.records):
            raise ValueError(f"record {self.position} of {len(self.records)}")
        self._shuffles: bool = self.param.data_param.shuffle
        self._batches: Iterator[list[Extents]] | None = None
        self._orders: dict[int, NDArray[np.int64]] = {}

    def places(self) -> NDArray[np.int64]:
        """Where in the database the next batch's records are (N,)."""
        steps = self.position + np.arange(self.batch_size) * self.share.step
        rounds, at = np.divmod(steps, len(self.records))
        if self._shuffles:
            for one in np.unique(rounds):
                own = rounds == one
                at[own] = self._order(self.epoch + int(one))[at[own]]
        return at

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The order of the records in a round; those that were asked for last are kept."""
        if epoch not in self._orders:
            random = np.random.default_rng((self.seed, 1, epoch))
            kept = {one: order for one, order in self._orders.items() if one == epoch - 1}
            self._orders = {**kept, epoch: random.permutation(len(self.records))}
        return self._orders[epoch]

    def following(self) -> tuple[NDArray[np.int64], Sequence[Extents]]:
        """The places of the next batch's records, and the records."""
        at = self.places()
        if self._shuffles:
            return at, self.records.picked(at)
        if self._batches is None:
            dealt = self.batch_size * self.share.of
            self._batches = batched(self.records.extents(self.position), dealt)
        return at, every(self.share.step, next(self._batches), self.batch_size)

    def named(self, error: RecordError, at: NDArray[np.int64]) -> DataError:
        """The error of one of the records at these places, with its database and key."""
        return self.records.named(error, int(at[error.index]) - error.index)

    def _advance(self) -> None:
        steps = self.position + self.batch_size * self.share.of
        rounds, self.position = divmod(steps, len(self.records))
        self.epoch += rounds if self._shuffles else 0

    @contextmanager
    def _named(self) -> Iterator[None]:
        """An error of the database is one of this layer."""
        try:
            yield
        except DataError as error:
            raise self.fail(str(error)) from error


@READERS.add("Data")
class DatabaseReader(RecordReader):
    """Images and labels of an LMDB's Datum records. Source: Caffe layers/data_layer.cpp."""

    def open(self) -> None:
        self._sizes_differ = False
        super().open()

    def shapes(self) -> list[Shape]:
        shape = self.transform.shape(self.first_image().shape)
        return [(self.batch_size, *shape), (self.batch_size,)][: len(self.param.top)]

    def first_image(self) -> NDArray[Any]:
        """The first record's image (C, H, W)."""
        with self._named():
            images, _ = self._decode_each([next(self.records.values())], 0)
        return images[0]

    def read(self) -> list[NDArray[np.float32]]:
        images, labels = self._stored()
        data = self.transform(images, self.chance())
        self._advance()
        return [data, labels.astype(np.float32)]

    def draw(self, images: tuple[int, ...] | None = None) -> Drawn:
        """The next batch before its transformation.

        `images` is the shape (C, H, W) of records that the caller has: then none is read.
        """
        at, stored = self.places(), None if images else self._stored()
        known = np.broadcast_to(np.uint8(0), (len(at), *(images or ())))
        windows = self.transform.choose(stored[0] if stored else known, self.chance())
        if stored is None:
            self._batches = None  # reading goes on behind those that were passed over
        self._advance()
        return Drawn(at, stored, windows)

    def _stored(self) -> tuple[Images, NDArray[np.int32]]:
        """The records of the next batch, decoded."""
        with self._named():
            at, records = self.following()
            return self._picked(at, records) if self._shuffles else self._decode(records)

    def _picked(
        self, at: NDArray[np.int64], records: Sequence[Extents]
    ) -> tuple[Images, NDArray[np.int32]]:
        """Records from all over the database, decoded."""
        try:
            if not self.transform.crop:
                return decode(records, self.transform.color)
            return decode_images(list(views(records)), self.transform.color)
        except RecordError as error:
            raise self.named(error, at) from error

    def _decode(self, records: Sequence[Extents]) -> tuple[Images, NDArray[np.int32]]:
        """Images (N, C, H, W) or, where crops make them alike, each of its size; labels (N,)."""
        if not self._sizes_differ:
            try:
                color, step = self.transform.color, self.share.step
                return self.records.decode(records, self.position, color, step)
            except DataError:
                if not self.transform.crop:
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


def _maker(source: str) -> str:
    """The line that makes a database of this name: a data set's as our builder or Caffe calls it.

    Any other is made from a list of images.
    """
    path = Path(source)
    if place := re.search(r"\$\{[^}]*\}|\{\{.*?\}\}|\{%.*?%\}|%\(\w+\)s", source):
        return f"`{place[0]}` in its name is an unfilled place of a template: write the path"
    named = re.fullmatch(r"(\w+?)_(train|test)(?:_lmdb)?", path.name)
    if named is None or named[1] not in DATASETS:
        return f"`gmnet imageset ROOT LIST {shlex.quote(source)}` makes it from a list of images"
    dataset, split = named.groups()
    made = Path("lmdb") / f"{dataset}_{split}"
    if path == made:
        return f"`make lmdb DATASET={dataset}` makes it, or `gmnet lmdb {dataset}`"
    return (
        f"`make lmdb DATASET={dataset}` makes {made}, to be named here, or `gmnet lmdb {dataset}`"
    )
