"""Which memory format a net trains in: torch's own order of axes, or the channels last.

Which is faster depends on the net and the machine (a deep net of small convolutions gains a third
by channels_last, one of large grouped kernels loses a fifth), so both are measured, once, on the
run's first batch. Values and shapes are the same in both; the last bits of sums are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from converters.errors import SolverError
from converters.net.caffe_net import CaffeNet
from converters.net.plan import NetPlan
from converters.net.summary import summarize
from gmnet_pt.solver.choices import AUTO, LAYOUT_NAMES
from gmnet_pt.solver.processes import current

LAYOUTS = dict(zip(LAYOUT_NAMES, (torch.contiguous_format, torch.channels_last), strict=True))

_LEAST = 30_000_000
"""Multiply-adds of a forward pass below which the difference does not show beside the calls."""
_ROUNDS = 3
_SECONDS = 3.0
"""How long to measure on after the first round."""
_CLEAR = 1.15
"""Such a ratio needs no further round."""


class Chosen(NamedTuple):
    """A memory format's name, and why it is that."""

    name: str
    reason: str


def layout(name: str) -> torch.memory_format:
    """The memory format of a name; raises SolverError for another."""
    if name not in LAYOUTS:
        raise SolverError(f"--layout {name}: one of {', '.join([AUTO, *LAYOUTS])}")
    return LAYOUTS[name]


def choose(net: CaffeNet, device: torch.device, run: Callable[[], object]) -> Chosen:
    """The format in which `run`, a pass of `net` forward and backward, takes less time.

    The net stays as it is: no random number is drawn, no statistic or hidden state moved, no
    gradient left. Several processes take what the first one measured.
    """
    found = _without_measuring(net, device) or _measured(net, device, run)
    return current().gather(found)[0]


def _without_measuring(net: CaffeNet, device: torch.device) -> Chosen | None:
    """What is clear from the net, or must not be tried."""
    plan = net.plan
    if not any(_has_image_kernels(plan)):
        return Chosen("contiguous", "no layer slides over images")
    for position in plan.layers:
        if position.layer.has_effects:
            return Chosen("contiguous", f'layer "{position.name}" would notice a trial')
    if not net.is_plain():
        return Chosen("contiguous", "hooks and layers of your own would notice a trial")
    if device.type == "meta":
        return Chosen("contiguous", "nothing is computed")
    if summarize(plan).multiply_adds < _LEAST:
        return Chosen("contiguous", "the net is too small for a difference")
    return None


def _has_image_kernels(plan: NetPlan) -> Iterator[bool]:
    for position in plan.layers:
        yield any(len(blob.shape) == 4 and blob.trained for blob in position.blobs)


def _measured(net: CaffeNet, device: torch.device, run: Callable[[], object]) -> Chosen:
    best = dict.fromkeys(LAYOUTS, float("inf"))
    before = net.layout
    with _left_alone(net, device):
        for name in LAYOUTS:
            net.lay_out(LAYOUTS[name])
            _seconds(net, device, run)  # kernels are made ready
        start = time.monotonic()
        for _ in range(_ROUNDS):
            for name in LAYOUTS:
                net.lay_out(LAYOUTS[name])
                best[name] = min(best[name], _seconds(net, device, run))
            clear = max(best.values()) > _CLEAR * min(best.values())
            if clear or time.monotonic() - start > _SECONDS:
                break
        net.lay_out(before)
    name = min(best, key=best.__getitem__)
    times = ", ".join(f"{other} {1000 * seconds:.3g}" for other, seconds in best.items())
    return Chosen(name, f"milliseconds forward and backward: {times}")


def _seconds(net: CaffeNet, device: torch.device, run: Callable[[], object]) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    passed = time.perf_counter() - start
    for parameter in net.parameters():
        parameter.grad = None
    return passed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _left_alone(net: CaffeNet, device: torch.device) -> Iterator[None]:
    """Gradients, statistics, hidden states and random numbers are behind the block as before it."""
    gradients = [(parameter, parameter.grad) for parameter in net.parameters()]
    kept = [(buffer, buffer.clone()) for buffer in net.buffers()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
