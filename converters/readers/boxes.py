"""Boxes of annotated images: overlaps, windows on them, what a resized image does to them.

A box is xmin, ymin, xmax, ymax in parts of the image's width and height; all arithmetic is
float32, in SSD's order. `converters.readers.augment` changes images and boxes with it. Source:
weiliu89/caffe ssd util/bbox_util.cpp, util/sampler.cpp, util/im_transforms.cpp.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.proto import caffe_pb2 as pb

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

WHOLE = np.array([0, 0, 1, 1], np.float32)


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


def clipped(boxes: Floats) -> Floats:
    """The boxes' (…, 4) part within the image."""
    inside: Floats = boxes.clip(np.float32(0), np.float32(1))
    return inside


def areas(boxes: Floats) -> Floats:
    """Of boxes (…, 4); 0 where a box is inside out."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(0)
    product: Floats = sides[..., 0] * sides[..., 1]
    return product


def shared_areas(one: Floats, other: Floats) -> Floats:
    """Of what two boxes (…, 4), broadcast to each other, have in common."""
    least = np.maximum(one[..., :2], other[..., :2])
    most = np.minimum(one[..., 2:], other[..., 2:])
    return areas(np.concatenate([least, most], axis=-1))


def overlaps(one: Floats, other: Floats) -> Floats:
    """Jaccard overlaps |a ∩ b| / |a ∪ b| of boxes (…, 4), broadcast to each other."""
    shared = shared_areas(one, other)
    return _parts(shared, areas(one) + areas(other) - shared)


def coverages(one: Floats, other: Floats) -> Floats:
    """What part |a ∩ b| / |a| of boxes (…, 4) others cover, broadcast to each other."""
    shared = shared_areas(one, other)
    return _parts(shared, np.broadcast_to(areas(one), shared.shape))


def _parts(some: Floats, whole: Floats) -> Floats:
    """some / whole; 0 of nothing."""
    return np.divide(some, whole, out=np.zeros_like(some), where=some > 0)


def within(window: Floats, boxes: Floats) -> tuple[Floats, Mask]:
    """Boxes (M, 4) in parts of a window (4,), cut off at its edges; which are in it at all (M,)."""
    moved = clipped((boxes - _twice(window[:2])) / _twice(window[2:] - window[:2]))
    meets = (boxes[:, :2] < window[2:]).all(axis=1) & (boxes[:, 2:] > window[:2]).all(axis=1)
    return moved, meets & (areas(moved) > 0)


def emitted(constraint: pb.EmitConstraint, window: Floats, boxes: Floats) -> Mask:
    """Which boxes (M, 4) a window (4,) keeps: by their centre, or by the part that it covers."""
    if constraint.emit_type == pb.EmitConstraint.MIN_OVERLAP:
        enough: Mask = coverages(boxes, window) > np.float32(constraint.emit_overlap)
        return enough
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside: Mask = np.all((centres >= window[:2]) & (centres <= window[2:]), axis=1)
    return inside


# ---------------------------------------------------------------- samples


def samples(samplers: list[pb.BatchSampler], boxes: Floats, random: np.random.Generator) -> Floats:
    """Windows (K, 4) that the samplers draw and their constraints admit, of an image with boxes.

    A window's area is scale², its sides are scale · √aspect and scale / √aspect, its place is any.
    """
    found = [_samples(one, boxes, random) for one in samplers if one.use_original_image]
    return np.concatenate([np.empty((0, 4), np.float32), *found])


def _samples(param: pb.BatchSampler, boxes: Floats, random: np.random.Generator) -> Floats:
    sampler, trials = param.sampler, param.max_trials
    scale = random.uniform(sampler.min_scale, sampler.max_scale, trials)
    aspect = random.uniform(sampler.min_aspect_ratio, sampler.max_aspect_ratio, trials)
    aspect = np.minimum(np.maximum(aspect, scale**2), 1 / scale**2)
    sides = np.stack([scale * np.sqrt(aspect), scale / np.sqrt(aspect)], 1).clip(max=1)
    corners = random.uniform(0, 1, (trials, 2)) * (1 - sides)
    windows = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    admitted = windows[_admitted(param.sample_constraint, windows, boxes)]
    return admitted[: param.max_sample] if param.HasField("max_sample") else admitted


def _admitted(constraint: pb.SampleConstraint, windows: Floats, boxes: Floats) -> Mask:
    """Which windows (K, 4) some box fits as the constraint demands; all, if it demands nothing.

    Of several demands the first decides (overlap, then coverages): the others are tested too, but
    SSD does not forget that a box has passed the first.
    """
    each, objects = windows[:, np.newaxis], boxes[np.newaxis]
    for name, values in (
        ("jaccard_overlap", partial(overlaps, each, objects)),
        ("sample_coverage", partial(coverages, each, objects)),
        ("object_coverage", partial(coverages, objects, each)),
    ):
        least, most = f"min_{name}", f"max_{name}"
        if not (constraint.HasField(least) or constraint.HasField(most)):
            continue
        found = values()
        fits = np.ones(found.shape, np.bool_)
        if constraint.HasField(least):
            fits &= found >= np.float32(getattr(constraint, least))
        if constraint.HasField(most):
            fits &= found <= np.float32(getattr(constraint, most))
        some: Mask = np.any(fits, axis=1)
        return some
    return np.ones(len(windows), np.bool_)


# ---------------------------------------------------------------- resizing


def resized(param: pb.ResizeParameter, image: Size) -> Size:
    """The size of an image after its resizing, padding included."""
    height, width = param.height, param.width
    if param.resize_mode != pb.ResizeParameter.FIT_SMALL_SIZE:
        return Size(height, width)
    return _keeping(param, image, grow=True)


def fitted(param: pb.ResizeParameter, image: Size) -> Size:
    """The size of an image that is to be padded, before that."""
    return _keeping(param, image, grow=False)


def _keeping(param: pb.ResizeParameter, image: Size, grow: bool) -> Size:
    """The sides in the image's own proportion: the longer or the shorter one has the size given."""
    own, wanted = _aspects(param, image)
    if (own < wanted) if grow else (own > wanted):
        return Size(int(np.float32(param.width) / own), param.width)
    return Size(param.height, int(own * np.float32(param.height)))


def _aspects(param: pb.ResizeParameter, image: Size) -> tuple[np.float32, np.float32]:
    """Width / height of an image, and of the size that is wanted."""
    return (
        np.float32(image.width) / np.float32(image.height),
        np.float32(param.width) / np.float32(param.height),
    )


def on_resized(param: pb.ResizeParameter, image: Size, boxes: Floats) -> Floats:
    """Boxes (M, 4) of an image in parts of the resized one, its padding included."""
    old = np.array([image.width, image.height], np.float32)
    new = np.array([param.width, param.height], np.float32)
    padding = np.zeros(2, np.float32)
    own, wanted = _aspects(param, image)
    if param.resize_mode == pb.ResizeParameter.FIT_SMALL_SIZE:
        if own < wanted:
            new[1] = new[0] / own
        else:
            new[0] = own * new[1]
    elif param.resize_mode == pb.ResizeParameter.FIT_LARGE_SIZE_AND_PAD:
        if own > wanted:
            padding[1] = (new[1] - new[0] / own) / 2
        else:
            padding[0] = (new[0] - own * new[1]) / 2
    pixels = boxes.reshape(-1, 2, 2) * old
    pixels *= new - 2 * padding
    pixels /= old
    pixels[:, 0] = padding + np.maximum(pixels[:, 0], 0)
    pixels[:, 1] = padding + np.minimum(pixels[:, 1], new)
    parts: Floats = (pixels / new).reshape(-1, 4)
    return parts


def scaled_up(param: pb.ResizeParameter, image: Size, window: Floats, boxes: Floats) -> Floats:
    """Boxes in parts of height_scale and width_scale, where FIT_SMALL_SIZE has them."""
    scale = np.array([param.width_scale, param.height_scale], np.float32)
    if not scale.all() or param.resize_mode != pb.ResizeParameter.FIT_SMALL_SIZE:
        return boxes
    new = np.array([param.width, param.height], np.float32)
    own, wanted = _aspects(param, image)
    if own < wanted:
        new[1] = new[0] / own
    else:
        new[0] = new[1] * own
    crop = new * (window[2:] - window[:2])
    scaled: Floats = boxes * _twice(crop) / _twice(scale)
    return scaled


def _twice(pair: Floats) -> Floats:
    """x, y as x, y, x, y."""
    return np.concatenate([pair, pair])
