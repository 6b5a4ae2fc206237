"""Reading for training: batches of CIFAR records, decoded, cropped, mirrored, without their mean.

The yardstick reads the same LMDB record by record, as Caffe's Data layer does: protobuf parses it,
NumPy transforms it. Both draw a corner and a coin for every image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.rows import Row, alternate
from converters.datum import Buffer, encode_batch
from converters.errors import DataError
from converters.lmdb import LmdbReader, create_lmdb
from converters.mean import write_mean
from converters.proto import caffe_pb2 as pb
from converters.prototxt import parse_net
from converters.readers import Reader, open_reader
from converters.transform import Transform

RECORDS = 6400
BATCH = 128
BATCHES = RECORDS // BATCH
# The padded sets' records, and what a net sees of them.
SIDE, CROP = 40, 32


class Case(NamedTuple):
    """A transformation to time."""

    name: str
    mean: str


CASES = (
    Case("mean_value", "mean_value: 125.3 mean_value: 123 mean_value: 113.9"),
    Case("mean_file", 'mean_file: "mean.binaryproto"'),
)
BOUND = 0.25


def rows() -> Iterable[Row]:
    """Fifty batches from an LMDB in the page cache, less a mean of channels and a mean image."""
    with tempfile.TemporaryDirectory(prefix="reading_bench_") as name:
        folder = Path(name)
        write_records(folder, RECORDS)
        for case in CASES:
            yield _reading(folder, case)


def write_records(folder: Path, count: int) -> None:
    """An LMDB of random images, and their mean image, in `folder`."""
    rng = np.random.RandomState(0)
    pixels = rng.randint(0, 256, (count, 3, SIDE, SIDE)).astype(np.uint8)
    keys = [b"%05d" % number for number in range(count)]
    with create_lmdb(folder / "records") as writer:
        writer.put_all(keys, encode_batch(pixels, rng.randint(0, 10, count)))
    write_mean(folder / "mean.binaryproto", pixels.mean(axis=0, dtype=np.float32))


def open_case(folder: Path, case: Case, phase: str, mirror: bool) -> Reader:
    """The reader of a Data layer with the case's transformation."""
    text = f"""layer {{ name: "data" type: "Data" top: "data" top: "label"
        transform_param {{ crop_size: {CROP} mirror: {str(mirror).lower()} {case.mean} }}
        data_param {{ source: "records" batch_size: {BATCH} backend: LMDB }} }}"""
    return open_reader(parse_net(text).layer[0], phase, "bench", str(folder), seed=0)


def _reading(folder: Path, case: Case) -> Row:
    check(folder, case)
    reader = open_case(folder, case, "TRAIN", mirror=True)
    random = np.random.default_rng(0)

    def ours() -> None:
        for _ in range(BATCHES):
            reader.next()

    with LmdbReader(folder / "records") as records:

        def each() -> None:
            values = records.values()
            for _ in range(BATCHES):
                read_each(islice(values, BATCH), reader.transform, random)

        mine, theirs = alternate(ours, each)
    return Row(
        f"{BATCHES} batches of {BATCH} records of 3×{SIDE}×{SIDE} read, cropped to {CROP}×{CROP}, "
        f"mirrored, {case.name}; record by record through protobuf",
        mine,
        theirs,
        BOUND,
        note=f"{RECORDS / mine.median:,.0f} images/s; protobuf {RECORDS / theirs.median:,.0f}",
    )


def check(folder: Path, case: Case) -> None:
    """Require equal batches where nothing is random: centre crops, not mirrored.

    Raises:
        DataError: they differ.
    """
    reader = open_case(folder, case, "TEST", mirror=False)
    with LmdbReader(folder / "records") as records:
        data, labels = read_each(
            islice(records.values(), BATCH), reader.transform, np.random.default_rng(0)
        )
    batch = reader.next()
    if not (np.array_equal(batch["data"], data) and np.array_equal(batch["label"], labels)):
        raise DataError(f"{case.name}: the two readers disagree")


def read_each(
    records: Iterable[Buffer], transform: Transform, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a reader's batches replace: each record parsed by protobuf and transformed alone."""
    param, mean = transform.param, transform.mean
    crop = param.crop_size
    values = np.array(param.mean_value, np.float32).reshape(-1, 1, 1)
    images, labels = [], []
    for record in records:
        datum = pb.Datum.FromString(bytes(record))
        shape = (datum.channels, datum.height, datum.width)
        room = (datum.height - crop, datum.width - crop)
        top, left = (
            (int(x) for x in random.integers(0, np.add(room, 1)))
            if (transform.train)
            else (room[0] // 2, room[1] // 2)
        )
        place = np.s_[:, top : top + crop, left : left + crop]
        image = np.frombuffer(datum.data, np.uint8).reshape(shape)[place].astype(np.float32)
        image -= values if mean is None else mean[place]
        images.append(image[:, :, ::-1] if param.mirror and random.integers(2) else image)
        labels.append(datum.label)
    return np.stack(images), np.array(labels, np.float32)
