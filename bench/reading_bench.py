"""A batch for training: CIFAR records decoded, cropped, mirrored, less their mean.

The yardstick does the same record by record, as Caffe's Data layer: protobuf parses one, NumPy
transforms it. Both draw a corner and a coin for every image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.options import Measurements, Options
from bench.rows import Row, alternate
from converters.errors import DataError
from converters.proto import caffe_pb2 as pb
from converters.readers.transform import Transform
from converters.records.datum import decode_batch, encode_batch
from converters.records.mean import write_mean

BATCH = 128
BATCHES = 50
# The records of the padded sets, and what a net sees of them.
SIDE, CROP = 40, 32
# Generated nets subtract a value for each channel; that has to be four times as fast. A mean image
# is gathered at every image's place, another float for each pixel: three times is left.
VALUE_BOUND, FILE_BOUND = 0.25, 0.33


class Prepared(NamedTuple):
    """A batch as a net takes it: data (N, C, H, W), labels (N,)."""

    data: NDArray[np.float32]
    labels: NDArray[np.float32]


def measurements(options: Options) -> Measurements:
    """Fifty batches of records in memory, less a mean for each channel and less a mean image."""
    return {"mean_value": _mean_value, "mean_file": _mean_file}


def _mean_value() -> Iterable[Row]:
    values = pb.TransformationParameter(crop_size=CROP, mirror=True, mean_value=[125.3, 123, 113.9])
    yield _row("mean_value", _batches(), values, VALUE_BOUND)


def _mean_file() -> Iterable[Row]:
    with tempfile.TemporaryDirectory(prefix="reading_bench_") as folder:
        mean = Path(folder, "mean.binaryproto")
        pixels = np.random.default_rng(0).uniform(100, 150, (3, SIDE, SIDE))
        write_mean(mean, pixels.astype(np.float32))
        image = pb.TransformationParameter(crop_size=CROP, mirror=True, mean_file=str(mean))
        yield _row("mean_file", _batches(), image, FILE_BOUND)


def _batches() -> list[list[bytes]]:
    rng = np.random.RandomState(0)
    batches = []
    for _ in range(BATCHES):
        pixels = rng.randint(0, 256, (BATCH, 3, SIDE, SIDE)).astype(np.uint8)
        batches.append([bytes(x) for x in encode_batch(pixels, rng.randint(0, 10, BATCH))])
    return batches


def _row(
    name: str, batches: list[list[bytes]], param: pb.TransformationParameter, bound: float
) -> Row:
    check(batches[0], param)
    transform = Transform(param, "TRAIN", DataError, Path)
    random = np.random.default_rng(0)

    def run(side: Callable[..., Prepared]) -> None:
        # A batch's memory is free again when the next one is made, as in training.
        for records in batches:
            side(records, transform, random)

    mine, each = alternate(partial(run, prepare), partial(run, prepare_each))
    images = BATCH * BATCHES
    return Row(
        f"{BATCHES} batches of {BATCH} records of 3×{SIDE}×{SIDE} decoded, cropped to "
        f"{CROP}×{CROP}, mirrored, {name}; each record through protobuf",
        mine,
        each,
        bound,
        note=f"{images / mine.median:,.0f} images/s; one by one {images / each.median:,.0f}",
    )


def check(records: Sequence[bytes], param: pb.TransformationParameter) -> None:
    """Require equal batches where nothing is random: the middle, not mirrored.

    Raises:
        DataError: they differ.
    """
    plain = pb.TransformationParameter()
    plain.CopyFrom(param)
    plain.mirror = False
    transform = Transform(plain, "TEST", DataError, Path)
    random = np.random.default_rng(0)
    ours, theirs = (f(records, transform, random) for f in (prepare, prepare_each))
    if not all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
        raise DataError("the batches of the two sides differ")


def prepare(
    records: Sequence[bytes], transform: Transform, random: np.random.Generator
) -> Prepared:
    """The whole batch at once, as `converters.readers` does."""
    pixels, labels = decode_batch(records)
    return Prepared(transform(pixels, random), labels.astype(np.float32))


def prepare_each(
    records: Sequence[bytes], transform: Transform, random: np.random.Generator
) -> Prepared:
    """Each record parsed by protobuf and transformed alone, only the pixels that are kept."""
    param, crop = transform.param, transform.param.crop_size
    values = np.array(param.mean_value, np.float32).reshape(-1, 1, 1)
    images, labels = [], []
    for record in records:
        datum = pb.Datum.FromString(record)
        top, left = (
            int(random.integers(room + 1)) if transform.train else room // 2
            for room in (datum.height - crop, datum.width - crop)
        )
        place = np.s_[:, top : top + crop, left : left + crop]
        pixels = np.frombuffer(datum.data, np.uint8)
        image = pixels.reshape(datum.channels, datum.height, datum.width)[place].astype(np.float32)
        image -= values if transform.mean is None else transform.mean[place]
        images.append(image[:, :, ::-1] if param.mirror and random.integers(2) else image)
        labels.append(datum.label)
    return Prepared(np.stack(images), np.array(labels, np.float32))
