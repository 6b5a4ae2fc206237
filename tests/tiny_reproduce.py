"""`gmnet_pt.reproduce` in seconds: a data set of 128 images, and budgets of a few epochs of it.

Run as a program it is that command, for tests that kill it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from converters.datasets.registry import DATASETS, Dataset, Images, Split, Training
from converters.datasets.source import Source
from gmnet_pt.reproduce.__main__ import main
from gmnet_pt.reproduce.budgets import BUDGETS, Budget

COUNTS = {"train": 128, "test": 60}
ITERATIONS = 2  # an epoch


def _read(source: Source, split: Split, chosen: str) -> Iterator[Images]:
    """Each class is a bright square at a place of its own, in noise."""
    random = np.random.default_rng(split == "train")
    labels = np.arange(COUNTS[split]) % 10
    pixels = random.integers(0, 60, (COUNTS[split], 1, 28, 28), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        row, column = 7 * (label // 4), 7 * (label % 4)
        image[0, row : row + 7, column : column + 7] += 180
    yield Images(pixels, labels)


TINY = Dataset(
    name="tiny",
    summary="bright squares",
    read=_read,
    counts=COUNTS,
    size=28,
    order="gray",
    training=Training(epochs=3, test_batch=60),
    bundled=True,
)
PAPERS = dict.fromkeys(("mnist", "cifar10", "cifar100", "cifar10_plus", "cifar100_plus"), "tiny")


def tiny(name: str, epochs: int, kept: bool) -> Budget:
    return Budget(name, "for tests", 0.125, {"tiny": epochs}, 0.9, PAPERS, kept)


OURS = (tiny("tiny", 3, False), tiny("kept", 1, True), tiny("long", 10, False))


def install(patch: pytest.MonkeyPatch) -> None:
    """Make the set and the budgets known to this process, until `patch` is undone."""
    assert "digits" in DATASETS  # found before one is added
    patch.setitem(DATASETS._entries, "tiny", TINY)
    for budget in OURS:
        patch.setitem(BUDGETS, budget.name, budget)


if __name__ == "__main__":
    install(pytest.MonkeyPatch())
    sys.exit(main())
