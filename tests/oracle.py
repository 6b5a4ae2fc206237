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


# Layers, as loops over every output value ------------------------------------------------------

Shape = tuple[int, ...]


@dataclass
class Windows:
    """A kernel's geometry, a number per spatial axis."""

    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    def place(self, at: Shape, inner: Shape) -> Shape:
        """Where the kernel's place `inner` of window `at` lies in the image."""
        return tuple(
            a * s - p + k * d
            for a, k, s, p, d in zip(at, inner, self.stride, self.pad, self.dilation)
        )

    def windows(self, size: Shape) -> Shape:
        """How many windows a convolution makes on each axis: C++ rounds towards 0."""
        return tuple(
            int((n + 2 * p - (d * (k - 1) + 1)) / s) + 1
            for n, k, s, p, d in zip(size, self.kernel, self.stride, self.pad, self.dilation)
        )


def _inside(place: Shape, size: Shape) -> bool:
    return all(0 <= p < n for p, n in zip(place, size))


def im2col(x: Array, w: Windows) -> Array:
    """(N, C, …) → (N, C·kernel, windows…), 0 outside the image."""
    size = x.shape[2:]
    places = list(np.ndindex(*w.kernel))
    y = np.zeros((x.shape[0], x.shape[1] * len(places), *w.windows(size)))
    for number, inner in enumerate(places):
        for at in np.ndindex(*w.windows(size)):
            place = w.place(at, inner)
            if _inside(place, size):
                y[(slice(None), slice(number, None, len(places)), *at)] = x[(..., *place)]
    return y


def convolve(x: Array, weight: Array, bias: Array, w: Windows, group: int) -> Array:
    """Σ over the channels of a group and the kernel; weight (out, in / group, k…)."""
    outputs, inputs = weight.shape[0] // group, weight.shape[1]
    y = np.zeros((x.shape[0], weight.shape[0], *w.windows(x.shape[2:])))
    y += bias.reshape(-1, *(1,) * len(w.kernel))
    for out in range(weight.shape[0]):
        first = out // outputs * inputs
        for at in np.ndindex(*y.shape[2:]):
            for inner in np.ndindex(*w.kernel):
                place = w.place(at, inner)
                if _inside(place, x.shape[2:]):
                    values = x[(slice(None), slice(first, first + inputs), *place)]
                    y[(slice(None), out, *at)] += values @ weight[(out, slice(None), *inner)]
    return y


def deconvolve(x: Array, weight: Array, bias: Array, w: Windows, group: int) -> Array:
    """Every input value spread over its window; weight (in, out / group, k…)."""
    inputs, outputs = weight.shape[0] // group, weight.shape[1]
    size = tuple(
        s * (n - 1) + d * (k - 1) + 1 - 2 * p
        for n, k, s, p, d in zip(x.shape[2:], w.kernel, w.stride, w.pad, w.dilation)
    )
    y = np.zeros((x.shape[0], outputs * group, *size)) + bias.reshape(-1, *(1,) * len(size))
    for channel in range(x.shape[1]):
        first = channel // inputs * outputs
        for at in np.ndindex(*x.shape[2:]):
            for inner in np.ndindex(*w.kernel):
                place = w.place(at, inner)
                if _inside(place, size):
                    values = x[(slice(None), channel, *at)]
                    spread = np.outer(values, weight[(channel, slice(None), *inner)])
                    y[(slice(None), slice(first, first + outputs), *place)] += spread
    return y


def _pooled(size: Shape, w: Windows) -> list[int]:
    """A pooling's windows on each axis: rounded up, less a last one that starts beyond the pad."""
    count = [
        math.ceil((n + 2 * p - k) / s) + 1 for n, k, s, p in zip(size, w.kernel, w.stride, w.pad)
    ]
    if not any(w.pad):
        return count
    return [c - ((c - 1) * s >= n + p) for c, n, s, p in zip(count, size, w.stride, w.pad)]


def pool(x: Array, w: Windows, average: bool) -> Array:
    """MAX, or AVE whose divisor counts padding but not what reaches beyond it."""
    size, count = x.shape[2:], _pooled(x.shape[2:], w)
    y = np.zeros((*x.shape[:2], *count))
    for at in np.ndindex(*count):
        starts = [a * s - p for a, s, p in zip(at, w.stride, w.pad)]
        ends = [min(b + k, n + p) for b, k, n, p in zip(starts, w.kernel, size, w.pad)]
        window = x[(..., *(slice(max(b, 0), min(e, n)) for b, e, n in zip(starts, ends, size)))]
        divisor = math.prod(e - b for b, e in zip(starts, ends))
        y[(..., *at)] = window.sum((2, 3)) / divisor if average else window.max((2, 3))
    return y


def max_pool(x: Array, w: Windows) -> tuple[Array, Array]:
    """Top and mask as pooling_layer.cpp presets and fills them: -FLT_MAX and -1, then strict >.

    So NaN, -inf and -FLT_MAX never win, and nothing does in a window outside the image.
    """
    shape = (*x.shape[:2], *_pooled(x.shape[2:], w))
    y, mask = np.full(shape, -float(np.finfo(np.float32).max)), np.full(shape, -1.0)
    for at in np.ndindex(*shape):
        for inner in np.ndindex(*w.kernel):
            row, column = w.place(at[2:], inner)
            value = x[(*at[:2], row, column)] if _inside((row, column), x.shape[2:]) else np.nan
            if value > y[at]:
                y[at], mask[at] = value, row * x.shape[3] + column
    return y, mask


def softmax(x: Array, axis: int) -> Array:
    """exp(x) / Σ exp(x) along an axis."""
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(x: Array, cont: Array, h: Array, c: Array, blobs: Sequence[Array]) -> list[Array]:
    """Top (T, N, D) and the last h and c (1, N, D); gates in the order i, f, o, g."""
    weight, bias, recurrent = blobs
    tops = []
    h, c = h[0], c[0]
    for x_t, cont_t in zip(x, cont):
        gates = x_t @ weight.T + bias + (cont_t[:, None] * h) @ recurrent.T
        i, f, o, g = np.split(gates, 4, axis=1)
        c = cont_t[:, None] * _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        tops.append(h)
    return [np.stack(tops), h[None], c[None]]


def rnn(x: Array, cont: Array, h: Array, blobs: Sequence[Array]) -> list[Array]:
    """Top (T, N, D) and the last h (1, N, D)."""
    weight, bias, recurrent, output, output_bias = blobs
    tops = []
    h = h[0]
    for x_t, cont_t in zip(x, cont):
        h = np.tanh((cont_t[:, None] * h) @ recurrent.T + x_t @ weight.T + bias)
        tops.append(np.tanh(h @ output.T + output_bias))
    return [np.stack(tops), h[None]]
