"""Feeds a net's data layers: batches of `converters.readers` as tensors, some read ahead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from converters.errors import CaffeError, DataError
from converters.layers import Layer
from converters.net.caffe_net import CaffeNet
from converters.prototxt.kind import is_deploy
from converters.readers import ALL, READERS, MemoryReader, Reader, Share, open_reader
from converters.reporting import SILENT, Reporter
from gmnet_pt.solver.resident import DataMemory, Resident, resident

AHEAD = 3
"""Batches that are read before they are asked for."""
CHEAP = 1e-3
"""Seconds: a batch that is read faster is read when it is asked for. On a CPU the step has all
cores, and a thread beside it takes more from it than that."""
DEAR = 5
"""Batches in a row that have to take longer before a thread reads them: the first ones do."""


class _Read(NamedTuple):
    """What gives the batch, and the reader's state behind it."""

    tensors: Callable[[], Sequence[Tensor]]
    state: dict[str, int]


class Source(Protocol):
    """What feeds a data layer: `Batches`, or anything else with batches by top name."""

    def next(self) -> dict[str, Tensor]:
        """The next batch."""

    def close(self) -> None:
        """Release what it reads from."""


AnySource = TypeVar("AnySource", bound=Source)


class Batches:
    """The batches of one data layer, float32, by top name.

    Where reading takes its time, a thread reads the next batches while this one is used; every
    random choice belongs to the batch, so the order of things stays the same. They are on the host,
    or on the device of `memory` where the records fit into it.
    """

    def __init__(self, reader: Reader, memory: DataMemory | None = None) -> None:
        self._reader = reader
        self._memory = memory
        self._pin = memory is not None and memory.device.type == "cuda"
        self._resident: Resident | None = None
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: deque[Future[_Read]] = deque()
        # A device does not wait for what is read meanwhile.
        self._until_ahead = 0 if self._pin else DEAR
        self._state = reader.state()
        self._closed = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each top, by name."""
        self._settle()
        return dict(zip(self._reader.param.top, self._reader.shapes()))

    @property
    def items(self) -> int | None:
        """How many items one round of the data has; None where the layer does not tell."""
        return self._reader.items

    def check(self, reporter: Reporter = SILENT) -> None:
        """Look for the files that the data name; raises DataError, once for all that are absent."""
        self._settle()
        self._reader.check(reporter)

    def next(self) -> dict[str, Tensor]:
        """The next batch.

        Raises:
            DataError: a record, image or file of it is damaged or of another shape. `state` stays
                that of this batch, and the next call reads it again.
        """
        if self._closed:
            raise ValueError("next() of closed batches")
        if self._memory is not None:
            self._resident, self._memory = resident(self._reader, self._memory), None
        try:
            read = self._ahead.popleft().result() if self._ahead else self._read_now()
        except CaffeError:
            if self._reader.ahead:
                with suppress(CaffeError):
                    self.restore(self._state)
            raise
        self._state = read.state
        threaded = self._reader.ahead and self._until_ahead <= 0
        while threaded and len(self._ahead) < AHEAD:
            self._ahead.append(self._thread.submit(self._read))
        return dict(zip(self._reader.param.top, read.tensors()))

    def _read_now(self) -> _Read:
        begun = time.perf_counter()
        read = self._read()
        cheap = time.perf_counter() - begun < CHEAP
        self._until_ahead = DEAR if cheap else self._until_ahead - 1
        return read

    def _read(self) -> _Read:
        """All that a thread can do; what the device is given comes when it is asked for."""
        if self._resident is not None:
            return _Read(partial(self._resident.batch, self._resident.draw()), self._reader.state())
        tensors = [torch.from_numpy(array) for array in self._reader.next().values()]
        if self._pin:
            tensors = [tensor.pin_memory() for tensor in tensors]
        return _Read(lambda: tensors, self._reader.state())

    def _settle(self) -> None:
        """Let the thread finish: the reader is for one at a time."""
        wait(self._ahead)

    def add(self, images: Any, labels: Any) -> None:
        """Give a MemoryData layer its images (N, C, H, W) and labels (N,), arrays or tensors.

        Raises:
            DataError: another shape or number than the layer takes, or another type of layer.
        """
        if not isinstance(self._reader, MemoryReader):
            raise self._reader.fail("takes no arrays; only MemoryData does")
        self._reader.add(np.asarray(images), np.asarray(labels))
        self._state = self._reader.state()

    def state(self) -> dict[str, int]:
        """Everything that decides the next batch that `next` returns."""
        return dict(self._state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            KeyError, ValueError: the state is not one of this layer and its data. The next batch
                stays what it was.
        """
        self._settle()
        self._reader.restore(state)
        self._ahead.clear()
        self._state = self._reader.state()

    def close(self) -> None:
        """End the thread and release the files; nothing can be read any more."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)
        if self._resident is not None:
            self._resident.close()
            self._resident = None
        self._reader.close()


def open_batches(
    layers: Sequence[Layer],
    seed: int | None,
    share: Share = ALL,
    memory: DataMemory | None = None,
) -> list[Batches]:
    """The feeders of data layers, in the net's order, each with random numbers of its own.

    Each has `share` of its layer's data; all shares take one seed. Where the records fit into
    `memory`, they stay there.

    Raises:
        DataError: a layer's files are absent or damaged, or it is an Input, which reads nothing.
    """
    return [
        Batches(open_reader(layer.param, layer.environment, _own_seed(seed, place), share), memory)
        for place, layer in enumerate(layers)
    ]


def open_net_batches(
    net: CaffeNet, seed: int | None = None, share: Share = ALL, memory: DataMemory | None = None
) -> list[Batches]:
    """The feeders of all data layers of `net`; raises as `open_batches`."""
    layers = net.plan.data_layers
    if layers and all(layer.type not in READERS for layer in layers):
        names = ", ".join(name for layer in layers for name in layer.param.top)
        guess = "; this looks like a deploy net" if is_deploy(net.plan.net) else ""
        kinds = ", ".join(sorted({layer.type for layer in layers}))
        raise DataError(
            f"{net.plan.source}: no data layer{guess}: {kinds} reads no files; give its tops "
            f"({names}) as inputs, or a net with data layers"
        )
    return open_batches(layers, seed, share, memory)


@contextmanager
def closing(sources: Sequence[AnySource]) -> Iterator[Sequence[AnySource]]:
    """The sources, closed at the end."""
    try:
        yield sources
    finally:
        for source in sources:
            source.close()


def feeds(net: CaffeNet, seed: int | None = None) -> Generator[dict[str, Tensor], None, None]:
    """Batches of the net's own data layers, by top name on its device, without end.

    `seed` decides crops, mirrors and shuffles. Closing the iterator closes the files.

    Raises:
        DataError: a data layer's files are absent or damaged, or it is an Input, which reads none.
        TypeError: `net` is no net, at the first batch.
    """
    if not isinstance(net, CaffeNet):
        raise TypeError(f"feeds takes a net that load_net made, not {net!r:.60}")
    device = next((blob.device for blob in net.learnable), torch.device("cpu"))
    with closing(open_net_batches(net, seed)) as batches:
        while True:
            yield next_feed(batches, device)


def next_feed(batches: Sequence[Source], device: torch.device) -> dict[str, Tensor]:
    """The next batch of every data layer, by top name, on `device`; raises as `Batches.next`."""
    return {
        name: tensor.to(device, non_blocking=True)
        for one in batches
        for name, tensor in one.next().items()
    }


def _own_seed(seed: int | None, place: int) -> int | None:
    if seed is None:
        return None
    return int(np.random.SeedSequence((seed, place)).generate_state(1)[0])
