"""One iteration of training on tensors alone: what a loop, a CUDA graph or several processes drive.

Caffe's order: clear, iter_size × (forward, backward) added up, then clip, normalize, regularize,
update (`gmnet_pt.solver.updates`). Nothing here reads data, shows, writes, or turns a tensor into a
Python number; processes average their gradients between `accumulate` and `update`. Source: Caffe
solver.cpp Step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from converters.net.caffe_net import CaffeNet
from gmnet_pt.solver.precision import FP32, Precision
from gmnet_pt.solver.updates import Updater

Feed = Mapping[str, Any]
Loss = Callable[[Feed], tuple[Tensor, dict[str, Tensor]]]


class Passed(NamedTuple):
    """A pass, or several: the loss, 0-d and without gradient, and the outputs by blob name."""

    loss: Tensor
    outputs: dict[str, Tensor]


class TrainingStep:
    """The step of `updater`'s rule on `net`, whose learnable blobs it has."""

    def __init__(
        self, net: CaffeNet, updater: Updater, device: torch.device, precision: Precision = FP32
    ) -> None:
        self.net = net
        self.updater = updater
        self.device = device
        self.precision = precision
        self.loss: Loss = net.loss
        """What computes loss and outputs of a feed; another may compute the same."""

    def __call__(self, feeds: Iterable[Feed], rate: Tensor, iteration: Tensor) -> Passed:
        """A whole iteration on iter_size feeds; `accumulate`, then `update`."""
        passed = self.accumulate(feeds)
        self.update(rate, iteration)
        return passed

    @torch.enable_grad()
    def accumulate(
        self, feeds: Iterable[Feed], run: Callable[[Feed], Passed] | None = None
    ) -> Passed:
        """Add up the gradients of iter_size feeds; returns the mean loss and the last outputs.

        `run` stands in for `forward_backward`.
        """
        self.clear()
        losses = []
        for feed in feeds:
            loss, outputs = (run or self.forward_backward)(feed)
            losses.append(loss)
        loss = losses[0] if len(losses) == 1 else sum(losses[1:], losses[0]) / len(losses)
        return Passed(loss, outputs)

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in self.net.parameters():
            parameter.grad = None

    @torch.enable_grad()
    def forward_backward(self, feed: Feed) -> Passed:
        """One pass on `feed` (an array or tensor by input name); its gradients are added up."""
        with self.precision.kernels():
            with self.precision.autocast(self.device):
                loss, outputs = self.loss(feed)
            if loss.requires_grad:
                # Its operations keep the types of forward, whatever the caller is in.
                with FP32.autocast(self.device):
                    loss.backward()  # type: ignore[no-untyped-call]
        # Detached: who keeps an output does not keep the pass's graph.
        return Passed(loss.detach(), {name: top.detach() for name, top in outputs.items()})

    def update(self, rate: Tensor, iteration: Tensor) -> None:
        """Apply the gradients that were added up; both arguments are 0-d, on the net's device."""
        self.updater.step([blob.grad for blob in self.net.learnable], rate, iteration)
