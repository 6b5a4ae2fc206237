"""Feeds a net's data layers: batches of `converters.readers` as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from converters.proto import caffe_pb2 as pb
from converters.readers import MemoryReader, Reader, open_reader


class Batches:
    """The batches of one data layer, float32 on the host, by top name."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def next(self) -> dict[str, Tensor]:
        """The next batch."""
        return {name: torch.from_numpy(array) for name, array in self._reader.next().items()}

    def add(self, images: Any, labels: Any) -> None:
        """Give a MemoryData layer its images (N, C, H, W) and labels (N,)."""
        if not isinstance(self._reader, MemoryReader):
            raise self._reader.fail("takes no arrays; only MemoryData does")
        self._reader.add(images, labels)

    def state(self) -> dict[str, int]:
        """Everything that decides the next batch."""
        return self._reader.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._reader.restore(state)


def open_batches(
    layers: Sequence[pb.LayerParameter], phase: str, source: str, folder: str, seed: int | None
) -> list[Batches]:
    """The feeders of data layers, in the net's order.

    Raises:
        DataError: a layer's files are absent or damaged, or it is an Input, which reads nothing.
    """
    return [Batches(open_reader(layer, phase, source, folder, seed)) for layer in layers]
