"""A run as TensorBoard scalars."""

from __future__ import annotations

from functools import singledispatchmethod
from pathlib import Path
from typing import Any

from converters.errors import import_extra
from gmnet_pt.log.events import Display, Event, Scores
from gmnet_pt.log.training_log import TrainingLog


class TensorBoardLog(TrainingLog):
    """Losses, rates and scores as TensorBoard scalars under `folder`.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        torch_side = "torch.utils.tensorboard"
        found = import_extra(torch_side, "tensorboard", "plots", "TensorBoard output")
        self._writer: Any = found.SummaryWriter(str(folder))

    @singledispatchmethod
    def show(self, event: Event) -> None:
        pass

    @show.register
    def _(self, event: Display) -> None:
        scalars = {f"train/{output.name}": output.value for output in event.outputs}
        scalars["train/loss"] = event.loss
        if event.rate is not None:
            scalars["train/lr"] = event.rate
        self._add(event.iteration, scalars)

    @show.register
    def _(self, event: Scores) -> None:
        self._add(event.iteration, {f"test{event.net}/{o.name}": o.value for o in event.outputs})

    def close(self) -> None:
        self._writer.close()

    def _add(self, iteration: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()
