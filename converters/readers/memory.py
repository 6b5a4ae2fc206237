"""MemoryData: arrays that the caller gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.readers.reader import READERS, Reader, Shape


@READERS.add("MemoryData")
class MemoryReader(Reader):
    """Arrays that the caller adds, in turn. Source: Caffe layers/memory_data_layer.cpp."""

    ahead = False

    def open(self) -> None:
        param = self.param.memory_data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        self.shape = (param.channels, param.height, param.width)
        crop = self.transform.param.crop_size
        if crop and (crop, crop) != self.shape[1:]:
            raise self.fail(f"crop_size {crop} must be height and width, {self.shape[1:]}")
        self._restored = False
        self._data: NDArray[np.float32] | None = None
        self._labels = np.zeros(0, np.float32)

    def reopen(self) -> None:
        self._restored = self.epoch > 0  # else nothing had been added

    def shapes(self) -> list[Shape]:
        return [(self.batch_size, *self.shape), (self.batch_size,)]

    def add(self, images: NDArray[Any], labels: NDArray[Any]) -> None:
        """Set the data: images (N, C, H, W), labels (N,); N a multiple of batch_size.

        They are transformed now, and read over and over until the next `add`. The images may be
        larger than the layer says where crop_size is given. After a resumption the same images,
        added again, go on where they were.

        Raises:
            DataError: another shape or number.
        """
        size = "H, W of crop_size or more" if self.transform.param.crop_size else self.shape[1:]
        if (
            images.ndim != 4
            or images.shape[1] != self.shape[0]
            or not (self.transform.param.crop_size or images.shape[2:] == self.shape[1:])
            or np.shape(labels) != images.shape[:1]
        ):
            raise self.fail(
                f"takes images (N, {self.shape[0]}, {size}) and N labels, got shapes "
                f"{images.shape} and {np.shape(labels)}"
            )
        if len(images) % self.batch_size or not len(images):
            raise self.fail(f"{len(images)} images are no multiple of batch_size {self.batch_size}")
        if not self._restored:
            self.position, self.epoch = 0, self.epoch + 1
        elif self.position >= len(images):
            raise self.fail(f"{len(images)} images, but the resumed run was at {self.position}")
        self._restored = False
        self._data = self.transform(images, self.random(1))
        self._labels = np.array(labels, np.float32)

    def read(self) -> list[NDArray[np.float32]]:
        if self._data is None:
            raise self.fail("has no data: call add(images, labels) first")
        batch = slice(self.position, self.position + self.batch_size)
        self.position = batch.stop % len(self._data)
        return [self._data[batch].copy(), self._labels[batch].copy()]
