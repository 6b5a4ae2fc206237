"""Losses, and Accuracy. A loss's first top has loss_weight 1 unless the net says otherwise.

Gradients that are not the derivative of the value are in `converters.layers.gradients`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from converters.errors import DataError
from converters.formats.blob import read_blob
from converters.layers.registry import ENGINE, BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients

register = Family("#fc9272")

FLT_MIN = 1.1754943508222875e-38
LOG_THRESHOLD = 1e-20
LABELS = "a label outside the classes is an error; Caffe reads foreign memory"


def _check_positions(layer: Layer, bottoms: Sequence[Shape], axis: int) -> int:
    """`axis` from the front; raise unless there is a label for every position outside it."""
    scores, labels = bottoms[0], bottoms[1]
    along = layer.axis(axis, len(scores))
    positions = math.prod(scores[:along]) * math.prod(scores[along + 1 :])
    if math.prod(labels) != positions:
        raise layer.shape_error(
            f"{layer.bottom_name(1)} {labels} must have {positions} labels: one for every "
            f"position of {layer.bottom_name(0)} {scores} outside axis {along}"
        )
    return along


def _cross_entropies(scores: Tensor, index: Tensor) -> Tensor:
    """-log max(softmax(x)[label], FLT_MIN) of (outer, C, inner), as (outer, 1, inner)."""
    if scores.device.type == "cpu" and scores.numel() and not torch.compiler.is_compiling():
        # torch's own passes are half as many, and the same where the floor is not reached.
        one = scores.shape[2] == 1
        rows = (scores.squeeze(2), index.flatten()) if one else (scores, index.squeeze(1))
        losses = F.cross_entropy(*rows, reduction="none")
        if losses.detach().amax() < -math.log(FLT_MIN):
            return losses.view(index.shape)
    own = F.log_softmax(scores, 1).gather(1, index)
    log_p: Tensor = gradients.Floor.apply(own, math.log(FLT_MIN))  # type: ignore[no-untyped-call]
    return -log_p


def class_indices(
    layer: Layer, labels: Tensor, classes: int, ignored: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Labels as integers below `classes`, and which of them count (None: all).

    A label that is out of range, where Caffe reads foreign memory, raises a NetError. On a GPU, or
    in compiled code, torch's own bounds check stops instead: reading the values would stall there.
    """
    index = labels.detach().long()
    counted = None
    if ignored is not None:
        counted = index != ignored
        index = torch.where(counted, index, 0)
    if index.device.type == "cpu" and index.numel() and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in index.aminmax())
        if low < 0 or high >= classes:
            raise layer.error(
                f"label {low if low < 0 else high} in {layer.bottom_name(1)} is not among the "
                f"{classes} classes of {layer.bottom_name(0)}: 0 to {classes - 1}"
            )
    return index, counted


class Loss(Layer):
    """A layer whose first top is a scalar loss."""

    bottoms = Count(2, 2)
    is_loss = True
    no_gradient: ClassVar[tuple[int, ...]] = (1,)
    whole_numbers: ClassVar[tuple[int, ...]] = (1,)
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first, second = bottoms[0], bottoms[1]
        if not first or not second or first[0] != second[0]:
            raise self.shape_error(
                f"{self.bottom_name(0)} {first} and {self.bottom_name(1)} {second} "
                "must have the same first dimension"
            )
        return [()]

    def four_axes(self, bottoms: Sequence[Shape], index: int) -> Shape:
        """A bottom's shape as (num, channels, height, width), for layers older than N-d blobs."""
        shape = bottoms[index]
        if len(shape) > 4:
            raise self.shape_error(
                f"{self.bottom_name(index)} {shape} has {len(shape)} axes; at most 4 are accepted"
            )
        return shape + (1,) * (4 - len(shape))


PRE_FIXED = ("loss_param.pre_fixed_normalizer", "loss_param.normalization.PRE_FIXED")


class NormalizedLoss(Loss):
    """A loss that reads loss_param: what its sum is divided by, and which label is left out."""

    normalization: int
    ignored_label: int | None

    def read_loss_param(self, default: int = pb.LossParameter.VALID) -> None:
        """`normalization`, or else the legacy `normalize`, or else the layer's default."""
        param = self.param.loss_param
        self.normalization = default
        if param.HasField("normalization"):
            self.normalization = param.normalization
        elif param.HasField("normalize"):
            self.normalization = (
                pb.LossParameter.VALID if param.normalize else pb.LossParameter.BATCH_SIZE
            )
        self.ignored_label = param.ignore_label if param.HasField("ignore_label") else None

    def normalized(self, losses: Tensor, outer: int, counted: Tensor | None) -> Tensor:
        """Σ losses (outer, …) / max(1, normalizer); `counted` is None where no label is ignored."""
        total = losses.sum()
        if self.normalization == pb.LossParameter.VALID and counted is not None:
            return total / counted.sum().clamp(min=1)
        normalizers: dict[int, float] = {
            pb.LossParameter.VALID: losses.numel(),
            pb.LossParameter.FULL: losses.numel(),
            pb.LossParameter.BATCH_SIZE: outer,
            pb.LossParameter.NONE: 1,
            pb.LossParameter.PRE_FIXED: self.param.loss_param.pre_fixed_normalizer,
        }
        return total / max(1, normalizers[self.normalization])


class _LabelLoss(NormalizedLoss):
    """A loss of the softmax over axis C of (…, C, …), with one class label per position.

    An optional second top is the softmax; as in Caffe, no gradient comes back through it.
    """

    tops = Count(1, 2)
    along: int

    def shape_tops(self, bottoms: Sequence[Shape], axis: int) -> list[Shape]:
        """Check the labels against the scores' `axis`; the tops' shapes."""
        loss = super().reshape(bottoms)
        self.along = _check_positions(self, bottoms, axis)
        # Read here: torch.compile traces forward and cannot look into repeated fields.
        self.softmax_wanted = len(self.param.top) > 1
        return [*loss, bottoms[0]] if self.softmax_wanted else loss

    def flat(self, x: Tensor) -> Tensor:
        """Scores as (outer, C, inner)."""
        return x.reshape(math.prod(x.shape[: self.along]), x.shape[self.along], -1)

    def with_softmax(self, loss: Tensor, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The loss, and the softmax of the scores `x` if the net names a second top."""
        if not self.softmax_wanted:
            return loss
        return loss, F.softmax(x.detach(), self.along)


@register("SoftmaxWithLoss", "softmax_param", "loss_param")
class SoftmaxWithLoss(_LabelLoss):
    """-Σ log max(softmax(x)[label], FLT_MIN) / normalizer; an optional second top is the softmax.

    SegNet's `weight_by_label_freqs` multiplies each position's loss by its label's value in
    `class_weighting`; the normalizer stays. R-FCN's optional third top is the loss at each label,
    before the normalizer; no gradient comes back through it either. Sources: Caffe,
    alexgkendall/caffe-segnet and daijifeng001/caffe-rfcn, layers/softmax_loss_layer.cpp.
    """

    tops = Count(1, 3)
    of_forks: ClassVar[tuple[str, ...]] = (
        *PRE_FIXED,
        "loss_param.weight_by_label_freqs",
        "loss_param.class_weighting",
    )
    ignored = {"softmax_param.engine": ENGINE}
    differences = f"{LABELS}; a second top works, with a loss_weight for each; Caffe stops at it"

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.read_loss_param()
        param = self.param.loss_param
        self._weights = list(param.class_weighting) if param.weight_by_label_freqs else None
        self._kept: dict[Any, Tensor] = {}
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = self.shape_tops(bottoms, self.param.softmax_param.axis)
        self.each_wanted = len(self.param.top) > 2
        classes = bottoms[0][self.along]
        if self._weights is not None and len(self._weights) != classes:
            raise self.error(
                f"weight_by_label_freqs needs a class_weighting for each of the {classes} classes "
                f"of {self.bottom_name(0)} {bottoms[0]}, not {len(self._weights)}"
            )
        return [*tops, bottoms[1]] if self.each_wanted else tops

    def losses(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The losses (outer, 1, inner), 0 where a label does not count, and which count."""
        scores = self.flat(x)
        outer, classes = scores.shape[:2]
        index, counted = class_indices(
            self, labels.reshape(outer, 1, -1), classes, self.ignored_label
        )
        losses = _cross_entropies(scores, index)
        if counted is not None:
            losses = torch.where(counted, losses, 0)
        if self._weights is not None:
            losses = losses * self._weights_for(scores)[index]
        return losses, counted

    def _weights_for(self, scores: Tensor) -> Tensor:
        """The classes' weights, copied once to each device, as `InfogainLoss`'s matrix."""
        key = (scores.device, scores.dtype)
        if key not in self._kept:
            self._kept[key] = scores.new_tensor(self._weights)
        return self._kept[key]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        losses, counted = self.losses(bottoms[0], bottoms[1])
        tops = self.with_softmax(self.normalized(losses, len(losses), counted), bottoms[0])
        return (*tops, losses.detach().reshape(bottoms[1].shape)) if self.each_wanted else tops


@register("Accuracy", "accuracy_param")
class Accuracy(Layer):
    """Share of positions whose true class is among the top_k; a tie with a rival counts against it.

    An optional second top is the accuracy of each class (0 for an absent one). A NaN score of the
    true class counts as correct, as in Caffe. Source: Caffe layers/accuracy_layer.cpp.
    """

    differences = LABELS
    bottoms = Count(2, 2)
    tops = Count(1, 2)
    no_gradient = (0, 1)
    whole_numbers = (1,)
    in_place = False

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, scores = self.param.accuracy_param, bottoms[0]
        self.along = _check_positions(self, bottoms, param.axis)
        classes = scores[self.along]
        if param.top_k > classes:
            raise self.error(
                f"top_k {param.top_k} must be at most the {classes} classes of "
                f"{self.bottom_name(0)} {scores}"
            )
        self.ignored_label = param.ignore_label if param.HasField("ignore_label") else None
        self.per_class = len(self.param.top) > 1
        return [(), (classes,)] if self.per_class else [()]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0].detach()
        scores = x.reshape(math.prod(x.shape[: self.along]), x.shape[self.along], -1)
        outer, classes = scores.shape[:2]
        labels = bottoms[1].reshape(outer, 1, -1)
        index, counted = class_indices(self, labels, classes, self.ignored_label)
        # The true class is among those with at least its score, unless that is NaN: then none is.
        rivals = (scores >= scores.gather(1, index)).sum(1, keepdim=True) - 1
        right = rivals < self.param.accuracy_param.top_k
        if counted is None:
            counted = torch.ones_like(right)
        right = right & counted
        # Counts are whole numbers: bfloat16 would round them.
        dtype = torch.promote_types(x.dtype, torch.float32)
        top = right.sum().to(dtype) / counted.sum().clamp(min=1)
        if not self.per_class:
            return top
        members = (index == torch.arange(classes, device=x.device).reshape(1, -1, 1)) & counted
        hits = (members & right).sum((0, 2)).to(dtype)
        return top, hits / members.sum((0, 2)).clamp(min=1)


@register("SigmoidCrossEntropyLoss", "loss_param")
class SigmoidCrossEntropyLoss(NormalizedLoss):
    """-Σ (t·log σ(x) + (1 - t)·log(1 - σ(x))) / normalizer (the batch size by default).

    Targets are real; one whose whole part is ignore_label is left out.
    Source: Caffe layers/sigmoid_cross_entropy_loss_layer.cpp.
    """

    of_forks = PRE_FIXED

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        self.read_loss_param(pb.LossParameter.BATCH_SIZE)
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        self.require_same_count(bottoms)
        return tops

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        target = bottoms[1].reshape(x.shape)
        losses = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        counted = None
        if self.ignored_label is not None:
            counted = target.trunc() != self.ignored_label
            losses = torch.where(counted, losses, 0)
        return self.normalized(losses, x.shape[0], counted)


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """Σ (a - b)² / 2N, with gradients to both. Source: layers/euclidean_loss_layer.cpp."""

    no_gradient = ()
    whole_numbers = ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        self.require_same_count(bottoms)
        for index in range(2):
            self.four_axes(bottoms, index)
        return tops

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        difference = bottoms[0] - bottoms[1].reshape(bottoms[0].shape)
        return difference.square().sum() / (2 * bottoms[0].shape[0])


@register("HingeLoss", "hinge_loss_param")
class HingeLoss(Loss):
    """Σ max(0, 1 ± x)^p / N, minus for the label's class; p is 1 (L1) or 2 (L2).

    Of a label blob with more than N values the first N are read.
    Source: Caffe layers/hinge_loss_layer.cpp.
    """

    differences = LABELS

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        self.four_axes(bottoms, 0)
        return tops

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        number = bottoms[0].shape[0]
        x = bottoms[0].reshape(number, -1)
        labels = bottoms[1].reshape(-1)[:number].unsqueeze(1)
        index, _ = class_indices(self, labels, x.shape[1])
        margin = F.relu(1 + x * torch.ones_like(x).scatter(1, index, -1.0))
        squared = self.param.hinge_loss_param.norm == pb.HingeLossParameter.L2
        return (margin.square() if squared else margin).sum() / number


@register("ContrastiveLoss", "contrastive_loss_param")
class ContrastiveLoss(Loss):
    """Σ (s·d² + (1 - s)·max(margin - d, 0)²) / 2N for pairs (N, C); legacy: max(margin - d², 0).

    The gradient divides by d + 1e-4. Source: Caffe layers/contrastive_loss_layer.cpp.
    """

    bottoms = Count(3, 3)
    no_gradient = (2,)
    whole_numbers = (2,)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        first, second, similar = (self.four_axes(bottoms, index) for index in range(3))
        if first[1:] != second[1:] or first[2:] != (1, 1):
            raise self.shape_error(
                f"{self.bottom_name(0)} {bottoms[0]} and {self.bottom_name(1)} {bottoms[1]} "
                "must both be (N, C), or (N, C, 1, 1)"
            )
        if similar[1:] != (1, 1, 1) or similar[0] < first[0]:
            raise self.shape_error(
                f"{self.bottom_name(2)} {bottoms[2]} must have one label for each of the "
                f"{first[0]} pairs of {self.bottom_name(0)} {bottoms[0]}"
            )
        return tops

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param, number = self.param.contrastive_loss_param, bottoms[0].shape[0]
        difference = (bottoms[0] - bottoms[1].reshape(bottoms[0].shape)).reshape(number, -1)
        similar = bottoms[2].reshape(-1)[:number].trunc() != 0
        square = difference.square().sum(1)
        if param.legacy_version:
            apart = F.relu(param.margin - square)
        else:
            dissimilar = (~similar).to(square.dtype)
            apart = gradients.ContrastiveDistance.apply(difference, dissimilar, param.margin)  # type: ignore[no-untyped-call]
        return torch.where(similar, square, apart).sum() / (2 * number)


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """-Σ log max(p[label], 1e-20) / N of probabilities.

    Source: Caffe layers/multinomial_logistic_loss_layer.cpp.
    """

    differences = LABELS

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        self.four_axes(bottoms, 0)
        if self.four_axes(bottoms, 1)[1:] != (1, 1, 1):
            raise self.shape_error(
                f"{self.bottom_name(1)} {bottoms[1]} must have one label for each of the "
                f"{bottoms[0][0]} items of {self.bottom_name(0)} {bottoms[0]}"
            )
        return tops

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        number = bottoms[0].shape[0]
        p = bottoms[0].reshape(number, -1)
        index, _ = class_indices(self, bottoms[1].reshape(number, 1), p.shape[1])
        own: Tensor = gradients.Floor.apply(p.gather(1, index), LOG_THRESHOLD)  # type: ignore[no-untyped-call]
        return -own.log().sum() / number


@register("InfogainLoss", "infogain_loss_param", "softmax_param", "loss_param")
class InfogainLoss(_LabelLoss):
    """-Σ_c H[label, c] · log max(softmax(x)_c, 1e-20) / normalizer; H from a file or bottom 2.

    Source: Caffe layers/infogain_loss_layer.cpp.
    """

    bottoms = Count(2, 3)
    no_gradient = (1, 2)
    of_forks = PRE_FIXED
    ignored = {
        "softmax_param.axis": "the layer's own infogain_loss_param.axis takes its place",
        "softmax_param.engine": ENGINE,
    }
    differences = LABELS
    refused = {"loss_param.normalize": "Caffe's InfogainLoss takes only normalization"}

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        if self.param.loss_param.HasField("normalize"):
            raise self.error("loss_param.normalize is not accepted here; give normalization")
        self.read_loss_param()
        self.values: list[float] | None = None
        self._matrices: dict[Any, Tensor] = {}
        if len(bottoms) == 2:
            if not self.param.infogain_loss_param.HasField("source"):
                raise self.error("needs infogain_loss_param { source: … } or a third bottom")
            self.values = self._read(self.param.infogain_loss_param.source)
        return ()

    def _read(self, source: str) -> list[float]:
        """The values of a `.binaryproto` file (a BlobProto of any shape)."""
        try:
            matrix = read_blob(self.environment.find(source), DataError)
        except DataError as error:
            raise DataError(
                f'{self.environment.source}: layer "{self.name}": infogain matrix {error}'
            ) from error
        return [float(value) for value in matrix.flat]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = self.shape_tops(bottoms, self.param.infogain_loss_param.axis)
        classes = bottoms[0][self.along]
        given = self.values is not None
        size = math.prod(bottoms[2]) if self.values is None else len(self.values)
        if size != classes * classes:
            name = (
                self.param.infogain_loss_param.source
                if given
                else f"{self.bottom_name(2)} {bottoms[2]}"
            )
            raise self.shape_error(
                f"infogain matrix {name} has {size} values; {self.bottom_name(0)} {bottoms[0]} "
                f"has {classes} classes, which need {classes * classes}"
            )
        return tops

    def _matrix(self, scores: Tensor) -> Tensor:
        """H of the file, copied once to each device: a copy per forward stops CUDA graphs."""
        key = (scores.device, scores.dtype)
        if key not in self._matrices:
            self._matrices[key] = scores.new_tensor(self.values)
        return self._matrices[key]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        scores = self.flat(bottoms[0])
        outer, classes, inner = scores.shape
        labels = bottoms[1].reshape(outer, inner)
        index, counted = class_indices(self, labels, classes, self.ignored_label)
        matrix = self._matrix(scores) if self.values is not None else bottoms[2].detach()
        # index_select checks its bounds on every device; matrix[index] would wrap negative labels.
        rows = matrix.reshape(classes, classes).index_select(0, index.flatten())
        rows = rows.reshape(outer, inner, classes).transpose(1, 2)
        log_p: Tensor = gradients.Floor.apply(F.log_softmax(scores, 1), math.log(LOG_THRESHOLD))  # type: ignore[no-untyped-call]
        losses = -(rows * log_p).sum(1)
        if counted is not None:
            losses = torch.where(counted, losses, 0)
        return self.with_softmax(self.normalized(losses, outer, counted), bottoms[0])
