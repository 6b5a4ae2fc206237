"""Fields of Yolov3DetectionOutput."""

from __future__ import annotations

import math

import numpy as np
from field_rows import Row
from oracle import Array

from fork_fields import Refused

ANCHORS = [(10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0)]
MASK = [2, 3, 0, 1]
SCALES = [8, 4]
CLASSES, BOXES = 2, 2


def iou(a: list[float], b: list[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide < 0 or high < 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return wide * high / (area - wide * high)


def detections(bottoms: list[Array], confidence: float, nms: float) -> list[Array]:
    """Box by box, for a batch of one."""
    found = []
    for t, x in enumerate(bottoms):
        maps = x[0].reshape(BOXES, 5 + CLASSES, *x.shape[2:])
        height, width = x.shape[2:]
        for i, j, n in np.ndindex(height, width, BOXES):
            values = maps[n, :, i, j]
            sigmoid = 1 / (1 + np.exp(-values))
            a, b = ANCHORS[MASK[t * BOXES + n]]
            across, down = (j + sigmoid[0]) / width, (i + sigmoid[1]) / height
            wide = math.exp(values[2]) * a / (width * SCALES[t])
            high = math.exp(values[3]) * b / (height * SCALES[t])
            box = [across - wide / 2, down - high / 2, across + wide / 2, down + high / 2]
            for c in range(CLASSES):
                if (score := sigmoid[5 + c] * sigmoid[4]) > confidence:
                    found.append([0.0, c + 1.0, score, *box])
    kept: list[list[float]] = []
    for row in sorted(found, key=lambda row: -row[2]):
        if all(iou(row[3:], other[3:]) < nms for other in kept):
            kept.append(row)
    return [np.array(kept).reshape(1, 1, -1, 7)]


SETTINGS = (
    f"num_classes: {CLASSES} num_box: {BOXES} confidence_threshold: 0.2 nms_threshold: 0.3 "
    + " ".join(f"biases: {a} biases: {b}" for a, b in ANCHORS)
    + "".join(f" mask: {one}" for one in MASK)
    + "".join(f" anchors_scale: {one}" for one in SCALES)
)
SHAPES = ((1, 14, 3, 4), (1, 14, 6, 8))
PARAM = "yolov3_detection_output_param"

ROWS = [
    Row(
        "Yolov3DetectionOutput",
        "num_classes num_box confidence_threshold nms_threshold biases mask anchors_scale",
        f"{PARAM} {{ {SETTINGS} }}",
        SHAPES,
        lambda b, w: detections(b, 0.2, 0.3),
    ),
    Row(
        "Yolov3DetectionOutput",
        "mask_group_num",
        f"{PARAM} {{ {SETTINGS} mask_group_num: 1 }}",
        SHAPES[:1],
        lambda b, w: detections(b, 0.2, 0.3),
    ),
]
REFUSED = {
    ("Yolov3DetectionOutput", f"{PARAM}.gaussian_box"): Refused(
        f"{PARAM} {{ {SETTINGS} gaussian_box: true }}", SHAPES, "gaussian_box is refused"
    )
}
