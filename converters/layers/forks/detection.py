"""SSD's layers of boxes: PriorBox, DetectionOutput, MultiBoxLoss, DetectionEvaluate.

What they compute with boxes is in `arithmetic.boxes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf import text_format

from converters.errors import DataError
from converters.formats.detections import FORMS, Found, write_detections
from converters.layers.loss import FLT_MIN, NormalizedLoss
from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb
from converters.raw_text import decoded

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from converters.layers import gradients
    from converters.layers.forks.arithmetic import boxes

register = Family("#c7e9c0")

DETECTION = 7
FLT_MAX = 3.4028234663852886e38
TRUTH = 8
EVALUATION = 5
REFINE = "RefineDet's layer, with bottoms of its own, is not here"
EVERY_SIZE = "has tops whose size depends on the data"


class _Size(NamedTuple):
    width: float
    height: float


@register("PriorBox", "prior_box_param")
class PriorBox(Layer):
    """Boxes around the places of a map, as shares of the image: (1, 2, h·w·boxes·4).

    Around ((j + offset) · step_w, (i + offset) · step_h) there is, for each min_size m, a square of
    m; then one of √(m · max_size); then one of m · √r by m / √r for each aspect ratio r but 1, each
    followed by its inverse with `flip`. Sizes count as whole numbers, what is behind the point
    dropped. `clip` cuts boxes at the image's border. The second row has the variances of the first.
    Image and step are those of the fields, or else of the second bottom.
    Source: weiliu89/caffe prior_box_layer.cpp.
    """

    origin = "SSD"
    bottoms = Count(2, 2)
    no_gradient = (0, 1)
    in_place = False

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.prior_box_param
        least, most = list(param.min_size), list(param.max_size)
        if not least or any(not size > 0 for size in least):
            raise self.error(f"min_size {least} must be given and positive")
        if most and (len(most) != len(least) or any(b <= a for a, b in zip(least, most))):
            raise self.error(
                f"max_size {most} must have a larger value for each min_size {least}, or none"
            )
        if any(not ratio > 0 for ratio in param.aspect_ratio):
            raise self.error(f"aspect_ratio {list(param.aspect_ratio)} must be positive")
        self.variances = list(param.variance) or [pb.PriorBoxParameter(variance=[0.1]).variance[0]]
        if len(self.variances) not in (1, 4) or any(not v > 0 for v in self.variances):
            raise self.error(f"variance {self.variances} must be one positive value, or four")
        self.image = self._pair("img", "img_size")
        self.step = self._pair("step", "step")
        self.sizes = list(self._sizes(least, most))
        self._made: dict[object, Tensor] = {}
        return ()

    def _pair(self, stem: str, both: str) -> _Size | None:
        """The width and the height that fields give, together or each; None for none."""
        param = self.param.prior_box_param
        single = [f"{stem}_h", f"{stem}_w"]
        if any(map(param.HasField, single)):
            if param.HasField(both):
                raise self.error(f"give {both}, or {single[0]} and {single[1]}, not both")
            height, width = (getattr(param, name) for name in single)
        elif param.HasField(both):
            single = [both]
            height = width = getattr(param, both)
        else:
            return None
        if not (height > 0 and width > 0):
            raise self.error(f"{' and '.join(single)} must be positive")
        return _Size(width, height)

    def _sizes(self, least: Sequence[float], most: Sequence[float]) -> Sequence[_Size]:
        """The boxes of one place."""
        param = self.param.prior_box_param
        ratios = [1.0]
        for ratio in param.aspect_ratio:
            if all(abs(ratio - known) >= 1e-6 for known in ratios):
                ratios += [ratio, 1 / ratio] if param.flip else [ratio]
        found = []
        for index, size in enumerate(map(int, least)):
            found.append(_Size(size, size))
            if most:
                side = math.sqrt(size * int(most[index]))
                found.append(_Size(side, side))
            found += [
                _Size(size * math.sqrt(ratio), size / math.sqrt(ratio))
                for ratio in ratios
                if abs(ratio - 1) >= 1e-6
            ]
        return found

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for index, shape in enumerate(bottoms):
            if not 1 <= len(shape) <= 4:
                raise self.shape_error(f"{self.bottom_name(index)} {shape} must have 1 to 4 axes")
        height, width = _height_and_width(bottoms[0])
        return [(1, 2, height * width * len(self.sizes) * 4)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        shapes = [tuple(x.shape) for x in bottoms]
        kind = torch.promote_types(bottoms[0].dtype, torch.float32)
        key = (*map(_height_and_width, shapes), kind, bottoms[0].device)
        if key not in self._made:
            self._made = {key: self._boxes(shapes, bottoms[0].device).to(kind)}
        return self._made[key].clone()

    def _boxes(self, shapes: Sequence[Shape], device: torch.device) -> Tensor:
        height, width = _height_and_width(shapes[0])
        whole_height, whole_width = _height_and_width(shapes[1])
        image = self.image or _Size(whole_width, whole_height)
        step = self.step or _Size(image.width / width, image.height / height)
        offset = self.param.prior_box_param.offset
        along = [
            (torch.arange(number, device=device, dtype=torch.float64) + offset) * size
            for number, size in zip((width, height), step)
        ]
        x, y = along[0].expand(height, width), along[1][:, None].expand(height, width)
        places = [
            torch.stack(
                [
                    (x - size.width / 2) / image.width,
                    (y - size.height / 2) / image.height,
                    (x + size.width / 2) / image.width,
                    (y + size.height / 2) / image.height,
                ],
                -1,
            )
            for size in self.sizes
        ]
        found = torch.stack(places, 2).flatten()
        if self.param.prior_box_param.clip:
            found = found.clamp(0, 1)
        variances = self.variances if len(self.variances) == 4 else self.variances * 4
        columns = [torch.full_like(found[::4], value) for value in variances]
        return torch.stack([found, torch.stack(columns, 1).flatten()])[None]


def _height_and_width(shape: Shape) -> tuple[int, int]:
    """Those of a blob (num, channels, height, width), 1 where it has fewer axes."""
    _, _, height, width = shape[:4] + (1,) * (4 - len(shape))
    return height, width


def _single(x: Tensor) -> Tensor:
    """A bottom without gradient, in single precision at least."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


class _Predictions(Layer):
    """A layer of locations (N, P·4, or P·4 for each class), scores (N, P·classes) and priors."""

    origin = "SSD"
    in_place = False
    needs_host = EVERY_SIZE
    classes: int
    background: int
    shared: bool

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        where, scores, priors = bottoms[:3]
        if len(priors) < 3 or priors[1] != 2 or priors[2] % 4 or math.prod(priors[3:]) != 1:
            raise self.shape_error(
                f"{self.bottom_name(2)} {priors} must be (1, 2, 4 · priors): boxes and variances"
            )
        count = priors[2] // 4
        wanted = (count * 4 * (1 if self.shared else self.classes), count * self.classes)
        for index, (shape, size) in enumerate(zip((where, scores), wanted)):
            if shape[:2] != (where[0], size) or math.prod(shape[2:]) != 1:
                what = "4 values" if self.shared else f"4 values for each of {self.classes} classes"
                raise self.shape_error(
                    f"{self.bottom_name(index)} {shape} must be ({where[0]}, {size}): for each of "
                    f"the {count} priors "
                    f"{f'{self.classes} scores (num_classes)' if index else what}"
                )
        return [()]

    def read(self, bottoms: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Locations (N, P, 1 or classes, 4), scores (N, P, classes), priors, variances (P, 4)."""
        number = len(bottoms[0])
        priors, variances = _single(bottoms[2])[0].reshape(2, -1, 4)
        where = bottoms[0].reshape(number, len(priors), -1, 4)
        return where, bottoms[1].reshape(number, len(priors), -1), priors, variances

    def require_sizes(self, priors: Tensor, code: int) -> None:
        """Raise for a prior that has no size to multiply with (where that makes no GPU wait)."""
        if code == boxes.CORNER or priors.device.type != "cpu":
            return
        flat = (priors[:, 2:] <= priors[:, :2]).any(1).nonzero()
        if len(flat):
            place = int(flat[0])
            corners = ", ".join(f"{value:g}" for value in priors[place].tolist())
            raise self.error(
                f"prior {place} of {self.bottom_name(2)}, ({corners}), has no width or height"
            )


@register("DetectionOutput", "detection_output_param")
class DetectionOutput(_Predictions):
    """Rows (image, label, score, xmin, ymin, xmax, ymax) of the boxes that are kept.

    Of each class but the background, the `top_k` best scores above `confidence_threshold` are
    taken in falling order, and of boxes that overlap by more than `nms_threshold` the first (`eta`
    below 1 lowers that at each kept box while it is above a half); of all classes of an image the
    `keep_top_k` best. Rows are by image, label and falling score. If no image has any, there is a
    row an image: its number, then six times -1. With `save_output_param` the detections are
    written to files too (`converters.formats.detections`), for the images of its name_size_file in
    turn, where the net may write.
    Source: weiliu89/caffe detection_output_layer.cpp.
    """

    bottoms = Count(3, 4)
    no_gradient = (0, 1, 2, 3)
    ignored = dict.fromkeys(
        (
            "detection_output_param.visualize",
            "detection_output_param.visualize_threshold",
            "detection_output_param.save_file",
        ),
        "shows images on a screen",
    )
    refused = {"detection_output_param.objectness_score": REFINE}
    differences = (
        "the files of save_output_param are read at the first forward that writes; they are "
        "written when num_test_image images are done; equal scores: by label, then by prior; "
        "background_label_id -1 with shared locations works, the fork's CPU code stops at it"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.detection_output_param
        nms = param.nms_param
        if not param.HasField("num_classes") or param.num_classes < 1:
            raise self.error(f"num_classes {param.num_classes} must be given and positive")
        if not nms.nms_threshold >= 0:
            raise self.error(f"nms_threshold {nms.nms_threshold} must not be negative")
        if not 0 < nms.eta <= 1:
            raise self.error(f"eta {nms.eta} must be above 0 and at most 1")
        if param.HasField("objectness_score"):
            raise self.error(f"objectness_score is refused: {REFINE}")
        self.classes, self.shared = param.num_classes, param.share_location
        self.background = param.background_label_id
        self.code = param.code_type
        self.with_variance = not param.variance_encoded_in_target
        self.least = (
            param.confidence_threshold if param.HasField("confidence_threshold") else -FLT_MAX
        )
        self.threshold, self.eta = nms.nms_threshold, nms.eta
        self.top_k = nms.top_k if nms.HasField("top_k") and nms.top_k >= 0 else None
        self.keep = param.keep_top_k if param.keep_top_k >= 0 else None
        saved = param.save_output_param
        _check_resize(self, saved)
        named = saved.output_directory and saved.label_map_file and saved.name_size_file
        self.saves = bool(named) and self.environment.may_write
        self.results: _Results | None = None
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        super().reshape(bottoms)
        return [(1, 1, 1, DETECTION)]

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor:
        where, scores, priors, variances = self.read(bottoms)
        self.require_sizes(priors, self.code)
        where, scores = _single(where), _single(scores).transpose(1, 2)
        if 0 <= self.background < self.classes:
            scores = scores.clone()
            scores[:, self.background] = -math.inf
        number = len(scores)
        # A box is suppressed by better ones alone, so that an image's best few mostly are enough.
        few = scores[0].numel() if self.keep is None else 4 * self.keep + 64
        while True:
            image, label, prior, score, whole = self._best(scores, few)
            values = where[image, prior, 0 if self.shared else label]
            if self.with_variance:
                values = values * variances[prior]
            found = boxes.decode(values, priors[prior], self.code)
            kept = boxes.suppress(found, image * self.classes + label, self.threshold, self.eta)
            enough = (
                whole if self.keep is None else whole | (_counts(image[kept], number) >= self.keep)
            )
            if bool(enough.all()):
                break
            few *= 4
        kept = kept.nonzero()[:, 0]
        if self.keep is not None:
            place = boxes.places_within(image[kept])
            kept = kept[place < self.keep]
        image, label, score, found = image[kept], label[kept], score[kept], found[kept]
        order = (image * self.classes + label).argsort(stable=True)
        rows = torch.cat([torch.stack([image.to(score), label.to(score), score], 1), found], 1)
        rows = rows[order]
        if self.saves:
            self.results = self.results or _Results(self)
            self.results.add(number, rows)
        if not len(rows):
            rows = scores.new_full((number, DETECTION), -1)
            rows[:, 0] = torch.arange(number, device=rows.device)
        return rows.view(1, 1, -1, DETECTION)

    def _best(self, scores: Tensor, few: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Image, label, prior and score of the `few` best of each image of (N, classes, P), and of
        others as good as the last; in falling order. Then whether those are all of an image (N,).
        """
        flat = scores.flatten(1)
        wanted = flat > self.least
        whole = wanted.new_ones(len(flat))
        if few < flat.shape[1]:
            bound = flat.topk(few).values[:, -1:]
            wanted &= flat >= bound
            whole = bound[:, 0] <= self.least
        image, place = wanted.nonzero(as_tuple=True)
        score, order = flat[image, place].sort(descending=True, stable=True)
        image, place = image[order], place[order]
        label, prior = place // scores.shape[2], place % scores.shape[2]
        if self.top_k is not None:
            rank = boxes.places_within(image * self.classes + label)
            among = rank < self.top_k
            image, label, prior, score = image[among], label[among], prior[among], score[among]
        return image, label, prior, score, whole


class _Results:
    """The detections of images that are still to be written, for save_output_param."""

    def __init__(self, layer: DetectionOutput) -> None:
        self._layer, param = layer, layer.param.detection_output_param
        self._param = param.save_output_param
        if self._param.output_format not in FORMS:
            raise layer.error(
                f'output_format "{self._param.output_format}" is not one of {", ".join(FORMS)}'
            )
        self._names = _label_names(layer, self._param.label_map_file)
        self._images = _names_and_sizes(layer, self._param.name_size_file)
        self._count = len(self._images)
        if self._param.HasField("num_test_image"):
            self._count = self._param.num_test_image
        if not 1 <= self._count <= len(self._images):
            raise layer.error(
                f"num_test_image {self._count} must be 1 to {len(self._images)}, the lines of "
                f"name_size_file {self._param.name_size_file}"
            )
        self._next = 0
        self._found: list[Found] = []

    def add(self, number: int, rows: Tensor) -> None:
        """Take the rows of a batch in; write what is complete."""
        rows = rows.cpu()
        for place in range(number):
            self._add_image(rows[rows[:, 0] == place])
            self._next += 1
            if self._next == self._count:
                background = self._layer.background
                names = (name for label, name in self._names.items() if label != background)
                write_detections(
                    self._param.output_directory,
                    self._param.output_name_prefix,
                    self._param.output_format,
                    names,
                    self._found,
                )
                self._next, self._found = 0, []

    def _add_image(self, rows: Tensor) -> None:
        image, size = self._images[self._next]
        sizes = torch.tensor([size]).expand(len(rows), 2)
        corners = boxes.in_pixels(rows[:, 3:], sizes, _resized(self._param)).boxes
        for row, box in zip(rows.tolist(), corners.tolist()):
            label = int(row[1])
            if label not in self._names:
                raise self._layer.error(
                    f"label {label} is not in the label map {self._param.label_map_file}"
                )
            left, top, right, bottom = box
            found = Found(image, label, self._names[label], row[2], (left, top, right, bottom))
            self._found.append(found)


def _label_names(layer: Layer, name: str) -> dict[int, str]:
    """The names in a label map, by label.

    Raises:
        DataError: the file is absent or no label map.
    """
    path = layer.environment.find(name)
    try:
        found = text_format.Parse(decoded(path.read_bytes()), pb.LabelMap())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except text_format.ParseError as error:
        raise DataError(f"{path}: is no label map: {error}") from error
    return {item.label: item.name for item in found.item}


def _counts(image: Tensor, number: int) -> Tensor:
    """How many there are of each of `number` images."""
    return image.bincount(minlength=number)


class _Truth(NamedTuple):
    """The boxes that an image should have: image and label (R,), corners (R, 4), difficult (R,)."""

    image: Tensor
    label: Tensor
    boxes: Tensor
    difficult: Tensor


def _truth(layer: Layer, bottom: Tensor, place: int, background: int) -> _Truth:
    """The rows (image, label, instance, corners, difficult) of a bottom, less those of image -1.

    Raises:
        NetError: a row has the background's label.
    """
    rows = _single(bottom).reshape(-1, TRUTH)
    rows = rows[rows[:, 0].trunc() != -1]
    label = rows[:, 1].long()
    if bool((label == background).any()):
        raise layer.error(
            f"{layer.bottom_name(place)} has a box with label {background}, which is the background"
        )
    return _Truth(rows[:, 0].long(), label, rows[:, 3:7], rows[:, 7] != 0)


@register("MultiBoxLoss", "multibox_loss_param", "loss_param")
class MultiBoxLoss(_Predictions, NormalizedLoss):
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
        matched, nearest = self._matched(_single(where), priors, variances, truth)
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

    def _boxes(self, bottom: Tensor, number: int) -> _Truth:
        """The boxes of the batch's images, difficult ones if they count."""
        truth = _truth(self, bottom, 3, self.background)
        wanted = (truth.image >= 0) & (truth.image < number)
        if not self.param.multibox_loss_param.use_difficult_gt:
            wanted &= ~truth.difficult
        truth = _Truth(*(x[wanted] for x in truth))
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
        self, where: Tensor, priors: Tensor, variances: Tensor, truth: _Truth
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
                edge = self._decoded(_single(where), priors, variances)
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
        truth: _Truth,
        matched: Tensor,
        nearest: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The matches that stay, and which priors are negatives: (N, P) both."""
        param = self.param.multibox_loss_param
        hard = self.mining == pb.MultiBoxLossParameter.HARD_EXAMPLE
        positive = matched >= 0
        fed = torch.zeros_like(matched[:, 0], dtype=torch.bool)
        fed[truth.image] = True
        losses = self._losses(_single(scores), matched, truth)
        if hard:
            image, prior = positive.nonzero(as_tuple=True)
            difference = self._differences(
                _single(where)[image, prior, 0],
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
                    _single(where)[image, prior, 0], candidates, variances[prior]
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

    def _losses(self, scores: Tensor, matched: Tensor, truth: _Truth) -> Tensor:
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
        _check_resize(self, param)
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
        rows = _single(bottoms[0])[0, 0]
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

    def _truth(self, bottom: Tensor) -> _Truth:
        """The boxes before the first row of image -1."""
        ends = (_single(bottom)[0, 0, :, 0].trunc() == -1).nonzero()[:1, 0]
        stop = int(ends) if len(ends) else bottom.shape[2]
        return _truth(self, bottom[:, :, :stop], 1, self.background)

    def _judged(self, overlap: Tensor, same: Tensor, truth: _Truth) -> tuple[Tensor, Tensor]:
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
        self, state: LayerState, found: Tensor, image: Tensor, known: Tensor, truth: _Truth
    ) -> Tensor:
        """Of detections with all boxes (D, R)."""
        param = self.param.detection_evaluate_param
        if not param.name_size_file:
            return boxes.overlaps(found, truth.boxes)
        if not self.sizes:
            self.sizes = [size for _, size in _names_and_sizes(self, param.name_size_file)]
        start = int(state.state["images"])
        present = torch.unique(image[known])
        lines = torch.tensor(self.sizes, device=found.device)
        line = (start + torch.arange(len(present), device=found.device)) % len(lines)
        state.state["images"].fill_((start + len(present)) % len(lines))
        both = []
        for these, images in ((found, image), (truth.boxes, truth.image)):
            place = torch.searchsorted(present, images).clamp(max=max(0, len(present) - 1))
            sizes = lines[line[place]] if len(present) else lines[:1].expand(len(these), 2)
            both.append(boxes.in_pixels(these, sizes, _resized(param)))
        return boxes.overlaps_in_pixels(*both)


_Resizing = pb.DetectionEvaluateParameter | pb.SaveOutputParameter


def _check_resize(layer: Layer, param: _Resizing) -> None:
    given = param.resize_param
    if param.HasField("resize_param") and not (given.height > 0 and given.width > 0):
        raise layer.error(
            f"resize_param: height {given.height} and width {given.width} must be positive"
        )


def _resized(param: _Resizing) -> boxes.Resized | None:
    """What `resize_param` says, None where there is none."""
    if not param.HasField("resize_param"):
        return None
    given, mode = param.resize_param, pb.ResizeParameter
    scale = (given.height_scale, given.width_scale)
    return boxes.Resized(
        (given.height, given.width),
        given.resize_mode == mode.FIT_LARGE_SIZE_AND_PAD,
        scale if given.resize_mode == mode.FIT_SMALL_SIZE and all(scale) else None,
    )


def _names_and_sizes(layer: Layer, name: str) -> list[tuple[str, tuple[int, int]]]:
    """The lines of a name_size_file: an image's name, its height and width.

    Raises:
        DataError: the file is absent or has another form.
    """
    path = layer.environment.find(name)
    try:
        words = decoded(path.read_bytes()).split()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    images = list(zip(words[::3], words[1::3], words[2::3]))
    if (
        not images
        or len(words) % 3
        or not all(h.isdecimal() and w.isdecimal() for _, h, w in images)
    ):
        raise DataError(f"{path}: must have lines of a name, a height and a width")
    return [(image, (int(height), int(width))) for image, height, width in images]
