"""What happens during a training run, as values: the solver makes them, `gmnet_pt.log.training_log`
shows them.

`gmnet_pt.log.caffe_log` turns them into the lines of Caffe's log and back, `gmnet_pt.plot` draws
them. Iterations count from 0, as in Caffe; losses and outputs are Python floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Event:
    """Base of all events."""


class Timed(NamedTuple):
    """An event of a log, and when it was, in seconds of the log's own clock; None: not told."""

    event: Event
    time: float | None


class Output(NamedTuple):
    """One number of an output blob; a blob of n numbers is n Outputs. loss_weight 0: no loss."""

    name: str
    value: float
    loss_weight: float = 0.0


class Speed(NamedTuple):
    """`iterations` were done in `seconds` since the last display; `interval` is `display`."""

    seconds: float
    iterations: int
    interval: int


@dataclass(frozen=True)
class Run(Event):
    """What is about to run, for the record: the resolved solver as prototxt, and on what."""

    solver: str
    commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    precision: str = ""


@dataclass(frozen=True)
class Message(Event):
    """Any other line; `where` is the file:line of its prefix in Caffe's form."""

    text: str
    where: str = "train.py:1"
    severity: str = "I"


@dataclass(frozen=True)
class Finetune(Event):
    """Weights were copied from `path`."""

    path: str


@dataclass(frozen=True)
class Start(Event):
    """The loop begins at `iteration`.

    `data` names what the first data layer reads, of so many `records` (0: it does not tell), of
    which an iteration takes `items`: all passes and processes together.
    """

    net: str
    lr_policy: str
    iteration: int = 0
    max_iter: int = 0
    data: str = ""
    records: int = 0
    items: int = 0


@dataclass(frozen=True)
class Resume(Event):
    """The state was restored from `path`."""

    path: str


@dataclass(frozen=True)
class Advance(Event):
    """`iteration` updates are done; sent each iteration, for bars.

    `loss` reads the smoothed loss of now: a GPU is waited for where it is called, and only there.
    """

    iteration: int
    loss: Callable[[], float] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Display(Event):
    """The smoothed loss, every `display` iterations; after the last no rate and speed."""

    iteration: int
    loss: float
    outputs: tuple[Output, ...] = ()
    rate: float | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class MultiStep(Event):
    """The multistep policy has reached its next step."""

    iteration: int
    step: int


@dataclass(frozen=True)
class Clip(Event):
    """The gradients, of L2 norm `norm`, were scaled down to `limit`."""

    norm: float
    limit: float


@dataclass(frozen=True)
class Evaluation(Event):
    """Test net number `net` begins."""

    iteration: int
    net: int


@dataclass(frozen=True)
class Scores(Event):
    """Means over test_iter; `test_loss` with test_compute_loss only."""

    iteration: int
    net: int
    outputs: tuple[Output, ...]
    test_loss: float | None = None


@dataclass(frozen=True)
class Snapshot(Event):
    """Weights and state were written to these files."""

    model: str
    state: str


@dataclass(frozen=True)
class Stop(Event):
    """The loop has ended, at max_iter or early on request."""

    early: bool = False
