"""What a reader is, and the registry of readers by layer type.

A reader has the shapes of its layer's tops and yields batches as arrays. Its whole position is a
few integers: every random choice is drawn from (seed, epoch or batch number), so a restored reader
goes on exactly.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.environment import Environment
from converters.errors import CaffeError, DataError
from converters.proto import caffe_pb2 as pb
from converters.readers.transform import Transform
from converters.registry import Registry
from converters.reporting import SILENT, Reporter

Arrays = dict[str, NDArray[np.float32]]
Shape = tuple[int, ...]
Given = TypeVar("Given")


class Share(NamedTuple):
    """Which part of the data a reader has: every `of`-th record, from the one at `place` on.

    With `whole` batches are dealt instead: every `of`-th batch of a reader that has all of them.
    Source: Caffe data_layer.cpp Skip.
    """

    place: int = 0
    of: int = 1
    whole: bool = False

    @property
    def step(self) -> int:
        """From one record of a batch to the next."""
        return 1 if self.whole else self.of

    def first(self, batch_size: int) -> int:
        """The record that the first batch begins with."""
        return self.place * (batch_size if self.whole else 1)

    def gap(self, batch_size: int) -> int:
        """The records passed over behind a batch whose every record was followed by a step."""
        return batch_size * (self.of - self.step)


ALL = Share()


class Reader:
    """The source of one data layer's tops."""

    ahead = True
    """Whether a batch may be read before it is asked for."""
    batch_size: int

    def __init__(
        self,
        param: pb.LayerParameter,
        environment: Environment,
        seed: int | None,
        share: Share = ALL,
    ) -> None:
        self.param = param
        self.source = environment.source
        self.find = environment.find
        self.share = share
        self.seed = secrets.randbits(32) if seed is None else seed
        self.position = 0
        self.epoch = 0
        self.batch = 0
        self.transform = Transform(param.transform_param, environment.phase, self.fail, self.find)
        self.open()

    def open(self) -> None:
        """Open the files and set `batch_size`."""
        raise NotImplementedError

    def shapes(self) -> list[Shape]:
        """The shapes of the layer's tops."""
        raise NotImplementedError

    def read(self) -> list[NDArray[np.float32]]:
        """The next batch, an array a top."""
        raise NotImplementedError

    @property
    def items(self) -> int | None:
        """How many items one round of the data has; None where there is no telling."""
        return None

    def check(self, reporter: Reporter = SILENT) -> None:
        """Look for the files that the data name, before hours of work need one that is absent.

        Raises:
            DataError: some are; one error for all of them.
        """

    def close(self) -> None:
        """Release the files; nothing can be read any more."""

    def next(self) -> Arrays:
        """The next batch by top name; raises as `move`."""
        return dict(zip(self.param.top, self.move(self.read)))

    def move(self, read: Callable[[], Given]) -> Given:
        """What `read` gives, which goes on to the next batch.

        Raises:
            CaffeError: a damaged record, file or image. Nothing has moved then: the same batch is
                next, and fails again unless what it reads was mended.
        """
        before = self.state()
        try:
            given = read()
        except BaseException:  # an interruption too
            self.restore(before)
            raise
        self.batch += 1
        return given

    def state(self) -> dict[str, int]:
        """Everything that decides the next batch: attributes of the reader by name."""
        return {
            "position": self.position,
            "epoch": self.epoch,
            "batch": self.batch,
            "seed": self.seed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            KeyError, ValueError: a part is missing, or lies behind the data's end. Nothing has
                moved then.
        """
        before = self.state()
        wanted = {name: int(state[name]) for name in before}
        try:
            self._go_to(wanted)
        except BaseException:
            self._go_to(before)
            raise

    def _go_to(self, state: Mapping[str, int]) -> None:
        vars(self).update(state)
        self.reopen()

    def reopen(self) -> None:
        """Called after the position was set from outside."""

    def fail(self, message: str) -> CaffeError:
        """An error about this layer."""
        return DataError(f'{self.source}: layer "{self.param.name}" ({self.param.type}): {message}')

    def random(self, purpose: int) -> np.random.Generator:
        """The generator of this batch (purpose 0) or this epoch (1)."""
        # Readers of other shares draw for batches of their own, and order an epoch alike.
        number = self.epoch if purpose else self.batch * self.share.of + self.share.place
        return np.random.default_rng((self.seed, purpose, number))

    def chance(self) -> np.random.Generator | None:
        """The generator of this batch's transformation; None where it draws nothing."""
        return self.random(0) if self.transform.draws else None

    def positive(self, name: str, value: int) -> int:
        """`value` if positive and one of Caffe's integers; otherwise the layer's error."""
        if value >= 1 << 31:
            raise self.fail(f"{name} {value} needs more than 31 bits")
        if value < 1:
            raise self.fail(f"{name} {value} must be positive")
        return value


READERS: Registry[type[Reader]] = Registry("reader", "converters.readers")


def open_reader(
    param: pb.LayerParameter,
    environment: Environment,
    seed: int | None = None,
    share: Share = ALL,
) -> Reader:
    """The reader of a data layer that stands in `environment`.

    Readers of several shares are given one seed.

    Raises:
        DataError: the layer's files are absent or damaged, or its fields do not fit them.
    """
    if param.type not in READERS:
        raise DataError(
            f'{environment.source}: layer "{param.name}": {param.type} reads no files; '
            f"give its tops ({', '.join(param.top)}) as inputs"
        )
    return READERS[param.type](param, environment, seed, share)
