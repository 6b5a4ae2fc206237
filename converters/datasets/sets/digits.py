"""digits: scikit-learn's 1,797 handwritten digits, 8×8, enlarged to 28×28; needs no download."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from converters.datasets.registry import Dataset, Images, Split, Training, register
from converters.datasets.source import Source
from converters.errors import import_extra

SIZE = 28
TRAIN = 1437  # of 1,797
SEED = 0
_BRIGHTEST = 16


def _read(source: Source, split: Split, chosen: str) -> Iterator[Images]:
    datasets = import_extra("sklearn.datasets", "scikit-learn", "demo", "the data set digits")
    digits = datasets.load_digits()
    # RandomState's streams are frozen: the same permutation with every NumPy.
    order = np.random.RandomState(SEED).permutation(len(digits.target))
    rows = order[:TRAIN] if split == "train" else order[TRAIN:]
    yield Images(enlarge(digits.images[rows])[:, np.newaxis], digits.target[rows])


def enlarge(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(N, 8, 8) in 0 … 16 → (N, 28, 28) in 0 … 255, bilinear between pixel centres."""
    weights = _bilinear(images.shape[1], SIZE)
    large = weights @ (images * (255 / _BRIGHTEST)) @ weights.T
    return np.rint(large).astype(np.uint8)


def _bilinear(source: int, target: int) -> NDArray[np.float64]:
    """The (target, source) matrix of one axis; outside the centres the border pixel counts."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    left = np.minimum(place.astype(int), source - 2)
    weights = np.zeros((target, source))
    rows = np.arange(target)
    weights[rows, left] = 1 - (place - left)
    weights[rows, left + 1] = place - left
    return weights


register(
    Dataset(
        name="digits",
        summary="scikit-learn's handwritten digits, enlarged to 28×28 gray, 10 classes",
        read=_read,
        counts={"train": TRAIN, "test": 360},
        size=SIZE,
        order="gray",
        training=Training(epochs=14, test_batch=60),
        bundled=True,
    )
)
