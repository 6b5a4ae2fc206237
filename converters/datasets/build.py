"""Builds a set's databases and mean image: what all sets share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.datasets.registry import BLOCK, Dataset, Images, Split
from converters.datasets.source import Source
from converters.errors import DataError, OutputError
from converters.records.datum import describe, encode_batch
from converters.records.images import Buffer, Pixels
from converters.records.lmdb_reader import DATA_FILE, LmdbReader
from converters.records.lmdb_writer import LmdbWriter, being_built, check_target, create_lmdb
from converters.records.mean import MeanImage, write_mean


class Built(NamedTuple):
    """A database that was written, or `kept` as it was."""

    path: Path
    records: int
    shape: str
    kept: bool = False


class BuildReport(NamedTuple):
    """Everything that `build` made; `notes` are remarks for the user."""

    databases: tuple[Built, ...]
    mean_file: Path
    channel_means: NDArray[np.float64]
    notes: tuple[str, ...]


def build(
    dataset: Dataset, source: Source, out: Path, force: bool = False, chosen: str = ""
) -> BuildReport:
    """Write `out`/NAME_test, NAME_mean.binaryproto and NAME_train, each whole or not at all.

    The training database comes last: where it exists, the other two do. A test database that is
    there with the same records is kept; an augmented set (`test_of`) shares the plain set's. The
    mean is that of the training images before padding.

    Raises:
        DataError: an archive is missing or damaged.
        OutputError: a database exists and `force` is not given, another process is building it, or
            it cannot be written.
    """
    if not chosen and dataset.option is not None and dataset.option.choices:
        chosen = dataset.option.choices[0]
    train_path, test_path = out / dataset.train_database, out / dataset.test_database
    mean_path = out / dataset.mean_file
    # Anybody else who builds the set hears of it here, before an archive is opened.
    with being_built(train_path):
        check_target(train_path, force)
        return _build(dataset, source, (train_path, test_path, mean_path), force, chosen)


def _build(
    dataset: Dataset, source: Source, paths: tuple[Path, Path, Path], force: bool, chosen: str
) -> BuildReport:
    train_path, test_path, mean_path = paths

    def read(split: Split) -> Iterator[Images]:
        total = -(-dataset.counts[split] // BLOCK)
        blocks = dataset.read(source, split, chosen)
        label = f"{dataset.name} {split}"
        shown = source.reporter.progress(blocks, label, total, "thousand records")
        # The first images before any output: a missing archive leaves not even a folder.
        first = next(shown, None)
        if first is None:
            raise DataError(f"{dataset.name}: no {split} images found")
        return chain((first,), shown)

    if (test_path / DATA_FILE).exists() and not force:
        test = _keep(test_path, dataset, read("test"))
    else:
        test_blocks = read("test")
        with _written(test_path, dataset, "test", force) as writer:
            test = writer.write(test_blocks)

    mean = MeanImage()
    train_blocks = read("train")
    if dataset.pad:
        for images in dataset.read(source, "train", chosen):
            mean.add(images.pixels)
        border = np.rint(mean.channels()).astype(np.uint8)
        train_blocks = (
            Images(pad(pixels, dataset.pad, border), labels) for pixels, labels in train_blocks
        )
    with _written(train_path, dataset, "train", force) as writer:
        train = writer.write(train_blocks, None if dataset.pad else mean.add)
        write_mean(mean_path, mean.image())
    means = mean.channels()
    return BuildReport((train, test), mean_path, means, dataset.compare_means(means))


def pad(pixels: Pixels, border: int, values: NDArray[np.uint8]) -> Pixels:
    """(N, C, H, W) → (N, C, H + 2·border, W + 2·border), the border filled with `values` (C,)."""
    count, channels, height, width = pixels.shape
    large = np.empty((count, channels, height + 2 * border, width + 2 * border), np.uint8)
    large[:] = values[:, np.newaxis, np.newaxis]
    large[:, :, border:-border, border:-border] = pixels
    return large


class _SetWriter(NamedTuple):
    """Gives a set's images their keys and appends them to a database."""

    writer: LmdbWriter
    path: Path
    dataset: Dataset

    def write(
        self, blocks: Iterable[Images], also: Callable[[Pixels], None] | None = None
    ) -> Built:
        """Append all `blocks`; `also` sees the pixels of each."""
        count, shape = 0, ""
        for block in blocks:
            self.writer.put_all(*_records(self.dataset, count, block))
            if also is not None:
                also(block.pixels)
            count += len(block.pixels)
            shape = describe(block.pixels[0])
        return Built(self.path, count, shape)


@contextmanager
def _written(path: Path, dataset: Dataset, split: Split, force: bool) -> Iterator[_SetWriter]:
    with create_lmdb(path, force, expected=dataset.counts[split]) as writer:
        yield _SetWriter(writer, path, dataset)


def _records(dataset: Dataset, first: int, block: Images) -> tuple[list[bytes], list[Buffer]]:
    """Keys and values of a block that starts at record `first`."""
    key = dataset.key.encode()
    keys = [key % number for number in range(first, first + len(block.pixels))]
    return keys, encode_batch(*block)


def _keep(path: Path, dataset: Dataset, blocks: Iterable[Images]) -> Built:
    """An existing database, if it holds exactly `blocks`; OutputError otherwise."""
    with LmdbReader(path) as reader:
        stored, count, shape = iter(reader), 0, ""
        for block in blocks:
            for key, value in zip(*_records(dataset, count, block), strict=True):
                if next(stored, None) != (key, value):
                    raise OutputError(f"{path}: exists with other records; --force replaces it")
                count += 1
            shape = describe(block.pixels[0])
        if count != len(reader):
            raise OutputError(f"{path}: exists with other records; --force replaces it")
    return Built(path, count, shape, kept=True)
