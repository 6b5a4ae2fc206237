"""Channel means of the training sets, in the order of their records' channels.

The prototxt generator takes them where no mean file lies beside the database; `build` compares what
it computes with them. SVHN's and digits' are not published: they exist once their LMDB is built.
"""

from __future__ import annotations

from typing import NamedTuple


class ChannelMeans(NamedTuple):
    """Means in 0 … 255, one a channel; `digits` is how many decimals of `values` are sure."""

    values: tuple[float, ...]
    order: str
    source: str
    digits: int


_CIFAR10 = ChannelMeans((125.3, 123.0, 113.9), "RGB", "published", 1)
_CIFAR100 = ChannelMeans((129.3, 124.1, 112.4), "RGB", "published", 1)

CHANNEL_MEANS = {
    "mnist": ChannelMeans((33.318,), "gray", "measured", 3),
    "cifar10": _CIFAR10,
    "cifar10_plus": _CIFAR10,
    "cifar100": _CIFAR100,
    "cifar100_plus": _CIFAR100,
    "cifar10_jpeg": ChannelMeans((113.86, 122.93, 125.27), "BGR", "measured", 2),
}
