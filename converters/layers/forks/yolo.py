"""YOLO's detections: Yolov3DetectionOutput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from converters.layers.forks.arithmetic import suppression

register = Family("#fcbba1")

ROW = 7


@register("Yolov3DetectionOutput", "yolov3_detection_output_param")
class Yolov3DetectionOutput(Layer):
    """Rows (image, label, score, xmin, ymin, xmax, ymax) of the boxes that YOLO's maps hold.

    Bottom t has, for each of its `num_box` anchors, maps x, y, w, h, objectness and a score a
    class. At (i, j) of maps (h, w) an anchor (a, b) has the box centre ((j + σ(x)) / w,
    (i + σ(y)) / h) and size (exp(w) · a / (w · scale), exp(h) · b / (h · scale)), and a class the
    score σ(objectness) · σ(class); `mask` says which anchors of `biases` are bottom t's, whose
    `anchors_scale` is the t-th. Scores above `confidence_threshold` are kept in falling order, and
    of boxes that overlap by `nms_threshold` or more, of any class, the first. Labels count from 1.
    Without detections there is a row an image: its number, then six times -1.
    Source: eric612/MobileNet-YOLO yolov3_detection_output_layer.cpp.
    """

    origin = "MobileNet-YOLO"
    needs_host = "has tops whose size depends on the data"
    bottoms = Count(1, None)
    in_place = False
    refused = {
        "yolov3_detection_output_param.gaussian_box": "the fork's code reads what it never sets"
    }
    differences = (
        "the images of a batch are taken one by one, with their number; the fork suppresses boxes "
        "across images, all in image 0; equal scores: by bottom, image, place, anchor, class"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.yolov3_detection_output_param
        if not param.HasField("num_classes") or param.num_classes < 1:
            raise self.error(f"num_classes {param.num_classes} must be given and positive")
        if param.gaussian_box:
            raise self.error("gaussian_box is refused: the fork's code reads what it never sets")
        if param.mask_group_num != len(bottoms):
            raise self.error(
                f"mask_group_num {param.mask_group_num} must be the number of bottoms, "
                f"{len(bottoms)}"
            )
        if len(param.anchors_scale) < len(bottoms):
            raise self.error(
                f"anchors_scale {list(param.anchors_scale)} must have one value for each of the "
                f"{len(bottoms)} bottoms"
            )
        group = len(param.mask) // param.mask_group_num
        anchors = len(param.biases) // 2
        self.anchors: list[list[tuple[float, float]]] = []
        for index in range(len(bottoms)):
            chosen = list(param.mask)[index * group : index * group + param.num_box]
            if len(chosen) < param.num_box or any(one >= anchors for one in chosen):
                raise self.error(
                    f"mask {list(param.mask)} must have {param.num_box} places of the {anchors} "
                    f"anchors in biases for {self.bottom_name(index)}, from its {index * group}. on"
                )
            self.anchors.append(
                [(param.biases[2 * one], param.biases[2 * one + 1]) for one in chosen]
            )
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.yolov3_detection_output_param
        maps = param.num_box * (5 + param.num_classes)
        for index, shape in enumerate(bottoms):
            if len(shape) != 4 or shape[0] != bottoms[0][0] or shape[1] != maps:
                raise self.shape_error(
                    f"{self.bottom_name(index)} {shape} must be ({bottoms[0][0]}, {maps}, h, w): "
                    f"{param.num_box} boxes of 5 + {param.num_classes} maps"
                )
        return [(1, 1, 1, ROW)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        param = self.param.yolov3_detection_output_param
        boxes, scores = zip(*map(self._decoded, bottoms, self.anchors, param.anchors_scale))
        rows = [
            self._rows(image, torch.cat(of_image), torch.cat(score_of))
            for image, (of_image, score_of) in enumerate(zip(zip(*boxes), zip(*scores)))
        ]
        if any(map(len, rows)):
            return torch.cat(rows).view(1, 1, -1, ROW)
        none = bottoms[0].new_full((len(bottoms[0]), ROW), -1)
        none[:, 0] = torch.arange(len(none), device=none.device)
        return none.view(1, 1, -1, ROW)

    def _decoded(
        self, x: Tensor, anchors: Sequence[tuple[float, float]], scale: int
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, h·w·anchors, 4) as corners, and scores (N, h·w·anchors, classes)."""
        number, _, height, width = x.shape
        # (N, h, w, anchors, 5 + classes): the order in which the fork finds them.
        x = x.detach().view(number, len(anchors), -1, height, width).permute(0, 3, 4, 1, 2)
        grid = torch.stack(
            torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), 2
        ).to(x)
        size = x.new_tensor([width, height])
        centre = (x[..., :2].sigmoid() + grid[:, :, None]) / size
        half = x[..., 2:4].exp() * x.new_tensor(anchors) / (size * scale) / 2
        scores = x[..., 5:].sigmoid() * x[..., 4:5].sigmoid()
        boxes = torch.cat([centre - half, centre + half], 4)
        return boxes.reshape(number, -1, 4), scores.reshape(number, -1, x.shape[-1] - 5)

    def _rows(self, image: int, boxes: Tensor, scores: Tensor) -> Tensor:
        param = self.param.yolov3_detection_output_param
        place, label = (scores > param.confidence_threshold).nonzero(as_tuple=True)
        score, order = scores[place, label].sort(descending=True, stable=True)
        place, label = place[order], label[order]
        kept = suppression.greedy(boxes[place], param.nms_threshold)
        return torch.cat(
            [
                torch.stack([torch.full_like(score, image), (label + 1).to(score), score], 1)[kept],
                boxes[place][kept],
            ],
            1,
        )
