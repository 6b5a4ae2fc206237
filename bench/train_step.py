"""The training step of the converted `bua` against a hand-written `nn.Module` of the same net.

Both sides hold the same weights and get the same batch of 64; they must agree on the loss and on
every gradient before anything is timed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rows import Row, alternate, seconds
from converters import load_net
from converters.errors import NetError

BATCH = 64
BOUND = 1.05
GENERATED = ("bua", "--dataset", "cifar10", "--dropout", "0")


class ConvUnit(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU; keeps height and width."""

    def __init__(self, inputs: int, kernel: int, outputs: int, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Bottleneck(nn.Sequential):
    """A 1×1 to `middle` channels, then a 3×3 in `groups` groups to `outputs`."""

    def __init__(self, inputs: int, middle: int, outputs: int, groups: int) -> None:
        super().__init__(ConvUnit(inputs, 1, middle), ConvUnit(middle, 3, outputs, groups))


class DenseUnit(nn.Module):
    """BU_A of the paper's Figure 1: the sum of three convolution units, each fed by all before."""

    def __init__(self, first: nn.Module, second: nn.Module, third: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.third = first, second, third

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', H, W)."""
        x1 = self.first(x)
        x2 = self.second(x1)
        x12 = x1 + x2
        sum_: Tensor = x12 + self.third(x12)
        return sum_


def _bottlenecks(inputs: int, middle: int, outputs: int, groups: int) -> DenseUnit:
    return DenseUnit(
        Bottleneck(inputs, middle, outputs, groups),
        Bottleneck(outputs, middle, outputs, groups),
        Bottleneck(outputs, middle, outputs, groups),
    )


class GMNet(nn.Module):
    """GM-Net `bua` for CIFAR-10 (Table 1, reading `text`), as one would write it in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.bu_i = nn.Sequential(
            ConvUnit(3, 3, 64),
            _bottlenecks(64, 64, 128, 8),
            ConvUnit(128, 3, 128, 4),
            nn.AvgPool2d(2),
        )
        self.bu_f = _bottlenecks(128, 128, 256, 1)
        self.bu_s = nn.Sequential(
            ConvUnit(128, 1, 256), DenseUnit(*(ConvUnit(256, 3, 256, 256) for _ in range(3)))
        )
        self.merge = nn.Sequential(ConvUnit(256, 3, 256, 4), nn.AvgPool2d(2))
        self.bu_e = nn.Sequential(_bottlenecks(256, 192, 384, 8), ConvUnit(384, 1, 384, 4))
        self.fc = nn.Linear(384, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → class scores (N, 10)."""
        x = self.bu_i(x)
        x = self.bu_e(self.merge(self.bu_f(x) + self.bu_s(x)))
        scores: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


class Side(NamedTuple):
    """One contestant: its module, its trainable tensors in the net's order, its loss."""

    module: nn.Module
    weights: list[Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]

    def step(self, data: Tensor, label: Tensor) -> Tensor:
        """Forward and backward from cleared gradients; the loss, a scalar."""
        self.module.zero_grad(set_to_none=True)
        loss = self.loss(data, label)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def converted() -> Side:
    """The net that `prototxt_gen` writes and `converters` loads."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "prototxt_gen", *GENERATED, "--out", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        path = next(Path(folder).rglob("net.prototxt"))
        shapes = {"data": (BATCH, 3, 32, 32), "label": (BATCH,)}
        net: Any = load_net(path, phase="TRAIN", input_shapes=shapes)
    # BatchNorm's three blobs are statistics, all other blobs are trained.
    blobs = [list(tensors) for tensors in net.params.values()]
    weights = [tensor for tensors in blobs if len(tensors) != 3 for tensor in tensors]
    return Side(net, weights, lambda data, label: net.loss({"data": data, "label": label})[0])


def hand_written(weights: list[Tensor]) -> Side:
    """`GMNet` with the given weights, taken by position."""
    module = GMNet().train()
    own = list(module.parameters())
    if [tuple(t.shape) for t in own] != [tuple(t.shape) for t in weights]:
        raise NetError("bua: the converted net's parameters are not those of the hand-written one")
    with torch.no_grad():
        for target, source in zip(own, weights, strict=True):
            target.copy_(source)
    return Side(module, list(own), lambda data, label: F.cross_entropy(module(data), label.long()))


class Difference(NamedTuple):
    """How far loss and gradients are apart, as max|a − b| / max|b|."""

    worst: float
    """Of the tensor where it is largest."""
    whole: float
    """Of all gradients together."""


AGREEMENT = Difference(worst=1e-6, whole=1e-4)
"""Rounding through 27 layers stays near 1e-8 in float64, 1e-6 in float32; a wrong rule does not."""


def difference(ours: Side, theirs: Side, data: Tensor, label: Tensor) -> Difference:
    """Run one step on each side and compare the loss and every gradient."""
    pairs = [(ours.step(data, label), theirs.step(data, label))]
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        if mine.grad is None or other.grad is None:
            raise NetError("bua: a trained blob has no gradient after the backward pass")
        pairs.append((mine.grad, other.grad))
    apart = [(float((a - b).abs().max()), float(b.abs().max())) for a, b in pairs]
    largest = [max(column) for column in zip(*apart[1:], strict=True)]
    return Difference(max(error / size for error, size in apart), largest[0] / largest[1])


def check(ours: Side, theirs: Side, data: Tensor, label: Tensor) -> Difference:
    """Require the same loss and gradients, tensor by tensor in float64 and as a whole in float32.

    In float32 a single tensor says nothing: BU_s normalises each channel of its 1×1 once more
    behind a depthwise convolution, so the true gradient of that Scale is 0 and only rounding shows.

    Raises:
        NetError: they differ by more than rounding.
    """
    single = difference(ours, theirs, data, label)
    for side in (ours, theirs):
        side.module.double()
    double = difference(ours, theirs, data.double(), label.double())
    for side in (ours, theirs):
        side.module.float()
        side.module.zero_grad(set_to_none=True)
    found = Difference(double.worst, single.whole)
    if not (found.worst <= AGREEMENT.worst and found.whole <= AGREEMENT.whole):
        raise NetError(f"bua: loss or gradients differ: {found}, at most {AGREEMENT} is due")
    return found


def better_format(side: Side, data: Tensor, label: Tensor) -> tuple[str, Tensor]:
    """Leave the side in the faster memory format; its name, and the batch in it."""
    timed = []
    for layout in (torch.contiguous_format, torch.channels_last):
        batch = _in_format(side, data, layout)
        side.step(batch, label)
        timed.append((min(seconds(partial(side.step, batch, label)) for _ in range(3)), layout))
    best = min(timed, key=lambda entry: entry[0])[1]
    name = "channels_last" if best is torch.channels_last else "contiguous"
    return name, _in_format(side, data, best)


def _in_format(side: Side, data: Tensor, layout: torch.memory_format) -> Tensor:
    side.module.to(memory_format=layout)  # type: ignore[call-overload]
    return data.contiguous(memory_format=layout)


def rows() -> Iterable[Row]:
    """One row: forward and backward, batch 64, on the CPU, the same threads for both."""
    torch.manual_seed(1)
    data = torch.randn(BATCH, 3, 32, 32)
    label = torch.randint(10, (BATCH,)).float()
    ours = converted()
    theirs = hand_written(ours.weights)
    found = check(ours, theirs, data, label)
    our_format, our_data = better_format(ours, data, label)
    their_format, their_data = better_format(theirs, data, label)
    mine, other = alternate(
        lambda: ours.step(our_data, label), lambda: theirs.step(their_data, label)
    )
    yield Row(
        "training step, bua, batch 64",
        mine,
        other,
        BOUND,
        note=f"{our_format} / {their_format}, {torch.get_num_threads()} threads, "
        f"gradients differ by {found.whole:.0e}",
    )
