"""SSD's DetectionEvaluate: which detections are true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.forks.image_sizes import check_resize, names_and_sizes, resized
from converters.layers.forks.predictions import (
    DETECTION,
    EVERY_SIZE,
    TRUTH,
    Truth,
    register,
    single,
    truth_of,
)
from converters.layers.registry import BlobSpec, Count, Layer, LayerState, Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from converters.layers.forks.arithmetic import boxes

EVALUATION = 5
"""Columns of a row."""


@register("DetectionEvaluate", "detection_evaluate_param")
class DetectionEvaluate(Layer):
    """Rows (image, label, score, true positive, false positive), one for each detection.

    The first rows, one for each class but the background, are (-1, label, boxes of it, -1, -1);
    difficult boxes count with `evaluate_difficult_gt`. A detection is true if the box of its image
    and label that it overlaps most, by `overlap_threshold` or more, is the best of no detection of
    a higher score; where that box is difficult and does not count, it is neither. With a
    `name_size_file` (a line an image: name, height, width) boxes are compared in pixels, as
    `resize_param` says they lie in the image; the images with detections take its lines in turn.
    `gmnet_pt.solver.detection` makes average precisions of the rows.
    Source: weiliu89/caffe detection_evaluate_layer.cpp.
    """

    origin = "SSD"
    bottoms = Count(2, 2)
    no_gradient = (0, 1)
    whole_numbers = (0, 1)
    in_place = False
    needs_host = EVERY_SIZE
    differences = "equal scores: in the order of the rows; the files are read at the first forward"

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.detection_evaluate_param
        if not param.HasField("num_classes") or param.num_classes < 1:
            raise self.error(f"num_classes {param.num_classes} must be given and positive")
        if not param.overlap_threshold > 0:
            raise self.error(f"overlap_threshold {param.overlap_threshold} must be positive")
        self.background = (param.background_label_id + 2**31) % 2**32 - 2**31
        self.labels = [c for c in range(param.num_classes) if c != self.background]
        check_resize(self, param)
        self.sizes: list[tuple[int, int]] = []
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for index, (shape, width) in enumerate(zip(bottoms, (DETECTION, TRUTH))):
            if len(shape) != 4 or shape[:2] != (1, 1) or shape[3] != width:
                raise self.shape_error(
                    f"{self.bottom_name(index)} {shape} must be (1, 1, boxes, {width})"
                )
        return [(1, 1, len(self.labels) + bottoms[0][2], EVALUATION)]

    def state_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        in_pixels = self.param.detection_evaluate_param.name_size_file
        return {"images": (1,)} if in_pixels else {}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param = self.param.detection_evaluate_param
        rows = single(bottoms[0])[0, 0]
        truth = self._truth(bottoms[1])
        image, label = rows[:, 0].long(), rows[:, 1].long()
        known = rows[:, 0].trunc() != -1
        if bool((known & (label == self.background)).any()):
            raise self.error(
                f"{self.bottom_name(0)} has a detection with label {self.background}, which is the "
                "background"
            )
        counted = truth.label if param.evaluate_difficult_gt else truth.label[~truth.difficult]
        counts = (counted[:, None] == torch.tensor(self.labels, device=counted.device)).sum(0)
        overlap = self._overlaps(state, rows[:, 3:7], image, known, truth)
        same = (image[:, None] == truth.image) & (label[:, None] == truth.label)
        valid = known & (label != -1)
        # By score where there are boxes to find, in the order of the rows elsewhere.
        score = torch.where(same.any(1), rows[:, 2], 0)
        order = score.argsort(descending=True, stable=True)
        for key in (label, image):
            order = order[key[order].argsort(stable=True)]
        order = order[valid[order]]
        true, false = self._judged(overlap[order], same[order], truth)
        top = rows.new_zeros(len(self.labels) + int((rows[:, 1] != -1).sum()), EVALUATION)
        top[: len(self.labels)] = -1
        top[: len(self.labels), 1] = torch.tensor(self.labels).to(top)
        top[: len(self.labels), 2] = counts.to(top)
        judged = [image[order], label[order], rows[order, 2], true, false]
        top[len(self.labels) : len(self.labels) + len(order)] = torch.stack(
            [column.to(top) for column in judged], 1
        )
        return top[None, None]

    def _truth(self, bottom: Tensor) -> Truth:
        """The boxes before the first row of image -1."""
        ends = (single(bottom)[0, 0, :, 0].trunc() == -1).nonzero()[:1, 0]
        stop = int(ends) if len(ends) else bottom.shape[2]
        return truth_of(self, bottom[:, :, :stop], 1, self.background)

    def _judged(self, overlap: Tensor, same: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
        """Whether detections, the best first, are true and whether they are false positives."""
        param = self.param.detection_evaluate_param
        if not overlap.numel():
            true = torch.zeros(len(overlap), dtype=torch.bool, device=overlap.device)
            return true, ~true
        most, box = overlap.masked_fill(~same, -1).max(1)
        found = most >= param.overlap_threshold
        aside = found & truth.difficult[box] & (not param.evaluate_difficult_gt)
        # Those that find no box are in groups of their own.
        group = torch.where(
            found, box, overlap.shape[1] + torch.arange(len(box), device=box.device)
        )
        true = found & ~aside & (boxes.places_within(group) == 0)
        return true, ~true & ~aside

    def _overlaps(
        self, state: LayerState, found: Tensor, image: Tensor, known: Tensor, truth: Truth
    ) -> Tensor:
        """Of detections with all boxes (D, R)."""
        param = self.param.detection_evaluate_param
        if not param.name_size_file:
            return boxes.overlaps(found, truth.boxes)
        if not self.sizes:
            self.sizes = [size for _, size in names_and_sizes(self, param.name_size_file)]
        start = int(state.state["images"])
        present = torch.unique(image[known])
        lines = torch.tensor(self.sizes, device=found.device)
        line = (start + torch.arange(len(present), device=found.device)) % len(lines)
        state.state["images"].fill_((start + len(present)) % len(lines))
        both = []
        for these, images in ((found, image), (truth.boxes, truth.image)):
            place = torch.searchsorted(present, images).clamp(max=max(0, len(present) - 1))
            sizes = lines[line[place]] if len(present) else lines[:1].expand(len(these), 2)
            both.append(boxes.in_pixels(these, sizes, resized(param)))
        return boxes.overlaps_in_pixels(*both)
