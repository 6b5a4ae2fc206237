"""Losses, and Accuracy. A loss's first top has loss_weight 1 unless the net says otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from converters.layers.registry import BlobSpec, Count, Layer, LayerState, Shape, register
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients

FLT_MIN = 1.1754943508222875e-38
LOG_THRESHOLD = 1e-20


class _Loss(Layer):
    """A layer whose first top is a scalar loss."""

    bottoms = Count(2, 2)
    is_loss = True
    no_gradient: ClassVar[tuple[int, ...]] = (1,)
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if bottoms[0][:1] != bottoms[1][:1]:
            raise self.shape_error(
                f"{self.bottom_name(0)} {bottoms[0]} and {self.bottom_name(1)} {bottoms[1]} "
                "must have equally many items"
            )
        return [()]

    def normalizer(self, outer: int, inner: int, valid: Tensor | None) -> float | Tensor:
        """What the sum is divided by: never below 1 (loss_layer.cpp, GetNormalizer)."""
        mode = self.normalization
        if mode == pb.LossParameter.VALID and valid is not None:
            return valid.clamp(min=1)
        numbers: dict[int, int] = {
            pb.LossParameter.VALID: outer * inner,
            pb.LossParameter.FULL: outer * inner,
            pb.LossParameter.BATCH_SIZE: outer,
            pb.LossParameter.NONE: 1,
        }
        return float(max(1, numbers[mode]))

    normalization: int

    def read_normalization(self, default: int) -> None:
        """`normalization`, or the legacy `normalize`, or the layer's default."""
        param = self.param.loss_param
        self.normalization = default
        if param.HasField("normalization"):
            self.normalization = param.normalization
        elif param.HasField("normalize"):
            legacy = pb.LossParameter.VALID if param.normalize else pb.LossParameter.BATCH_SIZE
            self.normalization = legacy
        self.ignored_label = param.ignore_label if param.HasField("ignore_label") else None


class _LabelLoss(_Loss):
    """A loss over scores (…, C, …) on an axis with one integer label per position."""

    def check_labels(self, bottoms: Sequence[Shape], axis: int) -> None:
        """As many labels as positions."""
        scores, labels = bottoms[0], bottoms[1]
        self.along = self.axis(axis, len(scores), "softmax axis")
        positions = math.prod(scores[: self.along]) * math.prod(scores[self.along + 1 :])
        if math.prod(labels) != positions:
            raise self.shape_error(
                f"{self.bottom_name(1)} {labels} must have {positions} labels: one for every "
                f"position of {self.bottom_name(0)} {scores} outside axis {self.along}"
            )

    def flat(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Scores as (outer, C, inner) and labels as (outer, inner) integers."""
        outer = math.prod(x.shape[: self.along])
        scores = x.reshape(outer, x.shape[self.along], -1)
        return scores, label.reshape(outer, -1).long()


@register("SoftmaxWithLoss", "softmax_param", "loss_param")
class SoftmaxWithLoss(_LabelLoss):
    """-Σ log max(softmax(x)[label], FLT_MIN) / normalizer; an optional second top is the softmax.

    Source: Caffe layers/softmax_loss_layer.cpp.
    """

    tops = Count(1, 2)
    ignored = {"softmax_param.engine": "torch chooses its own kernels for the same result"}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.read_normalization(pb.LossParameter.VALID)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.check_labels(bottoms, self.param.softmax_param.axis)
        return [(), bottoms[0]][: max(1, len(self.param.top))]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        scores, labels = self.flat(*bottoms)
        log_p = F.log_softmax(scores, 1)
        ignored = self.ignored_label
        losses = F.nll_loss(
            log_p, labels, reduction="none", ignore_index=-(2**40) if ignored is None else ignored
        )
        # The floor changes the value alone: Caffe's gradient does not see it.
        capped = losses.detach().clamp(max=-math.log(FLT_MIN))
        losses = gradients.WithValue.apply(losses, capped)  # type: ignore[no-untyped-call]
        valid = None if ignored is None else (labels != ignored).sum().to(scores.dtype)
        loss: Tensor = losses.sum() / self.normalizer(scores.shape[0], scores.shape[2], valid)
        if len(self.param.top) < 2:
            return loss
        return loss, log_p.exp().reshape(bottoms[0].shape)


@register("Accuracy", "accuracy_param")
class Accuracy(Layer):
    """Share of positions whose true class is among the top_k; a tie with a rival counts against it.

    An optional second top is the accuracy of each class (0 for an absent one). A NaN score of the
    true class counts as correct, as in Caffe. Source: Caffe layers/accuracy_layer.cpp.
    """

    bottoms = Count(2, 2)
    tops = Count(1, 2)
    no_gradient = (0, 1)
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, scores = self.param.accuracy_param, bottoms[0]
        self.along = self.axis(param.axis, len(scores))
        positions = math.prod(scores[: self.along]) * math.prod(scores[self.along + 1 :])
        if math.prod(bottoms[1]) != positions:
            raise self.shape_error(
                f"{self.bottom_name(1)} {bottoms[1]} must have {positions} labels: one for every "
                f"position of {self.bottom_name(0)} {scores} outside axis {self.along}"
            )
        if not 1 <= param.top_k <= scores[self.along]:
            raise self.error(
                f"top_k {param.top_k} must be from 1 to the {scores[self.along]} classes"
            )
        return [(), (scores[self.along],)][: len(self.param.top)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        param, x = self.param.accuracy_param, bottoms[0].detach()
        classes = x.shape[self.along]
        scores = x.reshape(math.prod(x.shape[: self.along]), classes, -1)
        labels = bottoms[1].detach().reshape(scores.shape[0], -1).long()
        counted = (
            labels != param.ignore_label
            if param.HasField("ignore_label")
            else torch.ones_like(labels, dtype=torch.bool)
        )
        safe = labels.clamp(0, classes - 1)
        own = scores.gather(1, safe.unsqueeze(1))
        # The true class itself is among those with at least its score (unless it is NaN).
        rivals = (scores >= own).sum(1) - (own == own).squeeze(1).long()
        right = ((rivals < param.top_k) & counted).to(x.dtype)
        top = right.sum() / counted.sum().clamp(min=1)
        if len(self.param.top) < 2:
            return top
        hits = torch.zeros(classes, dtype=x.dtype, device=x.device)
        total = torch.zeros_like(hits)
        hits = hits.scatter_add(0, safe.flatten(), right.flatten())
        total = total.scatter_add(0, safe.flatten(), counted.to(x.dtype).flatten())
        return top, hits / total.clamp(min=1)


@register("SigmoidCrossEntropyLoss", "loss_param")
class SigmoidCrossEntropyLoss(_Loss):
    """-Σ (t·log σ(x) + (1 - t)·log(1 - σ(x))) / normalizer (the batch size by default).

    Source: Caffe layers/sigmoid_cross_entropy_loss_layer.cpp.
    """

    tops = Count(1, 2)

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.read_normalization(pb.LossParameter.BATCH_SIZE)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.require_same_count(bottoms)
        return [(), bottoms[0]][: max(1, len(self.param.top))]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        target = bottoms[1].reshape(x.shape)
        losses = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        valid = None
        if self.ignored_label is not None:
            counted = target.trunc() != self.ignored_label
            losses = torch.where(counted, losses, torch.zeros_like(losses))
            valid = counted.sum().to(x.dtype)
        outer = x.shape[0] if x.dim() else 1
        loss = losses.sum() / self.normalizer(outer, x.numel() // max(1, outer), valid)
        return loss if len(self.param.top) < 2 else (loss, torch.sigmoid(x))


@register("EuclideanLoss")
class EuclideanLoss(_Loss):
    """Σ (a - b)² / 2N, with gradients to both. Source: layers/euclidean_loss_layer.cpp."""

    no_gradient = ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        super().reshape(bottoms)
        self.require_same_count(bottoms)
        return [()]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        difference = bottoms[0] - bottoms[1].reshape(bottoms[0].shape)
        return difference.square().sum() / (2 * bottoms[0].shape[0])


@register("HingeLoss", "hinge_loss_param")
class HingeLoss(_Loss):
    """Σ max(0, 1 ± x)^p / N, minus for the label's class; p is 1 (L1) or 2 (L2).

    Source: Caffe layers/hinge_loss_layer.cpp.
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        super().reshape(bottoms)
        if math.prod(bottoms[1]) != bottoms[0][0]:
            raise self.shape_error(
                f"{self.bottom_name(1)} {bottoms[1]} must have one label for each of the "
                f"{bottoms[0][0]} items of {self.bottom_name(0)}"
            )
        return [()]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0].flatten(1)
        labels = bottoms[1].reshape(-1, 1).long()
        sign = torch.ones_like(x).scatter(1, labels, -1.0)
        margin = F.relu(1 + sign * x)
        squared = self.param.hinge_loss_param.norm == pb.HingeLossParameter.L2
        return (margin.square() if squared else margin).sum() / x.shape[0]


@register("ContrastiveLoss", "contrastive_loss_param")
class ContrastiveLoss(_Loss):
    """Σ (s·d² + (1 - s)·max(margin - d, 0)²) / 2N for pairs (N, C); legacy: max(margin - d², 0).

    The gradient divides by d + 1e-4. Source: Caffe layers/contrastive_loss_layer.cpp.
    """

    bottoms = Count(3, 3)
    no_gradient = (2,)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first, second, similar = bottoms
        if math.prod(first[1:2]) != math.prod(second[1:2]) or first[:1] != second[:1]:
            raise self.shape_error(
                f"{self.bottom_name(0)} {first} and {self.bottom_name(1)} {second} must agree"
            )
        if any(size != 1 for shape in bottoms for size in shape[2:]) or math.prod(
            similar
        ) != math.prod(first[:1]):
            raise self.shape_error(
                f"needs two blobs (N, C) and N labels, got {first}, {second} and {similar}"
            )
        return [()]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param = self.param.contrastive_loss_param
        a, b = bottoms[0].flatten(1), bottoms[1].flatten(1)
        dissimilar = (bottoms[2].reshape(-1).long() == 0).to(a.dtype)
        difference = a - b
        square = difference.square().sum(1)
        if param.legacy_version:
            apart = F.relu(param.margin - square) * dissimilar
        else:
            apart = gradients.ContrastiveDistance.apply(difference, dissimilar, param.margin)  # type: ignore[no-untyped-call]
        total: Tensor = ((1 - dissimilar) * square + apart).sum()
        return total / (2 * a.shape[0])


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(_Loss):
    """-Σ log max(p[label], 1e-20) / N of probabilities.

    Source: Caffe layers/multinomial_logistic_loss_layer.cpp.
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        super().reshape(bottoms)
        if math.prod(bottoms[1]) != bottoms[0][0]:
            raise self.shape_error(
                f"{self.bottom_name(1)} {bottoms[1]} must have one label for each of the "
                f"{bottoms[0][0]} items of {self.bottom_name(0)}"
            )
        return [()]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        p = bottoms[0].flatten(1).gather(1, bottoms[1].reshape(-1, 1).long())
        losses: Tensor = gradients.FlooredLog.apply(p, LOG_THRESHOLD)  # type: ignore[no-untyped-call]
        return losses.sum() / p.shape[0]


@register("InfogainLoss", "infogain_loss_param", "softmax_param", "loss_param")
class InfogainLoss(_LabelLoss):
    """-Σ_c H[label, c] · log max(softmax(x)_c, 1e-20) / normalizer; H from a file or bottom 2.

    Source: Caffe layers/infogain_loss_layer.cpp.
    """

    bottoms = Count(2, 3)
    tops = Count(1, 2)
    no_gradient = (1, 2)
    ignored = {
        "softmax_param.axis": "the layer's own infogain_loss_param.axis takes its place",
        "softmax_param.engine": "torch chooses its own kernels for the same result",
    }

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.read_normalization(pb.LossParameter.VALID)
        self.matrix = None
        if len(bottoms) == 2:
            source = self.param.infogain_loss_param.source
            if not source:
                raise self.error("needs infogain_loss_param { source: … } or a third bottom")
            self.matrix = self._read(source)
        return ()

    def _read(self, source: str) -> list[float]:
        from pathlib import Path

        from converters.mean import read_mean

        direct = Path(source)
        path = direct if direct.exists() else Path(self.environment.folder) / source
        values: list[float] = read_mean(path).reshape(-1).tolist()
        return values

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.check_labels(bottoms, self.param.infogain_loss_param.axis)
        classes = bottoms[0][self.along]
        size = len(self.matrix) if self.matrix is not None else math.prod(bottoms[2])
        if size != classes * classes:
            raise self.shape_error(
                f"the infogain matrix has {size} values, {classes} classes need {classes * classes}"
            )
        return [(), bottoms[0]][: max(1, len(self.param.top))]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        scores, labels = self.flat(bottoms[0], bottoms[1])
        classes = scores.shape[1]
        matrix = (
            scores.new_tensor(self.matrix) if self.matrix is not None else bottoms[2].detach()
        ).reshape(classes, classes)
        ignored = self.ignored_label
        counted = labels != ignored if ignored is not None else torch.ones_like(labels) > 0
        rows = matrix[labels.where(counted, torch.zeros_like(labels))].permute(0, 2, 1)
        p = F.softmax(scores, 1)
        log_p = F.log_softmax(scores, 1)
        floored = torch.log(p.detach().clamp(min=LOG_THRESHOLD))
        log_p = gradients.WithValue.apply(log_p, floored)  # type: ignore[no-untyped-call]
        losses = -(rows * log_p).sum(1) * counted
        valid = None if ignored is None else counted.sum().to(scores.dtype)
        loss: Tensor = losses.sum() / self.normalizer(scores.shape[0], scores.shape[2], valid)
        return loss if len(self.param.top) < 2 else (loss, p.reshape(bottoms[0].shape))
