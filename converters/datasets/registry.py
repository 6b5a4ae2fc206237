"""What a data set is, and the list of all sets: those that a module of `sets` registers.

A new set is one new file there: it fills in a `Dataset` and calls `register`. Its `read` yields
`Images`; databases, keys, means and progress are `build`'s work, nets are `prototxt_gen`'s. Both
read the same entry, so this module never imports torch, LMDB or OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converters.datasets.archive import Archive
from converters.datasets.source import Source
from converters.records.images import Pixels
from converters.registry import Registry

Split: TypeAlias = Literal["train", "test"]
BLOCK = 1000  # images that a reader yields at once, at most


class Images(NamedTuple):
    """Consecutive images of one shape: `pixels` (N, C, H, W) uint8, `labels` (N,) from 0."""

    pixels: Pixels
    labels: NDArray[Any]


class Option(NamedTuple):
    """What a set lets the user choose: `--label fine|coarse`, or a switch without choices.

    The reader gets the chosen word; for a switch "yes" or "". The first choice is the default.
    """

    flag: str
    help: str
    choices: tuple[str, ...] = ()


class ChannelMeans(NamedTuple):
    """Means in 0 … 255 of the training images, one a channel in the records' order.

    `digits` is how many decimals of `values` are sure, `origin` who says so.
    """

    values: tuple[float, ...]
    origin: str
    digits: int


class Training(NamedTuple):
    """How nets are trained for a set: by the paper's section 3.4 where it speaks of the set.

    `test_batch` divides the number of test images, so that a test sees each of them once.
    """

    epochs: int
    base_lr: float = 0.1
    test_batch: int = 100


ORDINARY = Training(epochs=200)


@dataclass(frozen=True)
class Dataset:
    """One data set: all that the databases, the nets and the training for it need to know.

    `read(source, split, chosen)` yields its images in record order; `counts` are the official
    numbers of records; `size` is the height and width that a net sees; `order` is that of the
    channels: RGB, BGR or gray. An augmented set has `pad` pixels of the rounded channel means
    around each TRAIN image, from which nets crop `size` and mirror; its test database is that of
    the set `test_of`. `means` are absent where nobody published them: then they exist once the
    database is built. A `bundled` set comes with a package: it needs no files and no download.
    """

    name: str
    summary: str
    read: Callable[[Source, Split, str], Iterator[Images]]
    counts: Mapping[Split, int]
    archives: tuple[Archive, ...] = ()
    key: str = "%08d"
    classes: int = 10
    size: int = 32
    order: str = "RGB"
    option: Option | None = None
    pad: int = 0
    test_of: str | None = None
    means: ChannelMeans | None = None
    training: Training = ORDINARY
    bundled: bool = False

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return 1 if self.order == "gray" else len(self.order)

    @property
    def train_database(self) -> str:
        """The folder of the training records."""
        return f"{self.name}_train"

    @property
    def test_database(self) -> str:
        """The folder of the test records; an augmented set has the plain one's."""
        return f"{self.test_of or self.name}_test"

    @property
    def mean_file(self) -> str:
        """The mean image, which lies beside the databases."""
        return f"{self.name}_mean.binaryproto"

    def compare_means(self, means: NDArray[np.float64]) -> tuple[str, ...]:
        """A note if computed `means` differ from the known ones in a sure decimal."""
        if self.means is None:
            return ()
        known, origin, digits = self.means
        if len(means) == len(known) and (np.abs(means - known) <= 0.5 * 10.0**-digits + 1e-6).all():
            return ()
        shown = ", ".join(f"{mean:.{digits + 1}f}" for mean in means)
        return (
            f"{self.name}: the channel means {shown} differ from the {origin} ones, "
            f"{', '.join(map(str, known))}; nets generated from now on use the computed ones",
        )


DATASETS: Registry[Dataset] = Registry("data set", "converters.datasets.sets")


def register(dataset: Dataset) -> Dataset:
    """Add a set under its name; raises ValueError if the name is taken."""
    return DATASETS.add(dataset.name)(dataset)


def dataset_of(database: Path) -> Dataset | None:
    """The set whose training or test records a folder of this name holds; None if none is known."""
    return DATASETS.get(database.resolve().name.removesuffix("_train").removesuffix("_test"))
