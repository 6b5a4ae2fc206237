"""Databases: written from a set's uncompressed files, and a batch of records decoded.

The floor of writing is `lmdb` alone, which puts the same finished records into new databases in the
same run. Caffe's own tools took 0.20 s for MNIST's 60,000 training records and 0.63 s for
CIFAR-10's 60,000 on a machine where such copies took about 0.055 s and 0.20 s: that gives the
bounds.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np

from bench.options import Measurements, Options
from bench.rows import Row, alternate
from converters.datasets.build import build
from converters.datasets.registry import DATASETS
from converters.datasets.source import Source
from converters.proto import caffe_pb2 as pb
from converters.records.datum import Batch, decode_batch, encode_batch
from converters.records.images import Buffer
from converters.records.lmdb_reader import LmdbReader
from converters.records.lmdb_writer import RECORDS_PER_COMMIT

REPEATS = 7
BATCH = 128
BATCHES = 50


class Written(NamedTuple):
    """A set whose databases are timed: who writes its files, and the ratio to keep."""

    name: str
    write_files: Callable[[Path, np.random.RandomState], None]
    bound: float


def measurements(options: Options) -> Measurements:
    """MNIST and CIFAR-10 written and their records read back; a CIFAR-10 batch decoded."""
    sets = (Written("mnist", _write_idx, 3.6), Written("cifar10", _write_bin, 2.5))
    return {written.name: partial(_set, written) for written in sets} | {"decoding": _decoding}


def _set(written: Written) -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield _writing(Path(folder), written)
        yield _walking(Path(folder, "out", f"{written.name}_train"))


def _write_idx(folder: Path, rng: np.random.RandomState) -> None:
    for stem, count in (("train", 60_000), ("t10k", 10_000)):
        header = struct.pack(">4I", 2051, count, 28, 28)
        images = rng.randint(0, 256, count * 784).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = rng.randint(0, 10, count).astype(np.uint8)
        data = struct.pack(">2I", 2049, count) + labels.tobytes()
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(data)


def _write_bin(folder: Path, rng: np.random.RandomState) -> None:
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = rng.randint(0, 256, (10_000, 3073)).astype(np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"{name}.bin")


def _writing(root: Path, written: Written) -> Row:
    """Both databases and the mean (Caffe's tools compute none), beside the plain copies."""
    files, out, copies = root / "files", root / "out", root / "copies"
    for folder in (files, copies):
        folder.mkdir()
    written.write_files(files, np.random.RandomState(0))
    dataset = DATASETS[written.name]

    def ours() -> None:
        shutil.rmtree(out, ignore_errors=True)
        with redirect_stderr(StringIO()):  # which says that these are not the official files
            build(dataset, Source(files, out), out)

    ours()
    stored = [_records(out / f"{written.name}_{split}") for split in ("train", "test")]

    def plain() -> None:
        for number, records in enumerate(stored):
            _copy(records, copies / str(number))

    mine, floor = alternate(ours, plain, REPEATS)
    count = sum(len(records) for records in stored)
    size = sum(len(value) for records in stored for _, value in records) / 1e6
    rates = (
        f"{count / side.median:,.0f} records/s, {size / side.median:,.0f} MB/s"
        for side in (mine, floor)
    )
    return Row(
        f"{written.name}: {count:,} records written, mean computed; plain lmdb copy",
        mine,
        floor,
        written.bound,
        note="; plain copy ".join(rates),
    )


def _walking(path: Path) -> Row:
    """An epoch in batches; LMDB's own cursor, which believes every page, with the same decoder."""
    with LmdbReader(path) as reader:
        count = len(reader)

        def ours() -> None:
            for _ in reader.once(BATCH):
                pass

        environment = lmdb.open(str(path), readonly=True, lock=False)

        def cursor() -> None:
            with environment.begin(buffers=True) as transaction:
                values = transaction.cursor().iternext(keys=False)
                while records := list(islice(values, BATCH)):
                    decode_batch(records)

        mine, plain = alternate(ours, cursor, REPEATS)
        environment.close()
    rates = (f"{count / side.median:,.0f} records/s" for side in (mine, plain))
    return Row(
        f"{path.name}: {count:,} records read and decoded; through LMDB's cursor",
        mine,
        plain,
        1.0,
        note="; cursor ".join(rates),
    )


def _records(path: Path) -> list[tuple[bytes, bytes]]:
    with LmdbReader(path) as reader:
        return [(key, bytes(value)) for key, value in reader]


def _copy(records: list[tuple[bytes, bytes]], path: Path) -> None:
    """The least that writing takes: append, sync once, no other work."""
    path.unlink(missing_ok=True)
    env = lmdb.open(str(path), subdir=False, lock=False, sync=False, map_size=1 << 30)
    for start in range(0, len(records), RECORDS_PER_COMMIT):
        with env.begin(write=True) as transaction:
            block = records[start : start + RECORDS_PER_COMMIT]
            transaction.cursor().putmulti(block, append=True)
    env.sync(True)
    env.close()


def _decoding() -> Iterable[Row]:
    """Records to pixels and labels; `reading_bench` adds the transformation."""
    rng = np.random.RandomState(0)
    batches = []
    for _ in range(BATCHES):
        pixels = rng.randint(0, 256, (BATCH, 3, 32, 32)).astype(np.uint8)
        batches.append(encode_batch(pixels, rng.randint(0, 10, BATCH)))
    for ours, theirs in zip(decode_batch(batches[0]), parse_each(batches[0]), strict=True):
        if not np.array_equal(ours, theirs):
            raise ValueError("the two decoders disagree")
    mine, reference = alternate(
        lambda: [decode_batch(records) for records in batches],
        lambda: [parse_each(records) for records in batches],
    )
    count = BATCH * BATCHES
    yield Row(
        f"{BATCHES} batches of {BATCH} records of 3×32×32 decoded; protobuf parse of each record",
        mine,
        reference,
        0.25,
        note=f"{count / mine.median:,.0f} records/s; protobuf {count / reference.median:,.0f}",
    )


def parse_each(records: Iterable[Buffer]) -> Batch:
    """What `decode_batch` replaces: each record through protobuf, then one copy into the batch."""
    images, labels = [], []
    for record in records:
        datum = pb.Datum.FromString(bytes(record))
        shape = (datum.channels, datum.height, datum.width)
        images.append(np.frombuffer(datum.data, np.uint8).reshape(shape))
        labels.append(datum.label)
    return Batch(np.stack(images), np.array(labels, np.int32))
