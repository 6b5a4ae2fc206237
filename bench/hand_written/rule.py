"""How a net is trained: Caffe's settings as plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Rates(NamedTuple):
    """What a parameter's rate and decay are multiplied by."""

    rate: float
    decay: float


RatesOf = Callable[[str], Rates]
"""Those of a parameter of the hand-written module, by its name."""


def equal_rates(name: str) -> Rates:
    """All parameters move alike."""
    return Rates(1, 1)


def bias_twice(name: str) -> Rates:
    """Biases twice as fast, never decayed."""
    return Rates(2, 0) if name.endswith("bias") else Rates(1, 1)


def lenet_rates(name: str) -> Rates:
    """Biases twice as fast."""
    return Rates(2, 1) if name.endswith("bias") else Rates(1, 1)


def cifar10_full_rates(name: str) -> Rates:
    """Two biases twice as fast; the classifier's weights are decayed 250 times as strongly."""
    special = {
        "layers.0.bias": Rates(2, 1),
        "layers.4.bias": Rates(2, 1),
        "layers.12.weight": Rates(1, 250),
        "layers.12.bias": Rates(2, 0),
    }
    return special.get(name, Rates(1, 1))


class Rule(NamedTuple):
    """SGD with momentum at a fixed rate."""

    base_lr: float
    weight_decay: float
    nesterov: bool = False
    momentum: float = 0.9
