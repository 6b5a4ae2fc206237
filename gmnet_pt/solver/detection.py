"""Average precisions: what a test of a detector comes to, from the rows of DetectionEvaluate.

`eval_type: "detection"` in a solver asks for it; `testing` and `solver` run it in place of
`scores.Means`. Source: weiliu89/caffe solver.cpp TestDetection, util/bbox_util.cpp ComputeAP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.errors import SolverError
from converters.net.caffe_net import CaffeNet
from converters.registry import Registry
from gmnet_pt.solver.processes import Processes

Array = np.ndarray[Any, np.dtype[np.float64]]
Curve = Callable[[Array, Array], float]
"""The average precision of a class from its precisions and recalls, detection by detection."""

CURVES: Registry[Curve] = Registry("ap_version")

COLUMNS = 5
LEAST_STEP = 1e-6


@CURVES.add("11point")
def _eleven_points(precision: Array, recall: Array) -> float:
    """1/11 · Σ max precision at a recall of 0, 0.1 … 1 and above: as of VOC 2007."""
    reached = (precision[recall >= np.float64(tenth) / 10] for tenth in range(11))
    return sum(float(found.max(initial=0)) / 11 for found in reached)


@CURVES.add("MaxIntegral")
def _max_integral(precision: Array, recall: Array) -> float:
    """Σ step of recall · max precision, that before the step included: as of VOC 2012, almost."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall)
    return float((np.where(steps > LEAST_STEP, steps, 0) * best[:-1]).sum() + recall[0] * best[0])


@CURVES.add("Integral")
def _integral(precision: Array, recall: Array) -> float:
    """Σ step of recall · precision after it."""
    steps = np.diff(recall, prepend=0)
    return float((np.where(steps > LEAST_STEP, steps, 0) * precision).sum())


def average_precision(scores: Array, true: Array, boxes: int, version: str) -> float:
    """Of a class: the scores of its detections, which of them are true, how many boxes there are.

    Precision and recall are in single precision, as the fork compares them. 0 without detections
    or boxes.

    Raises:
        ValueError: more detections are true than there are boxes.
    """
    if not len(scores) or not boxes:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(true[order])
    if found[-1] > boxes:
        raise ValueError(f"{int(found[-1])} detections are true of {boxes} boxes")
    precision = (found / np.arange(1, len(found) + 1)).astype(np.float32)
    recall = (found / boxes).astype(np.float32)
    return CURVES[version](precision.astype(np.float64), recall.astype(np.float64))


class Precisions:
    """Gathers the rows that a test net puts out over batches; then the mean average precisions.

    It stands where `scores.Means` does. Every output of the net must be of DetectionEvaluate: rows
    (image, label, score, true, false), those of image -1 saying how many boxes a label has.
    """

    def __init__(self, net: CaffeNet, version: str) -> None:
        self._net, self._version = net, version
        self._batches = 0
        self._loss = torch.zeros(())
        self._rows: dict[str, list[Tensor]] = {}

    def add(self, loss: Tensor, outputs: Mapping[str, Tensor], batches: int = 1) -> None:
        """Add a batch, or the rows of several.

        Raises:
            SolverError: an output has rows of another kind.
        """
        for name, value in outputs.items():
            if not value.dim() or value.shape[-1] != COLUMNS:
                raise SolverError(
                    f'{self._net.plan.source}: output "{name}" has shape {tuple(value.shape)}; '
                    f'eval_type "detection" takes rows of {COLUMNS}, of DetectionEvaluate, alone'
                )
            rows = value.detach().reshape(-1, COLUMNS)
            self._rows.setdefault(name, []).append(rows)
        self._loss = self._loss.to(loss.device) + loss.detach()
        self._batches += batches

    def over(self, processes: Processes) -> Precisions:
        """Those over the batches of all processes, each of which calls this; on the host."""
        rows = {name: torch.cat(found).cpu() for name, found in self._rows.items()}
        every = Precisions(self._net, self._version)
        for own in processes.gather((self._loss.cpu(), rows, self._batches)):
            every.add(*own)
        return every

    def loss(self) -> float:
        """The mean loss."""
        return float(self._loss / self._batches)

    def outputs(self) -> dict[str, Tensor]:
        """The mean average precision of each output, by blob name: over all labels, 0-d."""
        return {
            name: torch.tensor(float(np.mean(list(found.values()))) if found else 0.0)
            for name, found in self.by_label().items()
        }

    def lines(self) -> Iterator[str]:
        """A line a class, as the fork logs it with show_per_class_result."""
        for found in self.by_label().values():
            for label, precision in found.items():
                yield f"class{label}: {precision:g}"

    def by_label(self) -> dict[str, dict[int, float]]:
        """The average precision of each label of each output.

        A label without detections has 0, and so has an output without any: the fork counts the
        first so, too, and shows nothing of the second.
        """
        return {name: self._of(torch.cat(rows)) for name, rows in self._rows.items()}

    def _of(self, rows: Tensor) -> dict[int, float]:
        values = rows.to("cpu", torch.float64).numpy()
        counts = values[:, 0].astype(int) == -1
        label = values[:, 1].astype(int)
        true, false = (values[:, column].astype(int) for column in (3, 4))
        # A detection of a difficult box that does not count is neither.
        judged = ~counts & ((true != 0) | (false != 0))
        return {
            int(one): average_precision(
                values[judged & (label == one), 2],
                true[judged & (label == one)],
                int(values[counts & (label == one), 2].sum()),
                self._version,
            )
            for one in np.unique(label[counts])
        }
