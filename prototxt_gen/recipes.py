"""How long a net is trained for a data set, and which means are subtracted from its images.

The sets themselves, with what the paper says of each (section 3.4), are entries of
`converters.datasets`, which also builds the databases that the nets read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from converters.datasets.registry import DATASETS, Dataset
from converters.errors import CaffeError
from prototxt_gen import GeneratorError
from prototxt_gen.options import Options

DATABASES = "lmdb"


def find_dataset(name: str) -> Dataset:
    """The data set `name`; raises GeneratorError, which names what may have been meant."""
    return DATASETS.find(name, GeneratorError)


@dataclass(frozen=True)
class Schedule:
    """A training counted in iterations: the rate falls to a tenth at each of `steps`."""

    epoch: int
    max_iter: int
    steps: tuple[int, int]
    snapshot: int
    test_iter: int


def schedule(dataset: Dataset, options: Options) -> Schedule:
    """max_iter = epochs · ceil(images / batch), steps at 1/2 and 3/4 of it, rounded down."""
    epoch = -(-dataset.counts["train"] // options.batch)
    max_iter = (options.epochs or dataset.training.epochs) * epoch
    test_iter = -(-dataset.counts["test"] // dataset.training.test_batch)
    return Schedule(epoch, max_iter, (max_iter // 2, 3 * max_iter // 4), 10 * epoch, test_iter)


class Means(NamedTuple):
    """What is subtracted from an image: a value a channel, or the mean image in `file`, or nothing.

    `about` goes into the net as a comment; `notes` are for the user.
    """

    values: tuple[float, ...]
    file: str | None
    about: str
    notes: tuple[str, ...] = ()


def channel_means(dataset: Dataset, options: Options) -> Means:
    """The means that `options.mean` asks for.

    With `auto` a mean file beside the database wins over the constants; a set with neither gets the
    net that reads the mean image from that file, which building the database will write.

    Raises:
        GeneratorError: an unusable file, or a number of values that does not fit the images.
    """
    if options.mean == "none":
        return Means((), None, "no mean is subtracted")
    if options.mean == "auto":
        return _automatic(dataset)
    try:
        values = tuple(float(word) for word in options.mean.split(","))
    except ValueError:
        return _from_file(dataset, options.mean)
    if len(values) not in (1, dataset.channels) or not all(map(math.isfinite, values)):
        raise GeneratorError(
            f"--mean {options.mean}: {dataset.name} has {dataset.channels} channels; "
            "give one finite value, or one each"
        )
    return Means(values, None, "channel means as given")


def _automatic(dataset: Dataset) -> Means:
    path = f"{DATABASES}/{dataset.mean_file}"
    if Path(path).exists():
        return _from_file(dataset, path)
    known = dataset.means
    if known is not None:
        return Means(known.values, None, f"channel means, {dataset.order}, {known.origin}")
    note = (
        f"{dataset.name}: {path} is not there yet, so the net subtracts that mean "
        "image; for channel means build the database first, then generate again"
    )
    return Means((), path, "the mean image that is written with the database", (note,))


def _from_file(dataset: Dataset, path: str) -> Means:
    """The means of a mean image's channels, to three decimals."""
    from converters.records.mean import read_mean

    try:
        image = read_mean(path)
    except CaffeError as error:
        raise GeneratorError(
            f"--mean: {error}; use auto, none, values as 125.3,123,113.9, or a .binaryproto file"
        ) from error
    if len(image) != dataset.channels:
        raise GeneratorError(
            f"{path}: a mean of {len(image)} channels, {dataset.name} has {dataset.channels}"
        )
    means = image.mean(axis=(1, 2), dtype="float64").round(3)
    about = f"channel means of {Path(path).name}"
    return Means(tuple(means.tolist()), None, about, dataset.compare_means(means))
