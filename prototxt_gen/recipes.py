"""The data sets that a net can be generated for, and how each is trained (paper, section 3.4).

`converters.datasets` builds the databases under the same names; `channel_means` finds the means
that it left there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from converters.errors import CaffeError
from prototxt_gen import GeneratorError
from prototxt_gen.options import Options

DATABASES = "lmdb"


@dataclass(frozen=True)
class Recipe:
    """One data set: its images, the TRAIN transformation, the length of a training.

    `size` is the height and width that the net sees; `crop` cuts it, at random places, out of
    larger records; `test_of` names the set whose test database is used.
    """

    name: str
    train_images: int
    test_batch: int
    test_iter: int
    epochs: int
    base_lr: float = 0.1
    classes: int = 10
    channels: int = 3
    size: int = 32
    crop: int | None = None
    mirror: bool = False
    test_of: str | None = None

    @property
    def train_source(self) -> str:
        """The training database."""
        return f"{DATABASES}/{self.name}_train"

    @property
    def test_source(self) -> str:
        """The test database; an augmented set has the plain one's."""
        return f"{DATABASES}/{self.test_of or self.name}_test"

    @property
    def mean_file(self) -> str:
        """The mean image that lies beside the database once it is built."""
        return f"{DATABASES}/{self.name}_mean.binaryproto"


def _by_name(*recipes: Recipe) -> Mapping[str, Recipe]:
    table = {recipe.name: recipe for recipe in recipes}
    if len(table) != len(recipes):
        raise ValueError("two data sets have the same name")
    return table


def _augmented(recipe: Recipe) -> Recipe:
    return replace(
        recipe, name=f"{recipe.name}_plus", crop=recipe.size, mirror=True, test_of=recipe.name
    )


_Digits = partial(Recipe, channels=1, size=28)
_CIFAR10 = Recipe("cifar10", 50_000, 100, 100, epochs=300)
_CIFAR100 = replace(_CIFAR10, name="cifar100", classes=100)

RECIPES = _by_name(
    _Digits("mnist", 60_000, 100, 100, epochs=200, base_lr=0.01),
    _CIFAR10,
    _CIFAR100,
    _augmented(_CIFAR10),
    _augmented(_CIFAR100),
    Recipe("svhn", 73_257 + 531_131, 16, 1_627, epochs=200),
    _Digits("digits", 1_437, 60, 6, epochs=14),
    replace(_CIFAR10, name="cifar10_jpeg"),
)


def find_recipe(name: str) -> Recipe:
    """The recipe of the data set `name`; raises GeneratorError that lists all."""
    try:
        return RECIPES[name]
    except KeyError:
        known = ", ".join(RECIPES)
        raise GeneratorError(f"unknown data set {name!r}; known are {known}") from None


@dataclass(frozen=True)
class Schedule:
    """A training counted in iterations: the rate falls to a tenth at each of `steps`."""

    epoch: int
    max_iter: int
    steps: tuple[int, int]
    snapshot: int


def schedule(recipe: Recipe, batch: int) -> Schedule:
    """max_iter = epochs · ceil(images / batch), steps at 1/2 and 3/4 of it, rounded down."""
    epoch = -(-recipe.train_images // batch)
    max_iter = recipe.epochs * epoch
    return Schedule(epoch, max_iter, (max_iter // 2, 3 * max_iter // 4), 10 * epoch)


class Means(NamedTuple):
    """What is subtracted from an image: a value a channel, or the mean image in `file`, or nothing.

    `about` goes into the net as a comment; `notes` are for the user.
    """

    values: tuple[float, ...]
    file: str | None
    about: str
    notes: tuple[str, ...] = ()


def channel_means(recipe: Recipe, options: Options) -> Means:
    """The means that `options.mean` asks for.

    With `auto` a mean file beside the database wins over the constants; a set with neither gets the
    net that reads the mean image from that file, which building the database will write.

    Raises:
        GeneratorError: an unusable file, or a number of values that does not fit the images.
    """
    if options.mean == "none":
        return Means((), None, "no mean is subtracted")
    if options.mean == "auto":
        return _automatic(recipe)
    try:
        values = tuple(float(word) for word in options.mean.split(","))
    except ValueError:
        return _from_file(recipe, options.mean)
    if len(values) not in (1, recipe.channels) or not all(map(math.isfinite, values)):
        raise GeneratorError(
            f"--mean {options.mean}: {recipe.name} has {recipe.channels} channels; "
            "give one finite value, or one each"
        )
    return Means(values, None, "channel means as given")


def _automatic(recipe: Recipe) -> Means:
    if Path(recipe.mean_file).exists():
        return _from_file(recipe, recipe.mean_file)
    from converters.datasets.means import CHANNEL_MEANS

    constants = CHANNEL_MEANS.get(recipe.name)
    if constants is not None:
        return Means(
            constants.values, None, f"channel means, {constants.order}, {constants.source}"
        )
    note = (
        f"{recipe.name}: {recipe.mean_file} is not there yet, so the net subtracts that mean "
        "image; for channel means build the database first, then generate again"
    )
    return Means((), recipe.mean_file, "the mean image that is written with the database", (note,))


def _from_file(recipe: Recipe, path: str) -> Means:
    """The means of a mean image's channels, to three decimals; numpy is imported only for this."""
    from converters.datasets.build import compare_means
    from converters.records.mean import read_mean

    try:
        image = read_mean(path)
    except CaffeError as error:
        raise GeneratorError(
            f"--mean: {error}; use auto, none, values as 125.3,123,113.9, or a .binaryproto file"
        ) from error
    if len(image) != recipe.channels:
        raise GeneratorError(
            f"{path}: a mean of {len(image)} channels, {recipe.name} has {recipe.channels}"
        )
    means = image.mean(axis=(1, 2), dtype="float64").round(3)
    about = f"channel means of {Path(path).name}"
    return Means(tuple(means.tolist()), None, about, compare_means(recipe.name, means))
