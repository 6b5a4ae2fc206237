"""Shapes for data that are not there: what the file says of them, and what their readers need.

A data layer whose files exist has their shapes. For another, an image's channels, height and width
are those that the layer's settings tell, and otherwise usual ones, the first that the net takes; a
label is as large as the loss that reads it needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from converters.errors import CaffeError, DataError, NetError, ShapeError
from converters.formats.blob import read_blob
from converters.layers import LAYERS, make_layer
from converters.layers.forks.regions import REGION
from converters.layers.registry import Shape
from converters.memory import free_memory, gibibytes
from converters.net.choice import NetChoice
from converters.net.plan import NetPlan, plan_net
from converters.proto import caffe_pb2 as pb
from converters.records.annotated import COLUMNS

BATCH = 2
"""Items of a batch; a file's own batches are cut to as many."""
USUAL = (
    *((3, 224, 224), (3, 32, 32), (1, 28, 28), (2, 28, 28)),
    *((3, 299, 299), (3, 321, 321), (3, 512, 512), (1, 64, 64), (3, 64, 64), (3, 12, 12)),
)
"""Channels, height and width that absent images may have, in the order in which they are tried."""
_SEGNETS = (360, 480)
"""Height and width of CamVid's images, for which SegNet's sizes are written."""
_FLOAT = 4


def boxes_of(items: Shape) -> Shape:
    """The shape of SSD's labels: a box for each item."""
    return (1, 1, *items[:1], COLUMNS)


class Guessed(NamedTuple):
    """A plan, and the shapes in it that were guessed."""

    plan: NetPlan
    guesses: dict[str, Shape]


class _Image(NamedTuple):
    """What is known of an image: None where nothing tells."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None

    def filled(self, usual: Shape) -> Shape:
        return tuple(u if own is None else own for own, u in zip(self, usual, strict=True))


def is_source(layer: pb.LayerParameter) -> bool:
    """Whether a layer brings data: it has tops, no bottoms, and no parameters of its own."""
    return bool(layer.top) and not layer.bottom and layer.type != "Parameter"


def without_python(net: pb.NetParameter) -> pb.NetParameter:
    """The net whose Python layers bring their tops from nowhere, so that they can be guessed."""
    kept = pb.NetParameter()
    kept.CopyFrom(net)
    for layer in kept.layer:
        if layer.type == "Python":
            del layer.bottom[:], layer.propagate_down[:]
    return kept


def plan_guessing(
    choice: NetChoice, given: Mapping[str, Shape], mind_memory: bool = True
) -> Guessed:
    """The plan of a net with `given` shapes, its files' or guessed ones.

    With `mind_memory` a guess that needs more than there is gives way to a smaller one.

    Raises:
        ShapeError: no guess fits; the first of them, what was guessed, and --input-shape.
        CaffeError: as `plan_net`.
    """
    net = choice.filtered()
    known: dict[str, Shape] = {}
    absent: list[pb.LayerParameter] = []
    for layer in net.layer:
        if is_source(layer) and layer.type in LAYERS:
            shapes = _told(layer, choice, given)
            known.update(shapes or {})
            if shapes is None:
                absent.append(layer)
    if not absent:
        return Guessed(plan_net(replace(choice, input_shapes=known)), {})
    first: ShapeError | None = None
    too_large: NetError | None = None
    for usual in USUAL:
        for batch in range(BATCH, 0, -1):
            try:
                guessed = _planned(choice, net, known, absent, usual, batch)
            except ShapeError as error:
                first = first or error
                break
            except CaffeError as error:
                raise first or too_large or error from None
            if not mind_memory or (problem := _too_large(guessed.plan)) is None:
                return guessed
            too_large = too_large or problem
    reason = too_large or first
    assert reason is not None
    raise reason


def _planned(
    choice: NetChoice,
    net: pb.NetParameter,
    known: Mapping[str, Shape],
    absent: list[pb.LayerParameter],
    usual: Shape,
    batch: int,
) -> Guessed:
    """The plan with images of a usual size, and a label for each item or each step of streams.

    R-FCN's labels have four axes, and its layers the losses of regions by their shape.
    """
    first: ShapeError | None = None
    for items in ((batch,), (batch, 1), (batch, 1, 1, 1)):
        guesses: dict[str, Shape] = {layer.top[0]: (batch, *usual) for layer in absent}
        try:
            guesses = _guessed(choice, net, known, absent, usual, items)
            return Guessed(plan_net(replace(choice, input_shapes={**known, **guesses})), guesses)
        except ShapeError as error:
            first = first or _with_guess(error, guesses)
    assert first is not None
    raise first


def _told(
    layer: pb.LayerParameter, choice: NetChoice, given: Mapping[str, Shape]
) -> dict[str, Shape] | None:
    """The shapes of a source's tops that somebody says; None if they are to be guessed."""
    named = {top: given[top] for top in layer.top if top in given}
    if named or layer.type == "Input":
        return named
    if layer.type == "Python":
        # Code that may not be run, or is not there, is a source like any other absent one.
        return {} if choice.allow_python_layers else None
    if not LAYERS[layer.type].is_data:
        return {}
    try:
        shapes = make_layer(layer, choice.environment).reshape([])
    except CaffeError:
        return None
    return {top: (min(s[0], BATCH), *s[1:]) if s else s for top, s in zip(layer.top, shapes)}


# What a layer's settings tell ---------------------------------------------------------------------


def _image_of(layer: pb.LayerParameter, choice: NetChoice) -> _Image:
    transform = layer.transform_param
    channels = height = width = None
    if layer.type in ("ImageData", "ImageSegData", "ImageLabelmapData"):
        settings = layer.image_data_param
        channels = 3 if settings.is_color else 1
        if settings.new_height and settings.new_width:
            height, width = settings.new_height, settings.new_width
    elif layer.type == "DenseImageData":
        dense = layer.dense_image_data_param
        channels = 3 if dense.is_color else 1
        sizes = ((dense.crop_height, dense.crop_width), (dense.new_height, dense.new_width))
        height, width = next((size for size in sizes if all(size)), _SEGNETS)
    elif layer.type == "WindowData":
        channels = 3
        if layer.window_data_param.crop_size:
            height = width = layer.window_data_param.crop_size
    elif layer.type == "AnnotatedData":
        # Records of photographs, stored as files: in colour.
        channels = 1 if transform.force_gray else 3
        if transform.resize_param.height and transform.resize_param.width:
            height, width = transform.resize_param.height, transform.resize_param.width
    elif layer.type == "Data" and (transform.force_color or transform.force_gray):
        channels = 3 if transform.force_color else 1
    if channels is None and len(transform.mean_value) > 1:
        channels = len(transform.mean_value)
    mean = _mean_shape(transform, choice)
    if mean is not None:
        channels = mean.channels if channels is None else channels
        height, width = (height, width) if height else (mean.height, mean.width)
    if transform.resize_param.height and transform.resize_param.width:
        height, width = transform.resize_param.height, transform.resize_param.width
    if transform.crop_size:
        height = width = transform.crop_size
    for crop in (
        (transform.crop_height, transform.crop_width),
        (transform.crop_h, transform.crop_w),
    ):
        if all(crop):
            height, width = crop
    return _Image(channels, height, width)


def _mean_shape(transform: pb.TransformationParameter, choice: NetChoice) -> _Image | None:
    if not transform.mean_file:
        return None
    try:
        shape = read_blob(choice.environment.find(transform.mean_file), DataError).shape
    except (CaffeError, OSError):
        return None
    return _Image(*shape[-3:]) if len(shape) >= 3 else None


# What the readers of a top need -------------------------------------------------------------------


def _guessed(
    choice: NetChoice,
    net: pb.NetParameter,
    known: Mapping[str, Shape],
    absent: list[pb.LayerParameter],
    usual: Shape,
    items: Shape,
) -> dict[str, Shape]:
    """A shape for each top of the absent sources, images first, then what depends on them."""
    guesses: dict[str, Shape] = {}
    waiting: dict[str, Shape] = {}
    for layer in absent:
        image = (items[0], *_image_of(layer, choice).filled(usual))
        for index, top in enumerate(layer.top):
            if _is_image(net, top, index):
                guesses[top] = image
            else:
                waiting[top] = items
    while waiting:
        shapes = _shapes_without(choice, net, {**known, **guesses, **waiting}, set(waiting))
        found: dict[str, Shape] = {}
        for top in waiting:
            for position, reader in _readers(net, top):
                shape = _needed(reader, position, shapes, set(waiting), items, choice)
                if shape is not None:
                    found.setdefault(top, shape)
        if not found:
            break
        guesses.update(found)
        for top in found:
            del waiting[top]
    return {**guesses, **waiting}


def _readers(net: pb.NetParameter, top: str) -> Iterator[tuple[int, pb.LayerParameter]]:
    """The layers that read a blob, and as which of their bottoms."""
    for layer in net.layer:
        for position, bottom in enumerate(layer.bottom):
            if bottom == top:
                yield position, layer


def _is_image(net: pb.NetParameter, top: str, index: int) -> bool:
    """Whether a top is one: so is what a layer computes with, and a first top that nobody reads."""
    plain = []
    for position, reader in _readers(net, top):
        cls = LAYERS.get(reader.type)
        if cls is None or cls.moves_values or reader.type in ("Silence", "Python"):
            continue
        if len(reader.bottom) > 1 and len(reader.bottom) == len(cls.no_gradient):
            continue  # such a layer looks at boxes, labels and images alike
        compares = cls.is_loss or position in cls.whole_numbers or reader.type == "Eltwise"
        compares = compares or bool(position and position in cls.no_gradient)
        plain.append(not compares and not (position and reader.type in _RECURRENT))
    if plain:
        return any(plain)
    return index == 0 and "label" not in top


_RECURRENT = ("LSTM", "RNN")


def _needed(
    reader: pb.LayerParameter,
    position: int,
    shapes: Mapping[str, Shape],
    waiting: set[str],
    items: Shape,
    choice: NetChoice,
) -> Shape | None:
    """The simplest shape for a bottom that the reader takes, None while another one is unknown.

    A value for each item, one for each place of another bottom, or as many as that has; rows of
    boxes. Bottoms behind the first that wait like this one (targets and their weights) have its
    shape.
    """
    bottoms = [shapes.get(name, ()) for name in reader.bottom]
    alike = [i for i, name in enumerate(reader.bottom) if i and name in waiting]
    others = [shape for place, shape in enumerate(bottoms) if place not in (position, *alike)]
    if reader.type not in LAYERS or not all(others):
        return None
    candidates = [items, (*items, _columns(reader))]
    for other in others[:1]:
        candidates += [other[:-1], (other[0], 1, *other[2:]), other[:2], other]
    candidates += [(items[0], REGION), boxes_of(items)]
    for shape in candidates:
        for place in (position, *alike):
            bottoms[place] = shape
        layer = make_layer(reader, choice.environment)
        try:
            layer.setup(bottoms)
            tops = layer.reshape(bottoms)
        except (CaffeError, ValueError, IndexError, ZeroDivisionError):
            continue
        if all(size > 0 for top in tops for size in top):
            return shape
    return None


def _columns(reader: pb.LayerParameter) -> int:
    """How many labels an item has where a Slice takes them apart: a column or more for each top."""
    points = list(reader.slice_param.slice_point)
    if not points:
        return len(reader.top)
    return points[-1] + (points[-1] - points[-2] if len(points) > 1 else points[0])


def _shapes_without(
    choice: NetChoice, net: pb.NetParameter, known: Mapping[str, Shape], unknown: set[str]
) -> dict[str, Shape]:
    """The shapes of all blobs that do not depend on the unknown ones."""
    part = pb.NetParameter()
    part.CopyFrom(net)
    part.ClearField("layer")
    lost = set(unknown)
    for layer in net.layer:
        if is_source(layer):
            part.layer.append(layer)
        elif lost.intersection(layer.bottom) or layer.type not in LAYERS:
            lost.update(layer.top)
        else:
            part.layer.append(layer)
    plan = plan_net(replace(choice, message=part, input_shapes=known))
    shapes = {
        name: shape
        for entry in plan.layers
        for name, shape in zip(entry.top_names, entry.top_shapes)
    }
    return {name: shape for name, shape in shapes.items() if name not in unknown}


# What is said -------------------------------------------------------------------------------------


def _with_guess(error: ShapeError, guesses: Mapping[str, Shape]) -> ShapeError:
    told = ", ".join(f"{name} {shape}" for name, shape in guesses.items())
    name, shape = next(iter(guesses.items()))
    return ShapeError(
        f"{error}; guessed, for want of the data: {told}; give the right shapes, as "
        f"--input-shape {name}={','.join(map(str, shape))}"
    )


def _too_large(plan: NetPlan) -> NetError | None:
    """An error if the net's blobs, with gradients in TRAIN, need more memory than there is."""
    tops = sum(
        math.prod(shape)
        for entry in plan.layers
        for name, shape in zip(entry.top_names, entry.top_shapes)
        if name not in entry.layer.param.bottom
    )
    weights = sum(math.prod(entry.spec.shape) for entry in plan.learnables)
    needed = _FLOAT * (tops + weights) * (2 if plan.phase == "TRAIN" else 1)
    free = free_memory()
    if free is None or needed <= free:
        return None
    told = ", ".join(f"{name} {shape}" for name, shape in plan.input_shapes().items())
    return NetError(
        f"{plan.source}: with {told} the net needs about {gibibytes(needed)} of memory, "
        f"{gibibytes(free)} are free; give smaller shapes with --input-shape"
    )
