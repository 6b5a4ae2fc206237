"""The sizes of images by which detectors are judged: name_size_file, and `resize_param`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converters.errors import DataError
from converters.layers.registry import Layer
from converters.proto import caffe_pb2 as pb
from converters.raw_text import decoded

if TYPE_CHECKING:
    from converters.layers.forks.arithmetic import boxes

Resizing = pb.DetectionEvaluateParameter | pb.SaveOutputParameter


def check_resize(layer: Layer, param: Resizing) -> None:
    given = param.resize_param
    if param.HasField("resize_param") and not (given.height > 0 and given.width > 0):
        raise layer.error(
            f"resize_param: height {given.height} and width {given.width} must be positive"
        )


def resized(param: Resizing) -> boxes.Resized | None:
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


def names_and_sizes(layer: Layer, name: str) -> list[tuple[str, tuple[int, int]]]:
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
