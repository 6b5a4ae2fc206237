"""SSD's DetectionOutput, and the result files that it writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from google.protobuf import text_format

from converters.errors import DataError
from converters.formats.detections import FORMS, Found, write_detections
from converters.layers.forks.image_sizes import check_resize, names_and_sizes, resized
from converters.layers.forks.predictions import DETECTION, REFINE, Predictions, register, single
from converters.layers.registry import BlobSpec, Count, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb
from converters.raw_text import decoded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from converters.layers.forks.arithmetic import boxes

FLT_MAX = 3.4028234663852886e38


@register("DetectionOutput", "detection_output_param")
class DetectionOutput(Predictions):
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
        check_resize(self, saved)
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
        where, scores = single(where), single(scores).transpose(1, 2)
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
        self._images = names_and_sizes(layer, self._param.name_size_file)
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
        corners = boxes.in_pixels(rows[:, 3:], sizes, resized(self._param)).boxes
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
