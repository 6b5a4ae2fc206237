"""A hand-written training loop: torch's SGD on batches that lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.hand_written.classifier import Classifier
from bench.hand_written.rule import Rates, RatesOf, Rule

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Batch(NamedTuple):
    """Images (N, C, H, W) of float32, labels (N,) of int64."""

    images: Tensor
    labels: Tensor


def optimizer(
    module: Classifier, rule: Rule, rates: RatesOf, fused: bool = False
) -> torch.optim.SGD:
    """SGD with Caffe's settings; parameters of equal rates are one group."""
    groups: dict[Rates, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        groups.setdefault(rates(name), []).append(parameter)
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "lr": rule.base_lr * of.rate,
                "weight_decay": rule.weight_decay * of.decay,
            }
            for of, parameters in groups.items()
        ],
        lr=rule.base_lr,
        momentum=rule.momentum,
        nesterov=rule.nesterov,
        fused=fused,
        foreach=not fused,
    )


class Loop:
    """Steps on the given batches in turn, module and images in one memory layout."""

    def __init__(
        self,
        module: Classifier,
        steps: torch.optim.Optimizer,
        batches: Sequence[Batch],
        layout: torch.memory_format,
    ) -> None:
        self.module: Classifier = module.to(memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = steps
        self.batches = [
            Batch(batch.images.contiguous(memory_format=layout), batch.labels) for batch in batches
        ]
        self._next = 0

    def step(self) -> Tensor:
        """Forward, backward, update; the loss, a scalar."""
        batch = self.batches[self._next % len(self.batches)]
        self._next += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.module.loss(batch.images, batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()
