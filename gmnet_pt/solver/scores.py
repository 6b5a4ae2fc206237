"""Numbers to show: a net's outputs, their means over batches, the loss smoothed over iterations.

The solver and `gmnet_pt.test` use them. Source: Caffe solver.cpp Test and UpdateSmoothedLoss,
tools/caffe.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from converters.errors import ShapeError
from converters.net.caffe_net import CaffeNet
from gmnet_pt.log.events import Output
from gmnet_pt.solver.processes import Processes


def list_outputs(net: CaffeNet, outputs: Mapping[str, Tensor]) -> list[Output]:
    """Every value of the net's outputs in Caffe's order, with its blob's loss weight."""
    weights = {
        value: weight
        for position in net.plan.layers
        for value, weight in zip(position.tops, position.loss_weights)
    }
    return [
        Output(name, number, weights[value])
        for name, value in net.plan.outputs.items()
        for number in outputs[name].detach().float().flatten().tolist()
    ]


class Means:
    """Sums the loss and the outputs of a net over batches; nothing waits for the device."""

    def __init__(self, net: CaffeNet) -> None:
        self._net = net
        self._batches = 0
        self._loss = torch.zeros(())
        self._sums: dict[str, Tensor] = {}

    def add(self, loss: Tensor, outputs: Mapping[str, Tensor], batches: int = 1) -> None:
        """Add a batch, or the sums over several.

        Raises:
            ShapeError: an output has another shape than in the batches before.
        """
        for name, value in outputs.items():
            before = self._sums.get(name)
            if before is not None and before.shape != value.shape:
                raise ShapeError(
                    f'{self._net.plan.source}: output "{name}" has shape {tuple(value.shape)} in '
                    f"batch {self._batches}, {tuple(before.shape)} before; a mean needs one shape"
                )
            self._sums[name] = value.float() if before is None else before + value
        self._loss = self._loss.to(loss.device) + loss.detach()
        self._batches += batches

    def over(self, processes: Processes) -> Means:
        """Those over the batches of all processes, each of which calls this; on the host."""
        own = (self._loss.cpu(), {name: x.cpu() for name, x in self._sums.items()}, self._batches)
        means = Means(self._net)
        for sums in processes.gather(own):
            means.add(*sums)
        return means

    def loss(self) -> float:
        """The mean loss."""
        return float(self._loss / self._batches)

    def outputs(self) -> dict[str, Tensor]:
        """The mean of each output, by blob name."""
        return {name: total / self._batches for name, total in self._sums.items()}


class SmoothedLoss:
    """The mean of the losses so far, at most of the last `window`; nothing waits for the device.

    `value` is 0-d; `start` is shown until the first loss comes.
    """

    def __init__(self, window: int, start: Tensor) -> None:
        self._window = window
        self._losses: list[Tensor] = []
        self._count = 0
        self.value = start

    def window(self) -> list[float]:
        """The losses that the mean is over, then how many there were; `restore` takes them."""
        return [*map(float, self._losses), float(self._count)]

    def restore(self, window: Sequence[float]) -> None:
        """Go on from a `window`, the value aside."""
        *losses, count = window
        self._losses = [self.value.new_full((), loss) for loss in losses]
        self._count = int(count)

    def add(self, loss: Tensor) -> None:
        """Take in the loss of the next iteration, 0-d."""
        slot = self._count % self._window
        self._count += 1
        if len(self._losses) < self._window:
            self._losses.append(loss)
            self.value = (self.value * slot + loss) / self._count if slot else loss
        else:
            self.value = self.value + (loss - self._losses[slot]) / self._window
            self._losses[slot] = loss
