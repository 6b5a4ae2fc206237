"""Fields of ROIPooling, PSROIPooling, ROIAlign, Proposal, and of what R-FCN does to losses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import oracle
import torch
from field_checks import shows
from field_rows import (
    LABELS,
    SCORES,
    Row,
    build,
    infogain,
    loss,
    net_text,
    sigmoid_loss,
    write_matrix,
)
from oracle import Array

from converters.prototxt.text import parse_net
from fork_fields import Refused


def away(value: float) -> int:
    """To the nearest whole number, halves away from 0."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def roi_pooling(
    x: Array, regions: Array, height: int, width: int, scale: float, more: float = 0.0
) -> Array:
    """Region by region and bin by bin."""
    y = np.zeros((len(regions), x.shape[1], height, width))
    for r, (image, x1, y1, x2, y2) in enumerate(regions.reshape(-1, 5)):
        across, down = (x2 - x1 + 1) * more, (y2 - y1 + 1) * more
        left, top = away((x1 - across) * scale), away((y1 - down) * scale)
        right, bottom = away((x2 + across) * scale), away((y2 + down) * scale)
        bin_height = max(bottom - top + 1, 1) / height
        bin_width = max(right - left + 1, 1) / width
        for i, j in np.ndindex(height, width):
            rows = range(top + math.floor(i * bin_height), top + math.ceil((i + 1) * bin_height))
            columns = range(left + math.floor(j * bin_width), left + math.ceil((j + 1) * bin_width))
            values = [
                x[int(image), :, h, w]
                for h in rows
                for w in columns
                if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]
            ]
            y[r, :, i, j] = np.max(values, 0) if values else 0
    return y


def psroi_pooling(x: Array, regions: Array, out: int, group: int, scale: float) -> Array:
    """Region by region and bin by bin."""
    y = np.zeros((len(regions), out, group, group))
    for (r, c, i, j), _ in np.ndenumerate(y):
        image, x1, y1, x2, y2 = regions.reshape(-1, 5)[r]
        left, top = away(x1) * scale, away(y1) * scale
        bin_width = max((away(x2) + 1) * scale - left, 0.1) / group
        bin_height = max((away(y2) + 1) * scale - top, 0.1) / group
        first = math.floor(i * bin_height + top), math.floor(j * bin_width + left)
        last = math.ceil((i + 1) * bin_height + top), math.ceil((j + 1) * bin_width + left)
        map_ = x[int(image), (c * group + i) * group + j]
        part = map_[max(first[0], 0) : max(last[0], 0), max(first[1], 0) : max(last[1], 0)]
        y[r, c, i, j] = part.mean() if part.size else 0
    return y


def roi_align(
    x: Array, regions: Array, height: int, width: int, scale: float, more: float = 0.0
) -> Array:
    """Region by region and corner by corner of its bins."""
    y = np.zeros((len(regions), x.shape[1], height + 1, width + 1))
    for r, (image, x1, y1, x2, y2) in enumerate(regions.reshape(-1, 5)):
        across, down = (x2 - x1 + 1) * more, (y2 - y1 + 1) * more
        left, top = (x1 - across) * scale - 0.5, (y1 - down) * scale - 0.5
        wide, high = (x2 + across) * scale - 0.5 - left, (y2 + down) * scale - 0.5 - top
        for i, j in np.ndindex(height + 1, width + 1):
            h, w = top + i * high / height, left + j * wide / width
            inside = -0.5 <= h <= x.shape[2] - 0.5 and -0.5 <= w <= x.shape[3] - 0.5
            if wide <= 0 or high <= 0 or not inside:
                continue
            h, w = min(max(h, 0), x.shape[2] - 1), min(max(w, 0), x.shape[3] - 1)
            for k, m in np.ndindex(*x.shape[2:]):
                weight = max(0, 1 - abs(h - k)) * max(0, 1 - abs(w - m))
                y[r, :, i, j] += weight * x[int(image), :, k, m]
    return y


MAPS = ((4, 3, 9, 11), (12, 5))
"""Corners are 0 to 3 before they are scaled; half of the regions are malformed."""
ROW = "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 2.75 pad_ratio: 0.25 }"
POOLED = "pooled_h pooled_w spatial_scale pad_ratio"


def smooth(b: list[Array], normalizer: float) -> list[Array]:
    """Of (N, C): the loss, and each region's."""
    d = abs(b[0] - b[1]) if len(b) == 2 else abs(b[2] * (b[0] - b[1]))
    each = np.where(d < 1, d**2 / 2, d - 0.5).sum(1)
    return [np.array(each.sum() / normalizer), each.reshape(-1, 1, 1, 1)]


def with_regions(type_name: str, normalizer: float, ignored: int = -1) -> Row:
    def formula(b: list[Array], w: list[Array]) -> list[Array]:
        label = b[1].astype(int)
        p = oracle.softmax(b[0], 1)
        own = -np.log(np.take_along_axis(p, label[:, None], 1)[:, 0]) * (label != ignored)
        return [np.array(own.sum() / normalizer), p, own]

    given = "ignore_label: 1" if ignored == 1 else "pre_fixed_normalizer: 7"
    return Row(
        type_name,
        f"loss_param.{given.split(':')[0]} loss_param.normalization",
        f"loss_param {{ {given} normalization: {'NONE' if ignored == 1 else 'PRE_FIXED'} }} "
        "loss_weight: 1 loss_weight: 0 loss_weight: 0",
        (SCORES, LABELS),
        formula,
        tops=3,
        labels=3,
    )


def weighted(b: list[Array], w: list[Array]) -> list[Array]:
    """Over the labels that count, whatever they weigh."""
    label = b[1].astype(int)
    own = np.log(np.take_along_axis(oracle.softmax(b[0], 1), label[:, None], 1)[:, 0])
    weights = np.array([0.5, 3, 1.25])[label] * (label != 2)
    return [np.array(-(own * weights).sum() / (label != 2).sum())]


FIXED = "loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 7 }"

ROWS = [
    Row(
        "ROIPooling",
        POOLED,
        ROW,
        MAPS,
        lambda b, w: [roi_pooling(*b, 2, 3, 2.75, 0.25)],
        labels=4,
    ),
    Row(
        "PSROIPooling",
        "output_dim group_size spatial_scale",
        "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 2.75 }",
        ((4, 18, 9, 11), (12, 5)),
        lambda b, w: [psroi_pooling(*b, 2, 3, 2.75)],
        labels=4,
    ),
    Row("ROIAlign", POOLED, ROW, MAPS, lambda b, w: [roi_align(*b, 2, 3, 2.75, 0.25)], labels=4),
    Row(
        "SoftmaxWithLoss",
        "loss_param.pre_fixed_normalizer loss_param.normalization",
        FIXED,
        (SCORES, LABELS),
        loss(lambda x, counted: 7),
        labels=3,
    ),
    Row(
        "SoftmaxWithLoss",
        "loss_param.weight_by_label_freqs loss_param.class_weighting",
        "loss_param { weight_by_label_freqs: true ignore_label: 2 "
        "class_weighting: 0.5 class_weighting: 3 class_weighting: 1.25 }",
        (SCORES, LABELS),
        weighted,
        labels=3,
    ),
    Row(
        "InfogainLoss",
        "loss_param.pre_fixed_normalizer loss_param.normalization",
        f'infogain_loss_param {{ source: "H.binaryproto" }} {FIXED}',
        (SCORES, LABELS),
        infogain(lambda x, counted: 7),
        labels=3,
        files=write_matrix,
    ),
    Row(
        "SigmoidCrossEntropyLoss",
        "pre_fixed_normalizer normalization",
        FIXED,
        ((2, 6), (2, 6)),
        # The formula divides by the number of values.
        lambda b, w: [sigmoid_loss(b, w)[0] * 12 / 7],
        labels=2,
    ),
    with_regions("SoftmaxWithLoss", 7),
    with_regions("SoftmaxWithLossOHEM", 7),
    with_regions("SoftmaxWithLossOHEM", 1, ignored=1),
    Row(
        "SoftmaxWithLossOHEM",
        "softmax_param.axis",
        "softmax_param { axis: 2 }",
        ((2, 4, 3), LABELS),
        loss(lambda x, counted: counted.size, axis=2),
        labels=3,
    ),
    Row(
        "SoftmaxWithLossOHEM",
        "loss_param.normalize",
        "loss_param { normalize: false }",
        (SCORES, LABELS),
        loss(lambda x, counted: len(x)),
        labels=3,
    ),
    Row(
        "SmoothL1LossOHEM",
        "pre_fixed_normalizer normalization",
        f"{FIXED} loss_weight: 1 loss_weight: 0",
        ((6, 8),) * 3,
        lambda b, w: smooth(b, 7),
        tops=2,
    ),
    Row(
        "SmoothL1LossOHEM",
        "normalize",
        "loss_param { normalize: false }",
        ((6, 8, 3, 1),) * 2,
        lambda b, w: [np.array(smooth([one.reshape(6, -1) for one in b], 6)[0])],
    ),
]


REFUSED = {
    ("ROIAlign", "roi_align_param"): Refused(
        "roi_align_param { pooled_h: 2 pooled_w: 2 }", MAPS, "roi_align_param is Synopsys's"
    )
}


def draw(folder: Path, kind: str, settings: str, tops: int, *bottoms: Array) -> list[Array]:
    """The tops for these bottoms."""
    text = net_text(kind, settings, [bottom.shape for bottom in bottoms], tops)
    net = build(parse_net(text, "net"), folder)
    feed = {f"b{i}": torch.from_numpy(np.array(bottom)) for i, bottom in enumerate(bottoms)}
    return [top.numpy() for top in net(feed, blobs=[f"t{i}" for i in range(tops)]).values()]


@shows(
    "BoxAnnotatorOHEM",
    "box_annotator_ohem_param.roi_per_img",
    "box_annotator_ohem_param.ignore_label",
)
def hardest(folder: Path) -> None:
    """Two of each image, one after another by falling loss; the first of equal ones."""
    regions = np.zeros((7, 5))
    regions[:, 0] = [0, 2, 0, 2, 0, 2, 2]
    losses = np.array([1.0, 5, 3, 5, 2, 5, 0])
    labels, weights = np.arange(1.0, 8), np.arange(14.0).reshape(7, 2) + 1
    for most, left_out in ((2, -9), (3, -1)):
        settings = f"roi_per_img: {most} ignore_label: {left_out}"
        found = draw(
            folder,
            "BoxAnnotatorOHEM",
            f"box_annotator_ohem_param {{ {settings} }}",
            2,
            *(regions, losses, labels, weights),
        )
        hard = [2, 4, 1, 3] if most == 2 else [2, 4, 0, 1, 3, 5]
        wanted = [left_out if n not in hard else labels[n] for n in range(7)]
        np.testing.assert_array_equal(found[0].ravel(), wanted)
        kept = [n in hard for n in range(7)]
        np.testing.assert_array_equal(found[1].reshape(7, 2), weights * np.array(kept)[:, None])


class Proposed:
    """A small Proposal, its inputs, and its regions by plain loops."""

    ratios, scales = (0.5, 1.0, 2.0), (8.0, 24.0)
    changed = (
        ("feat_stride", 5),
        ("base_size", 6),
        ("min_size", 12),
        ("pre_nms_topn", 9),
        ("post_nms_topn", 6),
        ("nms_thresh", 0.3),
    )

    def __init__(self, **given: float) -> None:
        self.given = {"feat_stride": 8, "base_size": 8, "min_size": 4, "pre_nms_topn": 60}
        self.given |= {"post_nms_topn": 12, "nms_thresh": 0.6} | given
        random = np.random.default_rng(8)
        self.scores = random.random((2, 12, 3, 4))
        self.deltas = random.standard_normal((2, 24, 3, 4)) * 0.3
        self.info = np.array([[26.0, 30.0, 1.5, 1.25]])

    def settings(self) -> str:
        fields = [f"{name}: {value}" for name, value in self.given.items()]
        fields += [f"ratio: {one}" for one in self.ratios]
        fields += [f"scale: {one}" for one in self.scales]
        return f"proposal_param {{ {' '.join(fields)} }}"

    def anchors(self) -> list[tuple[float, float, float, float]]:
        base = self.given["base_size"]
        found = []
        for ratio in self.ratios:
            width = math.sqrt(base * base / ratio)
            for scale in self.scales:
                wide = int(width * scale / base - 1 + 0.5) / 2
                high = int(width * ratio * scale / base - 1 + 0.5) / 2
                middle = (base - 1) / 2
                found.append((middle - wide, middle - high, middle + wide, middle + high))
        return found

    def rows(self) -> tuple[list[list[float]], list[float]]:
        """Regions and scores, box by box."""
        rows: list[list[float]] = []
        chances: list[float] = []
        for image in range(2):
            boxes = []
            for h, w in np.ndindex(3, 4):
                for a, anchor in enumerate(self.anchors()):
                    boxes.append(self._box(image, h, w, a, anchor))
            boxes.sort(key=lambda box: -box[4])
            kept: list[list[float]] = []
            for box in boxes[: int(self.given["pre_nms_topn"])]:
                if all(self._overlap(box, other) <= self.given["nms_thresh"] for other in kept):
                    kept.append(box)
            for box in kept[: int(self.given["post_nms_topn"])]:
                rows.append([image, *box[:4]])
                chances.append(box[4])
        return rows, chances

    def _box(self, image: int, h: int, w: int, a: int, anchor: tuple[float, ...]) -> list[float]:
        stride = self.given["feat_stride"]
        x1, y1, x2, y2 = (c + s * stride for c, s in zip(anchor, (w, h, w, h)))
        dx, dy, dw, dh = self.deltas[image, 4 * a : 4 * a + 4, h, w]
        wide, high = x2 - x1 + 1, y2 - y1 + 1
        cx, cy = x1 + wide / 2 + dx * wide, y1 + high / 2 + dy * high
        wide, high = wide * math.exp(dw), high * math.exp(dh)
        limit_y, limit_x = self.info[0, :2] - 1
        box = [
            min(max(cx - wide / 2, 0), limit_x),
            min(max(cy - high / 2, 0), limit_y),
            min(max(cx + wide / 2, 0), limit_x),
            min(max(cy + high / 2, 0), limit_y),
        ]
        least = self.given["min_size"] * self.info[0, 2:]
        large = box[3] - box[1] + 1 >= least[0] and box[2] - box[0] + 1 >= least[1]
        return [*box, self.scores[image, 6 + a, h, w] * large]

    @staticmethod
    def _overlap(a: list[float], b: list[float]) -> float:
        if a[0] > b[2] or a[1] > b[3] or a[2] < b[0] or a[3] < b[1]:
            return 0.0
        shared = (min(a[2], b[2]) - max(a[0], b[0]) + 1) * (min(a[3], b[3]) - max(a[1], b[1]) + 1)
        areas = [(one[2] - one[0] + 1) * (one[3] - one[1] + 1) for one in (a, b)]
        return shared / (sum(areas) - shared)


@shows(
    "Proposal",
    "proposal_param.ratio",
    "proposal_param.scale",
    *(f"proposal_param.{name}" for name, _ in Proposed.changed),
)
def proposed(folder: Path) -> None:
    """As it is, and with each field changed, which changes the regions."""
    seen = []
    for change in ({}, *({name: value} for name, value in Proposed.changed)):
        case = Proposed(**change)
        rows, chances = draw(
            folder, "Proposal", case.settings(), 2, case.scores, case.deltas, case.info
        )
        wanted_rows, wanted_chances = case.rows()
        np.testing.assert_allclose(rows, wanted_rows, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(chances, wanted_chances, rtol=1e-12)
        seen.append(rows.tolist())
    assert all(rows != seen[0] for rows in seen[1:])
