"""What a data set is, and the list of all sets: every module here that registers one.

A new set is one new file: it fills in a `Dataset` and calls `register`. Its `read` yields `Images`;
databases, keys, means and progress are `build`'s work.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from numpy.typing import NDArray

import converters.datasets
from converters.datasets.source import Archive, Source
from converters.errors import DataError
from converters.records.images import Pixels

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


@dataclass(frozen=True)
class Dataset:
    """One data set.

    `read(source, split, chosen)` yields its images in record order; `counts` are the official
    numbers of records; `order` is that of the channels; `pad` pixels of the rounded channel means
    surround each TRAIN image; `test_of` names the set whose test database serves this one.
    """

    name: str
    summary: str
    read: Callable[[Source, Split, str], Iterator[Images]]
    counts: Mapping[Split, int]
    archives: tuple[Archive, ...] = ()
    key: str = "%08d"
    order: str = "RGB"
    option: Option | None = None
    pad: int = 0
    test_of: str | None = None


_datasets: dict[str, Dataset] = {}


def register(dataset: Dataset) -> Dataset:
    """Add a set to the list; raises ValueError if the name is taken."""
    if dataset.name in _datasets:
        raise ValueError(f"data set {dataset.name!r} is registered twice")
    _datasets[dataset.name] = dataset
    return dataset


@cache
def datasets() -> Mapping[str, Dataset]:
    """All sets by name."""
    for module in pkgutil.iter_modules(converters.datasets.__path__):
        importlib.import_module(f"{converters.datasets.__name__}.{module.name}")
    return MappingProxyType(dict(sorted(_datasets.items())))


def find_dataset(name: str) -> Dataset:
    """The set called `name`; raises DataError that lists all."""
    try:
        return datasets()[name]
    except KeyError:
        known = ", ".join(datasets())
        raise DataError(f"unknown data set {name!r}; known are {known}") from None
