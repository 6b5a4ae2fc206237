"""SSD's arithmetic of boxes by loops over them, in double precision: an oracle, slow and plain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Box = Sequence[float]


# Draws -------------------------------------------------------------------------------------------


def _boxes(random: np.random.Generator, number: int, low: float = 0.0) -> Array:
    centre = random.uniform(low, 1 - low, (number, 2))
    half = random.uniform(0.08, 0.25, (number, 2))
    return np.concatenate([centre - half, centre + half], 1)


def predictions(
    number: int, priors: int, classes: int, shared: bool, seed: int, logits: bool = False
) -> list[Array]:
    """Locations, scores and priors with variances; some priors reach beyond the image."""
    random = np.random.default_rng(seed)
    where = random.standard_normal((number, priors * 4 * (1 if shared else classes))) * 0.4
    scores = random.standard_normal((number, priors, classes)) * 2
    if not logits:
        scores = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    boxes = _boxes(random, priors, 0.05)
    variances = random.uniform(0.1, 0.3, (priors, 4))
    return [
        where,
        scores.reshape(number, -1),
        np.stack([boxes.ravel(), variances.ravel()])[None],
    ]


def truth(classes: int, background: int, seed: int) -> Array:
    """Boxes of images 0 and 2, of one that is not there, and of none; some of them difficult."""
    random = np.random.default_rng(seed)
    images = [0, 2, 0, -1, 2, 0, 7]
    rows = np.zeros((len(images), 8))
    rows[:, 0] = images
    rows[:, 1] = random.choice([c for c in range(classes) if c != background], len(images))
    rows[:, 3:7] = _boxes(random, len(images), 0.2)
    rows[:, 7] = [0, 1, 1, 0, 0, 0, 0]
    return rows[None, None]


def found_and_true(classes: int, background: int, seed: int) -> tuple[Array, Array]:
    """Detections near and far from boxes, of images 0 to 3, and the boxes of images 0, 1 and 4."""
    random = np.random.default_rng(seed)
    labels = [c for c in range(classes) if c != background]
    boxes = np.zeros((12, 8))
    boxes[:, 0] = np.sort(random.choice([0, 1, 4], 12))
    boxes[:, 1] = random.choice(labels, 12)
    boxes[:, 3:7] = _boxes(random, 12)
    boxes[:, 7] = random.random(12) < 0.4
    boxes[10, 0] = -1  # nothing after it is read
    rows = np.zeros((40, 7))
    for row in rows:
        near = boxes[random.integers(0, 10)]
        row[0] = near[0] if random.random() < 0.8 else 3
        row[1] = near[1] if random.random() < 0.8 else random.choice(labels)
        row[3:] = near[3:7] + random.standard_normal(4) * 0.04
    rows[:, 2] = random.random(40)
    rows[7] = [2, -1, -1, -1, -1, -1, -1]
    rows[21, :2] = -1
    return rows[None, None], boxes[None, None]


# Boxes -------------------------------------------------------------------------------------------


def area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / (area(a) + area(b) - wide * high)


def decode(values: Box, prior: Box, code: str) -> list[float]:
    wide, high = prior[2] - prior[0], prior[3] - prior[1]
    if code == "CORNER":
        return [p + v for p, v in zip(prior, values)]
    if code == "CORNER_SIZE":
        return [p + v * s for p, v, s in zip(prior, values, (wide, high, wide, high))]
    x = values[0] * wide + (prior[0] + prior[2]) / 2
    y = values[1] * high + (prior[1] + prior[3]) / 2
    w, h = math.exp(values[2]) * wide, math.exp(values[3]) * high
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def encode(box: Box, prior: Box, code: str) -> list[float]:
    wide, high = prior[2] - prior[0], prior[3] - prior[1]
    if code == "CORNER":
        return [b - p for b, p in zip(box, prior)]
    if code == "CORNER_SIZE":
        return [(b - p) / s for b, p, s in zip(box, prior, (wide, high, wide, high))]
    return [
        ((box[0] + box[2]) / 2 - (prior[0] + prior[2]) / 2) / wide,
        ((box[1] + box[3]) / 2 - (prior[1] + prior[3]) / 2) / high,
        math.log((box[2] - box[0]) / wide),
        math.log((box[3] - box[1]) / high),
    ]


def suppressed(boxes: Sequence[Box], threshold: float, eta: float = 1.0) -> list[int]:
    """The places of those that are kept of boxes, the best first."""
    kept: list[int] = []
    for place, box in enumerate(boxes):
        if all(overlap(box, boxes[other]) <= threshold for other in kept):
            kept.append(place)
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return kept


def matches(
    candidates: Sequence[Box],
    boxes: Sequence[Box],
    threshold: float | None,
    inside: bool = False,
) -> tuple[list[int], list[float]]:
    """The box of each candidate (-1 none, -2 left out), and the overlap with it or the largest."""
    found = [-1] * len(candidates)
    table = []
    for place, candidate in enumerate(candidates):
        out = any(not 0 <= value <= 1 for value in candidate)
        if inside and out:
            found[place] = -2
        table.append([0.0 if inside and out else overlap(candidate, box) for box in boxes])
    near = [max([value for value in row if value > 1e-6], default=0.0) for row in table]
    free = list(range(len(boxes)))
    while free:
        best, pair = 1e-6, None
        for place, row in enumerate(table):
            for box in free:
                if found[place] == -1 and row[box] > best:
                    best, pair = row[box], (place, box)
        if pair is None:
            break
        found[pair[0]], near[pair[0]] = pair[1], best
        free.remove(pair[1])
    for place, row in enumerate(table):
        if found[place] == -1 and threshold is not None and len(boxes):
            box = max(range(len(boxes)), key=lambda b: (row[b], -b))
            if row[box] >= threshold and row[box] > 1e-6:
                found[place] = box
    return found, near


# Layers ------------------------------------------------------------------------------------------


def priors(
    height: int,
    width: int,
    sizes: Sequence[tuple[float, float]],
    variance: Sequence[float] = (0.1,),
    offset: float = 0.5,
    clip: bool = False,
    image: tuple[int, int] = (30, 50),
    step: tuple[float, float] | None = None,
) -> Array:
    down, across = step or (image[0] / height, image[1] / width)
    found = []
    for i in range(height):
        for j in range(width):
            for w, h in sizes:
                x, y = (j + offset) * across, (i + offset) * down
                box = [
                    (x - w / 2) / image[1],
                    (y - h / 2) / image[0],
                    (x + w / 2) / image[1],
                    (y + h / 2) / image[0],
                ]
                found += [min(max(v, 0), 1) for v in box] if clip else box
    single = np.array(variance, np.float32).astype(float)
    return np.array([[found, np.resize(single, len(found))]])


def detections(
    inputs: Sequence[Array],
    classes: int,
    share_location: bool = True,
    background_label_id: int = 0,
    code_type: str = "CORNER",
    nms_threshold: float = 0.3,
    eta: float = 1.0,
    top_k: int = -1,
    keep_top_k: int = -1,
    variance_encoded_in_target: bool = False,
    confidence_threshold: float = -math.inf,
) -> Array:
    where, scores, prior = inputs
    boxes, variances = prior[0].reshape(2, -1, 4)
    threshold, eta = float(np.float32(nms_threshold)), float(np.float32(eta))
    rows = []
    for image in range(len(where)):
        places = where[image].reshape(len(boxes), -1, 4)
        table = scores[image].reshape(len(boxes), classes)
        own = []
        for label in range(classes):
            if label == background_label_id:
                continue
            order = sorted(range(len(boxes)), key=lambda p: -table[p, label])
            order = [p for p in order if table[p, label] > confidence_threshold]
            order = order[:top_k] if top_k >= 0 else order
            decoded = []
            for p in order:
                values = places[p, 0 if share_location else label]
                if not variance_encoded_in_target:
                    values = values * variances[p]
                decoded.append(decode(values, boxes[p], code_type))
            for place in suppressed(decoded, threshold, eta):
                own.append([image, label, table[order[place], label], *decoded[place]])
        if 0 <= keep_top_k < len(own):
            own = sorted(own, key=lambda row: -row[2])[:keep_top_k]
        rows += sorted(own, key=lambda row: (row[1], -row[2]))
    if not rows:
        rows = [[image, *[-1] * 6] for image in range(len(where))]
    return np.array(rows, dtype=float)[None, None]


def _smooth(difference: float, kind: str) -> float:
    if kind == "L2" or abs(difference) < 1:
        return difference**2 / 2
    return abs(difference) - 0.5


def _cross_entropy(score: float, target: float) -> float:
    return max(score, 0) - score * target + math.log1p(math.exp(-abs(score)))


def loss(
    inputs: Sequence[Array],
    num_classes: int,
    share_location: bool = True,
    loc_loss_type: str = "SMOOTH_L1",
    conf_loss_type: str = "SOFTMAX",
    loc_weight: float = 1.0,
    match_type: str = "PER_PREDICTION",
    overlap_threshold: float = 0.5,
    use_prior_for_matching: bool = True,
    background_label_id: int = 0,
    use_difficult_gt: bool = True,
    do_neg_mining: bool = True,
    neg_pos_ratio: float = 3.0,
    neg_overlap: float = 0.5,
    code_type: str = "CORNER",
    encode_variance_in_target: bool = False,
    map_object_to_agnostic: bool = False,
    ignore_cross_boundary_bbox: bool = False,
    bp_inside: bool = False,
    mining_type: str = "MAX_NEGATIVE",
    nms_threshold: float = 0.0,
    top_k: int = 0,
    sample_size: int = 64,
    use_prior_for_nms: bool = False,
    normalization: str = "VALID",
    normalize: bool = True,
) -> float:
    """The loss of a whole batch; inputs are locations, scores, priors, boxes."""
    number, background = len(inputs[0]), background_label_id
    boxes, variances = inputs[2][0].reshape(2, -1, 4)
    count = len(boxes)
    where = inputs[0].reshape(number, count, -1, 4)
    scores = inputs[1].reshape(number, count, num_classes)
    threshold = float(np.float32(overlap_threshold)) if match_type == "PER_PREDICTION" else None

    def decoded(image: int, prior: int, label: int) -> list[float]:
        values = where[image, prior, label]
        if not encode_variance_in_target:
            values = values * variances[prior]
        return decode(values, boxes[prior], code_type)

    def softmax_loss(row: Array, label: int) -> float:
        return math.log(np.exp(row - row.max()).sum()) + float(row.max() - row[label])

    def score_loss(row: Array, label: int) -> float:
        if conf_loss_type == "SOFTMAX":
            return softmax_loss(row, label)
        return sum(_cross_entropy(x, float(c == label)) for c, x in enumerate(row))

    def place_loss(image: int, prior: int, label: int, box: Box) -> float:
        total = 0.0
        wanted = encode(box, boxes[prior], code_type)
        edge = boxes[prior] if use_prior_for_matching else decoded(image, prior, label)
        for k in range(4):
            pred = where[image, prior, label, k]
            if encode_variance_in_target:
                pred /= variances[prior, k]
            if not (bp_inside and not 0 <= edge[k] <= 1):
                total += _smooth(pred - wanted[k] / variances[prior, k], loc_loss_type)
        return total

    place_total, negatives = 0.0, 0.0
    positives: list[tuple[int, int, int]] = []
    chosen_negatives: list[tuple[int, int]] = []
    for image in range(number):
        rows = [row for row in inputs[3].reshape(-1, 8) if int(row[0]) == image]
        rows = [row for row in rows if use_difficult_gt or not row[7]]
        if not rows:
            continue
        labels = [int(row[1]) for row in rows]
        found: dict[int, list[int]] = {}
        slots = [0] if share_location else [c for c in range(num_classes) if c != background]
        if use_prior_for_matching:
            all_of, near = matches(
                boxes, [row[3:7] for row in rows], threshold, ignore_cross_boundary_bbox
            )
            for slot in slots:
                found[slot] = [
                    m if share_location or (m >= 0 and labels[m] == slot) else -1 for m in all_of
                ]
        else:
            for slot in slots:
                mine = [n for n, label in enumerate(labels) if share_location or label == slot]
                candidates = [decoded(image, p, slot) for p in range(count)]
                taken, near = matches(
                    candidates, [rows[n][3:7] for n in mine], threshold, ignore_cross_boundary_bbox
                )
                found[slot] = [mine[m] if m >= 0 else m for m in taken]
        if mining_type != "NONE":
            own = found[0]
            losses = []
            for p in range(count):
                label = labels[own[p]] if own[p] >= 0 else background
                label = background + 1 if own[p] >= 0 and map_object_to_agnostic else label
                value = score_loss(scores[image, p], label)
                if mining_type == "HARD_EXAMPLE" and own[p] >= 0:
                    value += place_loss(image, p, 0, rows[own[p]][3:7])
                losses.append(value)
            hard = mining_type == "HARD_EXAMPLE"
            bound = float(np.float32(neg_overlap))
            able = [p for p in range(count) if hard or (own[p] == -1 and near[p] < bound)]
            most = int(np.float32(sum(m >= 0 for m in own)) * np.float32(neg_pos_ratio))
            most = min(sample_size if hard else most, len(able))
            able.sort(key=lambda p: -losses[p])
            if nms_threshold > 0:
                able = able[:top_k] if top_k >= 0 else able
                shown = {
                    p: list(boxes[p]) if use_prior_for_nms else decoded(image, p, 0) for p in able
                }
                able = [p for p in able if area(shown[p]) >= 1e-5]
                kept = suppressed([shown[p] for p in able], float(np.float32(nms_threshold)))
                able = [able[place] for place in kept]
            chosen = set(able[:most])
            chosen_negatives += [(image, p) for p in sorted(chosen) if own[p] == -1]
            if hard:
                found[0] = [-1 if m >= 0 and p not in chosen else m for p, m in enumerate(own)]
        for slot in slots:
            for p, m in enumerate(found[slot]):
                if m >= 0:
                    place_total += place_loss(image, p, slot, rows[m][3:7])
                    label = background + 1 if map_object_to_agnostic else labels[m]
                    positives.append((image, p, label))
    if mining_type != "NONE":
        chosen_rows = [*positives, *((image, p, background) for image, p in chosen_negatives)]
        for image, p, label in chosen_rows:
            if conf_loss_type == "SOFTMAX":
                negatives += softmax_loss(scores[image, p], label)
            else:
                for c, x in enumerate(scores[image, p]):
                    negatives += _cross_entropy(x, 1.0 if c == label else float(background))
    elif conf_loss_type == "SOFTMAX":
        wanted = np.full((number, count), background)
        for image, p, label in positives:
            wanted[image, p] = label
        for image, p in np.ndindex(number, count):
            negatives += softmax_loss(scores[image, p], int(wanted[image, p]))
    else:
        targets = np.full(number * count * num_classes, float(background))
        for image, p, label in positives:
            targets[image * count + p * num_classes + label] = 1
        for x, target in zip(scores.ravel(), targets):
            negatives += _cross_entropy(x, target)
    mode = "BATCH_SIZE" if not normalize else normalization
    divisors = {
        "VALID": len(positives),
        "FULL": number * count,
        "BATCH_SIZE": number,
        "NONE": 1,
    }
    return (loc_weight * place_total + negatives) / max(1, divisors[mode])


def evaluation(
    det: Array,
    boxes: Array,
    classes: int,
    threshold: float = 0.5,
    difficult: bool = True,
    background: int = 0,
    sizes: Sequence[tuple[int, int]] | None = None,
    pad: tuple[int, int] | None = None,
    scale: tuple[int, int] | None = None,
    first_line: int = 0,
) -> Array:
    """The rows of DetectionEvaluate; its images take `sizes` in turn, from `first_line` on."""
    threshold = float(np.float32(threshold))
    truth_rows = []
    for row in boxes.reshape(-1, 8):
        if int(row[0]) == -1:
            break
        truth_rows.append(row)
    rows = []
    for label in range(classes):
        if label != background:
            counted = [row for row in truth_rows if row[1] == label and (difficult or not row[7])]
            rows.append([-1.0, label, len(counted), -1, -1])
    found = [row for row in det.reshape(-1, 7) if int(row[0]) != -1]
    for turn, image in enumerate(sorted({int(row[0]) for row in found})):
        size = sizes[(first_line + turn) % len(sizes)] if sizes else None

        def shown(box: Box, size: tuple[int, int] | None = size) -> tuple[list[float], float]:
            if size is None:
                return list(box), area(box)
            return _in_pixels(box, size, pad, scale)

        own = [row for row in found if int(row[0]) == image]
        for label in sorted({int(row[1]) for row in own} - {-1}):
            mine = [row for row in own if int(row[1]) == label]
            wanted = [row for row in truth_rows if int(row[0]) == image and int(row[1]) == label]
            if wanted:
                mine.sort(key=lambda row: -row[2])
            visited: set[int] = set()
            for row in mine:
                verdict = (0, 1)
                each = [_shared(shown(row[3:7]), shown(w[3:7]), size is not None) for w in wanted]
                if each and max(each) >= threshold:
                    best = each.index(max(each))
                    if not difficult and wanted[best][7]:
                        verdict = (0, 0)
                    elif best not in visited:
                        visited.add(best)
                        verdict = (1, 0)
                rows.append([image, label, row[2], *verdict])
    blank = sum(row[1] != -1 for row in det.reshape(-1, 7)) + classes - 1 - len(rows)
    return np.array(rows + [[0.0] * 5] * blank)[None, None]


def _shared(a: tuple[list[float], float], b: tuple[list[float], float], pixels: bool) -> float:
    if not pixels:
        return overlap(a[0], b[0])
    wide = min(a[0][2], b[0][2]) - max(a[0][0], b[0][0])
    high = min(a[0][3], b[0][3]) - max(a[0][1], b[0][1])
    shared = 1.0 if wide < 0 or high < 0 else (wide + 1) * (high + 1)
    return shared / (a[1] + b[1] - shared)


def _in_pixels(
    box: Box, size: tuple[int, int], pad: tuple[int, int] | None, scale: tuple[int, int] | None
) -> tuple[list[float], float]:
    height, width = size
    if scale:
        found = [
            min(max(v * s, 0), bound)
            for v, s, bound in zip(box, scale[::-1] * 2, (width, height) * 2)
        ]
        return found, area(found)
    if pad:
        if width / height > pad[1] / pad[0]:
            margin = (pad[0] - pad[1] * height / width) / 2 / pad[0]
            low, high = (0.0, margin), (1.0, 1 - margin)
        else:
            margin = (pad[1] - pad[0] * width / height) / 2 / pad[1]
            low, high = (margin, 0.0), (1 - margin, 1.0)
        if all(box[k] < high[k] and box[k + 2] > low[k] for k in (0, 1)):
            box = [(box[k] - low[k % 2]) / (high[k % 2] - low[k % 2]) for k in range(4)]
    found = [min(max(v, 0), 1) * s for v, s in zip(box, (width, height) * 2)]
    if found[2] < found[0] or found[3] < found[1]:
        return found, 0.0
    return found, (found[2] - found[0] + 1) * (found[3] - found[1] + 1)
