"""SSD's MultiBoxLoss: matching, mining, and the loss of locations and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.forks.predictions import (
    REFINE,
    TRUTH,
    Predictions,
    Truth,
    register,
    single,
    truth_of,
)
from converters.layers.loss import FLT_MIN, NormalizedLoss
from converters.layers.registry import BlobSpec, Count, LayerState, Shape
from converters.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients
    from converters.layers.forks.arithmetic import boxes


@register("MultiBoxLoss", "multibox_loss_param", "loss_param")
class MultiBoxLoss(Predictions, NormalizedLoss):
    """loc_weight · locations' loss + scores' loss, over the normalizer.

    Priors, or the boxes predicted from them unless `use_prior_for_matching`, are matched with the
    boxes of their image (`arithmetic.boxes.match`, by `match_type`); without shared locations each
    class has matches of its own. A matched prior's location is compared, by SMOOTH_L1 or by d²/2
    (L2), with its box in the code of `code_type`, and its scores, by SOFTMAX or LOGISTIC, with the
    box's label. Of the others MAX_NEGATIVE takes those that overlap no box by `neg_overlap`, the
    ones with the largest loss as background first, `neg_pos_ratio` for each match of the image;
    HARD_EXAMPLE takes of all, matched ones too, the `sample_size` of an image with the largest
    loss of both kinds; NONE takes all. With `nms_param` candidates are suppressed first. An image
    without boxes gives no negatives. The normalizer is the number of matches (VALID), N · P (FULL),
    N (BATCH_SIZE) or 1 (NONE), and at least 1. A `propagate_down` that is false leaves locations or
    scores out of the loss too. LOGISTIC has the fork's targets: they are background_label_id where
    no 1 is, and with NONE an image's ones begin at place image · P among all.
    Source: weiliu89/caffe multibox_loss_layer.cpp.
    """

    bottoms = Count(4, 4)
    no_gradient = (2, 3)
    whole_numbers = (3,)
    is_loss = True
    ignored = {"loss_param.ignore_label": "the fork does not read it here"}
    refused = {"multibox_loss_param.objectness_score": REFINE}
    differences = (
        "each forward matches anew; the fork keeps the matches of the one before until a backward; "
        "equal losses: by prior; with map_object_to_agnostic any label is accepted"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.multibox_loss_param
        kind = pb.MultiBoxLossParameter
        if not param.HasField("num_classes") or param.num_classes < 1:
            raise self.error(f"num_classes {param.num_classes} must be given and positive")
        if param.HasField("objectness_score"):
            raise self.error(f"objectness_score is refused: {REFINE}")
        self.read_loss_param()
        self.classes, self.shared = param.num_classes, param.share_location
        # The fork holds it as an int: 4294967295 is -1, no background.
        self.background = (param.background_label_id + 2**31) % 2**32 - 2**31
        self.mining = param.mining_type
        if param.HasField("do_neg_mining") and param.do_neg_mining != bool(self.mining):
            raise self.error(
                f"do_neg_mining {str(param.do_neg_mining).lower()} contradicts mining_type "
                f"{kind.MiningType.Name(self.mining)}"
            )
        if self.mining != kind.NONE and not self.shared:
            raise self.error("mining needs share_location: true, or mining_type: NONE")
        self.softmax = param.conf_loss_type == kind.SOFTMAX
        if self.softmax and not 0 <= self.background < self.classes:
            raise self.error(
                f"background_label_id {self.background} must be one of the {self.classes} classes "
                f"(num_classes), 0 to {self.classes - 1}, with SOFTMAX"
            )
        self.agnostic = param.map_object_to_agnostic
        if self.agnostic and self.classes != (wanted := 2 if self.background >= 0 else 1):
            raise self.error(
                f"map_object_to_agnostic needs num_classes {wanted}, not {self.classes}"
            )
        if self.mining == kind.HARD_EXAMPLE and param.sample_size <= 0:
            raise self.error(f"sample_size {param.sample_size} must be positive")
        self.code = param.code_type
        self.per_prediction = param.match_type == kind.PER_PREDICTION
        given = list(self.param.propagate_down) or [True, True]
        self.parts = given[0], given[1]
        return ()

    @classmethod
    def complete(cls, param: pb.LayerParameter, source: str) -> None:
        super().complete(param, source)
        if not param.propagate_down:
            param.propagate_down.extend([True, True, False, False])

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if math.prod(bottoms[3]) % TRUTH or bottoms[3][-1] != TRUTH:
            raise self.shape_error(
                f"{self.bottom_name(3)} {bottoms[3]} must be (1, 1, boxes, {TRUTH})"
            )
        return super().reshape(bottoms)

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        where, scores, priors, variances = self.read(bottoms)
        number, count = scores.shape[:2]
        truth = self._boxes(bottoms[3], number)
        matched, nearest = self._matched(single(where), priors, variances, truth)
        negative = torch.zeros_like(matched[:, 0], dtype=torch.bool)
        if self.mining:
            matched[:, 0], negative = self._mined(
                where, scores, priors, variances, truth, matched[:, 0], nearest
            )
        image, slot, prior = (matched >= 0).nonzero(as_tuple=True)
        box = matched[image, slot, prior]
        normalizers: dict[int, int] = {
            pb.LossParameter.VALID: len(box),
            pb.LossParameter.FULL: number * count,
            pb.LossParameter.BATCH_SIZE: number,
            pb.LossParameter.NONE: 1,
        }
        loss = where.new_zeros((), dtype=priors.dtype)
        if self.parts[0] and len(box):
            difference = self._differences(
                where[image, prior, slot], priors[prior], variances[prior], truth.boxes[box]
            )
            loss = self.param.multibox_loss_param.loc_weight * self._smooth(difference).sum()
        if self.parts[1]:
            label = self._labels(truth.label[box])
            loss = loss + self._scores_loss(scores, image, prior, label, negative)
        return loss / max(1, normalizers[self.normalization])

    def _boxes(self, bottom: Tensor, number: int) -> Truth:
        """The boxes of the batch's images, difficult ones if they count."""
        truth = truth_of(self, bottom, 3, self.background)
        wanted = (truth.image >= 0) & (truth.image < number)
        if not self.param.multibox_loss_param.use_difficult_gt:
            wanted &= ~truth.difficult
        truth = Truth(*(x[wanted] for x in truth))
        strange = ((truth.label < 0) | (truth.label >= self.classes)).nonzero()
        if len(strange) and not self.agnostic:
            raise self.error(
                f"label {int(truth.label[strange[0, 0]])} in {self.bottom_name(3)} is not among "
                f"the {self.classes} classes: 0 to {self.classes - 1}"
            )
        return truth

    def _labels(self, labels: Tensor) -> Tensor:
        return torch.full_like(labels, self.background + 1) if self.agnostic else labels

    def _decoded(self, where: Tensor, priors: Tensor, variances: Tensor) -> Tensor:
        self.require_sizes(priors, self.code)
        inside = self.param.multibox_loss_param.encode_variance_in_target
        return boxes.decode(where if inside else where * variances, priors, self.code)

    def _matched(
        self, where: Tensor, priors: Tensor, variances: Tensor, truth: Truth
    ) -> tuple[Tensor, Tensor]:
        """The number of the box that each prior is matched with (N, 1 or classes, P), negative for
        none; and its overlap (N, P), which mining needs.
        """
        param = self.param.multibox_loss_param
        number = len(where)
        threshold = param.overlap_threshold if self.per_prediction else None
        inside = param.ignore_cross_boundary_bbox
        if self.shared or param.use_prior_for_matching:
            candidates = priors
            if not param.use_prior_for_matching:
                candidates = self._decoded(where[:, :, 0], priors, variances)
            found = boxes.match(candidates, truth.boxes, truth.image, number, threshold, inside)
            matched = found.boxes[:, None]
            if not self.shared:
                labels = truth.label.new_full((len(truth.label) + 1,), -1)
                labels[:-1] = truth.label
                own = torch.arange(self.classes, device=labels.device)[:, None]
                matched = torch.where(labels[matched] == own, matched, boxes.UNMATCHED)
            return matched, found.overlaps
        matched = truth.label.new_full((number, self.classes, len(priors)), boxes.UNMATCHED)
        for label in range(self.classes):
            mine = (truth.label == label).nonzero()[:, 0]
            candidates = self._decoded(where[:, :, label], priors, variances)
            found = boxes.match(
                candidates, truth.boxes[mine], truth.image[mine], number, threshold, inside
            )
            if len(mine):
                chosen = found.boxes
                matched[:, label] = torch.where(chosen >= 0, mine[chosen.clamp(min=0)], chosen)
        return matched, found.overlaps

    def _differences(
        self, where: Tensor, priors: Tensor, variances: Tensor, truth: Tensor
    ) -> Tensor:
        """Predicted less wanted locations of matched priors: all (M, 4)."""
        param = self.param.multibox_loss_param
        wanted = boxes.encode(truth, priors, self.code) / variances
        found = where
        if param.encode_variance_in_target:
            # The fork does not divide the gradient.
            found = where + (where / variances - where).detach()
        difference = found - wanted
        if param.bp_inside:
            edge = priors
            if not param.use_prior_for_matching:
                edge = self._decoded(single(where), priors, variances)
            difference = torch.where((edge < 0) | (edge > 1), 0, difference)
        return difference

    def _smooth(self, difference: Tensor) -> Tensor:
        if self.param.multibox_loss_param.loc_loss_type == pb.MultiBoxLossParameter.L2:
            return difference.square() / 2
        return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")

    def _mined(
        self,
        where: Tensor,
        scores: Tensor,
        priors: Tensor,
        variances: Tensor,
        truth: Truth,
        matched: Tensor,
        nearest: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The matches that stay, and which priors are negatives: (N, P) both."""
        param = self.param.multibox_loss_param
        hard = self.mining == pb.MultiBoxLossParameter.HARD_EXAMPLE
        positive = matched >= 0
        fed = torch.zeros_like(matched[:, 0], dtype=torch.bool)
        fed[truth.image] = True
        losses = self._losses(single(scores), matched, truth)
        if hard:
            image, prior = positive.nonzero(as_tuple=True)
            difference = self._differences(
                single(where)[image, prior, 0],
                priors[prior],
                variances[prior],
                truth.boxes[matched[image, prior]],
            )
            losses[image, prior] += self._smooth(difference).sum(1)
            eligible = fed[:, None].expand_as(matched)
            most = eligible.sum(1).clamp(max=param.sample_size)
        else:
            eligible = fed[:, None] & (matched == boxes.UNMATCHED) & (nearest < param.neg_overlap)
            # In single precision, as the fork: 10 · 0.7 is 7 there.
            wanted = positive.sum(1).to(torch.float32) * param.neg_pos_ratio
            most = torch.minimum(wanted.clamp(min=0).long(), eligible.sum(1))
        image, prior = eligible.nonzero(as_tuple=True)
        order = losses[image, prior].argsort(descending=True, stable=True)
        image, prior = image[order], prior[order]
        if param.HasField("nms_param") and param.nms_param.nms_threshold > 0:
            among = boxes.places_within(image) < param.nms_param.top_k
            if param.nms_param.top_k < 0:
                among = torch.ones_like(among)
            image, prior = image[among], prior[among]
            candidates = priors[prior]
            if not param.use_prior_for_nms:
                candidates = self._decoded(
                    single(where)[image, prior, 0], candidates, variances[prior]
                )
            large = boxes.areas(candidates) >= boxes.SMALLEST
            image, prior, candidates = image[large], prior[large], candidates[large]
            kept = boxes.suppress(candidates, image, param.nms_param.nms_threshold)
            image, prior = image[kept], prior[kept]
        among = boxes.places_within(image) < most[image]
        chosen = torch.zeros_like(positive)
        chosen[image[among], prior[among]] = True
        negative = chosen & (matched == boxes.UNMATCHED)
        if hard:
            matched = torch.where(positive & ~chosen, boxes.UNMATCHED, matched)
        return matched, negative

    def _losses(self, scores: Tensor, matched: Tensor, truth: Truth) -> Tensor:
        """The loss of each prior's scores with its box's label, or the background's: (N, P)."""
        label = torch.full_like(matched, self.background)
        positive = matched >= 0
        label[positive] = self._labels(truth.label[matched[positive]])
        if self.softmax:
            own = scores.gather(2, label[..., None])[..., 0]
            return (scores.logsumexp(2) - own).clamp(max=-math.log(FLT_MIN))
        target = (label[..., None] == torch.arange(self.classes, device=label.device)).to(scores)
        return F.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(2)

    def _scores_loss(
        self, scores: Tensor, image: Tensor, prior: Tensor, label: Tensor, negative: Tensor
    ) -> Tensor:
        """Of the matched priors with their labels, and of the negatives; of all without mining."""
        number, count, classes = scores.shape
        if self.mining:
            among = negative.nonzero(as_tuple=True)
            scores = torch.cat([scores[image, prior], scores[among]])
            label = torch.cat([label, label.new_full((len(among[0]),), self.background)])
            row = torch.arange(len(scores), device=scores.device)
        else:
            # The matches are by image, class and prior: of several of one prior the last counts.
            row = image * count + prior
            scores = scores.reshape(-1, classes)
        if self.softmax:
            wanted = label
            if not self.mining:
                wanted = label.new_full((number * count,), self.background)
                wanted = wanted.scatter_reduce(0, row, label, "amax", include_self=False)
            own = F.log_softmax(scores, 1).gather(1, wanted[:, None])
            floor: Tensor = gradients.Floor.apply(own, math.log(FLT_MIN))  # type: ignore[no-untyped-call]
            return -floor.sum()
        target = torch.full_like(scores, self.background).flatten()
        inside = label >= 0
        start = row * classes if self.mining else image * count + prior * classes
        target[(start + label)[inside]] = 1
        target = target.view_as(scores)
        return F.binary_cross_entropy_with_logits(scores, target, reduction="sum")
