"""What the tests compare with: Caffe's formulas written out plainly in float64 NumPy.

Nothing here imports the code under test. Formulas follow SEMANTICS of Caffe's sources, one
parameter at a time, with no regard for speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class SolverOracle:
    """One solver over `params`: `step` applies Caffe's ApplyUpdate to given gradient sums.

    `history` has a block per parameter; AdaDelta and Adam append a second one.
    """

    type: str
    params: list[Array]
    lr_mults: Sequence[float]
    decay_mults: Sequence[float]
    momentum: float = 0.0
    momentum2: float = 0.999
    rms_decay: float = 0.99
    delta: float = 1e-8
    weight_decay: float = 0.0
    regularization: str = "L2"
    iter_size: int = 1
    clip: float = -1.0
    history: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        blocks = 2 if self.type in ("AdaDelta", "Adam") else 1
        self.history = [np.zeros_like(p) for _ in range(blocks) for p in self.params]

    def step(self, gradients: Sequence[Array], rate: float, iteration: int) -> None:
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
        scale = self.clip / norm if 0 <= self.clip < norm else 1.0
        for i, w in enumerate(self.params):
            g = gradients[i] * scale / self.iter_size
            decay = self.weight_decay * self.decay_mults[i]
            g = g + decay * (w if self.regularization == "L2" else np.sign(w))
            w -= self._update(i, g, rate * self.lr_mults[i], iteration)

    def _update(self, i: int, g: Array, lr: float, iteration: int) -> Array:
        h, mu, delta = self.history, self.momentum, self.delta
        second = i + len(self.params)
        if self.type == "SGD":
            h[i] = mu * h[i] + lr * g
            return h[i]
        if self.type == "Nesterov":
            old, h[i] = h[i], mu * h[i] + lr * g
            return (1 + mu) * h[i] - mu * old
        if self.type == "AdaGrad":
            h[i] = h[i] + g**2
            return lr * g / (np.sqrt(h[i]) + delta)
        if self.type == "RMSProp":
            h[i] = self.rms_decay * h[i] + (1 - self.rms_decay) * g**2
            return lr * g / (np.sqrt(h[i]) + delta)
        if self.type == "AdaDelta":
            h[i] = mu * h[i] + (1 - mu) * g**2
            u = g * np.sqrt((delta + h[second]) / (delta + h[i]))
            h[second] = mu * h[second] + (1 - mu) * u**2
            return lr * u
        assert self.type == "Adam"
        t, beta2 = iteration + 1, self.momentum2
        h[i] = mu * h[i] + (1 - mu) * g
        h[second] = beta2 * h[second] + (1 - beta2) * g**2
        correction = math.sqrt(1 - beta2**t) / (1 - mu**t)
        return lr * correction * h[i] / (np.sqrt(h[second]) + delta)


@dataclass
class RateOracle:
    """Learning rates of successive iterations; holds multistep's current step."""

    policy: str
    base_lr: float
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalues: Sequence[int] = ()
    max_iter: int = 0
    current_step: int = 0

    def __call__(self, iteration: int) -> float:
        if self.policy == "step":
            self.current_step = iteration // self.stepsize
        if self.policy == "multistep":
            reached = self.stepvalues[self.current_step : self.current_step + 1]
            self.current_step += any(iteration >= value for value in reached)
        factors = {
            "fixed": lambda: 1.0,
            "step": lambda: self.gamma**self.current_step,
            "exp": lambda: self.gamma**iteration,
            "inv": lambda: (1 + self.gamma * iteration) ** -self.power,
            "multistep": lambda: self.gamma**self.current_step,
            "poly": lambda: (1 - iteration / self.max_iter) ** self.power,
            "sigmoid": lambda: 1 / (1 + math.exp(-self.gamma * (iteration - self.stepsize))),
        }
        return self.base_lr * factors[self.policy]()
