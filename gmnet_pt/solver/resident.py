"""Data layers whose records live on the net's device: crop, mirror, mean and scale run there.

Records are kept as they come, so that no batch waits for others: the first round is read from the
database, later ones from the device. A batch is the same either way, random choices included
(`converters.readers.transform`, whose arithmetic this is on tensors), and so is the reader's state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converters.memory import free_memory
from converters.readers.database import DatabaseReader, Drawn
from converters.readers.transform import Places, Transform

_SHARE = 0.5
"""Of the device's free memory that records may take where nobody says how much."""


class DataMemory:
    """The bytes that records may take on a device, shared by the data layers of a run.

    `size` None: half of what is free on a GPU, nothing on a CPU, where reading is as fast.
    """

    def __init__(self, size: int | None, device: torch.device) -> None:
        self.device = device
        self._given = size
        self._taken = 0

    def take(self, size: int) -> bool:
        """Whether `size` more bytes may be taken; they are counted as taken then."""
        if self._taken + size > self._limit() or size > (_free(self.device) or size):
            return False
        self._taken += size
        return True

    def allows_any(self) -> bool:
        """Whether any record may be kept at all."""
        return self._limit() > 0

    def give_back(self, size: int) -> None:
        """Count `size` bytes as free again."""
        self._taken -= size

    def _limit(self) -> int:
        if self._given is None:
            free = _free(self.device) if self.device.type == "cuda" else 0
            self._given = int(_SHARE * (free or 0))
        return self._given


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory() if device.type == "cpu" else None


class Resident:
    """The records of a Data layer that were read so far, on a device; made by `resident`."""

    def __init__(
        self, reader: DatabaseReader, shape: tuple[int, ...], memory: DataMemory, size: int
    ) -> None:
        self.size = size
        self._memory = memory
        self._reader = reader
        self._device = memory.device
        self.shape = shape
        count = len(reader.records)
        self._pixels = torch.empty((count, *shape), dtype=torch.uint8, device=self._device)
        self._labels = torch.empty(count, device=self._device)
        self._here = np.zeros(count, np.bool_)
        self._transform = TensorTransform(reader.transform, self._device)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.give_back(self.size)

    def draw(self) -> Drawn:
        """The reader's next batch, read where it is not here yet."""
        have = bool(self._here[self._reader.places()].all())
        return self._reader.move(lambda: self._reader.draw(self.shape if have else None))

    def batch(self, drawn: Drawn) -> list[Tensor]:
        """Data and labels of a batch on the device; what was read is kept."""
        rows = self._rows(drawn.at)
        if drawn.stored is None:
            # The labels are copied: whoever gets them may change them.
            return [self._transform(self._pixels[rows], drawn.windows), self._labels[rows].clone()]
        images, labels = drawn.stored
        own = self._moved(labels.astype(np.float32))
        kept = isinstance(images, np.ndarray) and images.dtype == np.uint8
        if not (kept and np.shape(images)[1:] == self.shape):
            return [self._moved(self._reader.transform.apply(images, drawn.windows)), own]
        pixels = self._moved(np.asarray(images))
        self._pixels[rows], self._labels[rows] = pixels, own
        self._here[drawn.at] = True
        return [self._transform(pixels, drawn.windows), own]

    def _rows(self, at: NDArray[np.int64]) -> Any:
        """An index of those records: a slice, unless the batch wraps around."""
        step = int(at[1] - at[0]) if len(at) > 1 else 1
        if step > 0 and (np.diff(at) == step).all():
            return slice(int(at[0]), int(at[-1]) + 1, step)
        return self._moved(at)

    def _moved(self, array: NDArray[Any]) -> Tensor:
        return moved(array, self._device)


def moved(array: NDArray[Any], device: torch.device) -> Tensor:
    """A tensor of an array on a device, which nothing waits for."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class TensorTransform:
    """What a `Transform` does to whole batches of one shape, on tensors: the same numbers."""

    def __init__(self, transform: Transform, device: torch.device) -> None:
        param = transform.param
        self._device = device
        self._moves = bool(transform.crop or param.mirror)
        self._scale = float(np.float32(param.scale))
        self._mean_image = None if transform.mean is None else moved(transform.mean, device)
        values = np.array(param.mean_value, np.float32).reshape(-1, 1, 1)
        self._mean_values = moved(values, device) if values.size else None

    def __call__(self, pixels: Tensor, windows: Places) -> Tensor:
        """Transform pixels (N, C, H, W) uint8; the result (N, C, height, width) float32."""
        means = self._mean_values if self._mean_image is None else self._mean_image
        if self._moves:
            image, channel, y, x = self._indices(pixels, windows)
            pixels = pixels[image, channel, y, x]
            if self._mean_image is not None:
                means = self._mean_image[channel, y, x]
        result = pixels.to(torch.float32)
        if means is not None:
            result -= means
        if self._scale != 1:
            result *= self._scale
        return result

    def _indices(self, pixels: Tensor, windows: Places) -> tuple[Tensor, ...]:
        """Which pixel stands at each place of the result: four indices that broadcast to it."""
        top, left, flipped, height, width = windows
        corners = moved(np.stack([top, left, flipped]), self._device)
        top_, left_, mirrored = corners[:, :, None]
        down = torch.arange(height, device=self._device)
        across = torch.arange(width, device=self._device)
        y = top_ + down
        x = left_ + torch.where(mirrored.bool(), width - 1 - across, across)
        image = torch.arange(len(pixels), device=self._device)[:, None, None, None]
        channel = torch.arange(pixels.shape[1], device=self._device)[:, None, None]
        return image, channel, y[:, None, :, None], x[:, None, None, :]


def resident(reader: Any, memory: DataMemory) -> Resident | None:
    """The layer's records on the device; None if it is no Data layer, or they do not fit.

    Raises:
        DataError: the first record is damaged.
    """
    if not isinstance(reader, DatabaseReader) or not memory.allows_any():
        return None
    image = reader.first_image()
    size = len(reader.records) * (image.size + 4)
    if image.dtype != np.uint8 or not memory.take(size):
        return None
    reader.transform.check(image.shape)
    return Resident(reader, image.shape, memory, size)
