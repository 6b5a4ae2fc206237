"""What Caffe's Net::Init does, without torch: wiring, shapes, parameters, loss weights.

`plan_net` turns a chosen net into a `NetPlan` of layers whose blobs are values: every
top is a new value, also where Caffe works in place, and a name stands for its last value.
`converters.net.caffe_net` makes an fx graph of a plan, `converters.net.summary` a table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from converters.environment import Environment
from converters.errors import CaffeError, NetError, ShapeError
from converters.layers import LAYERS, Layer, make_layer
from converters.layers.meanings import Meanings
from converters.layers.registry import MEANINGS, BlobSpec, Shape
from converters.layers.unknown import MOST, nearest, unknown_types
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.proto.foreign import FIELDS_OTHERWISE
from converters.proto.forks import Foreign, foreign

AUTOMATIC_TOP = "(automatic)"
LARGEST_BLOB = LARGEST_INT = 2**31 - 1


class Learnable(NamedTuple):
    """One entry of Caffe's learnable_params: the blob that owns it, and its multipliers."""

    layer: str
    place: int
    spec: BlobSpec
    lr_mult: float
    decay_mult: float


@dataclass(frozen=True)
class LayerPlan:
    """A layer in its place: bottoms and tops are value numbers, `owners` index `learnables`.

    `key` is the layer's name, with #2, #3 … where earlier layers have the same one.
    """

    key: str
    layer: Layer
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    top_names: tuple[str, ...]
    bottom_shapes: tuple[Shape, ...]
    top_shapes: tuple[Shape, ...]
    blobs: tuple[BlobSpec, ...]
    owners: tuple[int, ...]
    loss_weights: tuple[float, ...]
    detached: tuple[bool, ...]
    frozen: tuple[bool, ...]

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name


@dataclass
class NetPlan:
    """A net ready to be built: layers in Caffe's order, and what its blobs are called."""

    choice: NetChoice
    net: pb.NetParameter
    layers: list[LayerPlan] = field(default_factory=list)
    learnables: list[Learnable] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The file, which names the net in errors."""
        return self.choice.source

    @property
    def phase(self) -> str:
        """ "TRAIN" or "TEST"."""
        return self.choice.phase

    @property
    def data_layers(self) -> list[Layer]:
        """The layers whose tops come from outside, in Caffe's order."""
        return [position.layer for position in self.layers if position.layer.is_data]

    def input_shapes(self) -> dict[str, Shape]:
        """The shapes of the inputs as planned."""
        shapes = {
            value: shape for plan in self.layers for value, shape in zip(plan.tops, plan.top_shapes)
        }
        return {name: shapes[value] for name, value in self.inputs.items()}

    def exact_inputs(self) -> frozenset[str]:
        """The inputs that only tell classes or indices: whole numbers, to be kept exact."""
        reads: dict[int, list[bool]] = {}
        for plan in reversed(self.layers):
            moves = plan.layer.moves_values and all(
                all(reads.get(top, [False])) for top in plan.tops
            )
            for place, value in enumerate(plan.bottoms):
                reads.setdefault(value, []).append(moves or place in plan.layer.whole_numbers)
        return frozenset(
            name for name, value in self.inputs.items() if all(reads.get(value, [False]))
        )

    def check_shapes(self, shapes: Mapping[str, Shape]) -> None:
        """Run shape inference for other input shapes; raises ShapeError as building would."""
        known = {self.inputs[name]: shape for name, shape in shapes.items()}
        for plan in self.layers:
            if plan.layer.is_data:
                continue
            bottoms = [known[value] for value in plan.bottoms]
            tops = plan.layer.reshape(bottoms)
            for name, shape in zip(plan.top_names, tops):
                _check_size(plan.layer, f'top "{name}"', shape)
            known.update(zip(plan.tops, tops))


def _check_size(layer: Layer, what: str, shape: Shape) -> None:
    """Refuse a blob that Caffe could not hold: of no values, or of more than an int counts."""
    if any(not 1 <= size <= LARGEST_BLOB for size in shape) or math.prod(shape) > LARGEST_BLOB:
        raise layer.shape_error(
            f"{what} would have shape {shape}; sizes must be at least 1 and a blob can hold at "
            f"most {LARGEST_BLOB} values"
        )


def _check_numbers(layer: Layer) -> None:
    """Refuse a setting that Caffe's int does not hold: there it would turn negative."""
    for name in layer.params:
        if not layer.param.HasField(name):
            continue
        for entry, value in getattr(layer.param, name).ListFields():
            if entry.cpp_type != entry.CPPTYPE_UINT32:
                continue
            for number in [value] if isinstance(value, int) else value:
                if number > LARGEST_INT and f"{name}.{entry.name}" not in layer.ignored:
                    raise layer.error(f"{entry.name} {number} must be at most {LARGEST_INT}")


def _check_forks(layer: Layer) -> None:
    """Refuse what a fork computes with a field of its own and this layer does not."""
    for name in layer.params:
        message = getattr(layer.param, name)
        for unknown in foreign(message, {*layer.of_forks, *layer.ignored}, f"{name}."):
            raise layer.error(_not_computed(unknown))


def _check_all(net: pb.NetParameter, source: str) -> None:
    """Refuse what is not here of forks, or of nobody: types and settings, all of them at once.

    Where a type has several meanings, one that knows a setting is enough here; what the chosen one
    says of it, `_check_forks` asks.
    """
    settings = [("", unknown) for unknown in foreign(net, deep=False)]
    for param in net.layer:
        classes = MEANINGS.get(param.type) or [LAYERS[param.type]] if param.type in LAYERS else []
        claimed = {path for cls in classes for path in (*cls.of_forks, *cls.ignored)}
        for name in {name: None for cls in classes for name in cls.params}:
            settings += [
                (f'layer "{param.name}" ({param.type}): ', unknown)
                for unknown in foreign(getattr(param, name), claimed, f"{name}.")
            ]
    told = [words] if (words := unknown_types(net.layer, LAYERS)) else []
    if settings:
        (place, first), *others = settings
        words = f"{place}{_not_computed(first)}"
        if others:
            names = [f"{where}{one.path} (of {one.fork})" for where, one in others[:MOST]]
            more = f" and {len(others) - MOST} more" if len(others) > MOST else ""
            words += f"; nor {'are' if len(others) > 1 else 'is'} {', '.join(names)}{more}"
        told.append(words)
    if told:
        raise NetError(f"{source}: {'; '.join(told)}")


def _not_computed(unknown: Foreign) -> str:
    otherwise = FIELDS_OTHERWISE.get(unknown.path.rpartition(".")[2])
    return f"{unknown.path} is a setting of the fork {unknown.fork} that is not computed here" + (
        f" (Caffe's own way: {otherwise})" if otherwise else ""
    )


def plan_net(choice: NetChoice) -> NetPlan:
    """Filter, wire and shape a net as Caffe's Net::Init does (net.cpp).

    Raises:
        PrototxtError, NetError, ShapeError: what Caffe refuses, named by file, layer and value.
    """
    net = choice.filtered()
    _check_all(net, choice.source)
    plan = NetPlan(choice, net)
    wiring = _Wiring(plan, {name: tuple(shape) for name, shape in choice.input_shapes.items()})
    for param in net.layer:
        wiring.add(param, choice.environment)
    wiring.finish()
    return plan


def _with_keys(layers: Sequence[LayerPlan]) -> list[LayerPlan]:
    """The layers with keys that tell those of one name apart, which Caffe allows.

    Layers with blobs are counted first: it is they whose names matter in files.
    """
    taken = {layer.name for layer in layers}
    seen: Counter[str] = Counter()
    keys: dict[int, str] = {}
    for index in sorted(range(len(layers)), key=lambda i: not layers[i].blobs):
        name = layers[index].name
        seen[name] += 1
        if seen[name] > 1:
            while f"{name}#{seen[name]}" in taken:
                seen[name] += 1
            taken.add(f"{name}#{seen[name]}")
            name = f"{name}#{seen[name]}"
        keys[index] = name
    return [replace(layer, key=keys[index]) for index, layer in enumerate(layers)]


class _Wiring:
    """The state of Net::Init while layers are appended one by one."""

    def __init__(self, plan: NetPlan, input_shapes: dict[str, Shape]) -> None:
        self.plan = plan
        self.meanings = Meanings(plan.net, plan.source, plan.choice.stored_shapes)
        self.given = input_shapes
        self.shapes: list[Shape] = []
        self.readers: list[list[str]] = []
        self.available: set[str] = set()
        self.producers: dict[str, str] = {}
        self.shared: dict[str, int] = {}
        self.lr_given: list[bool] = []
        self.decay_given: list[bool] = []

    def add(self, param: pb.LayerParameter, environment: Environment) -> None:
        layer = make_layer(param, environment, self.meanings.of(param))
        self.meanings.tell(param)
        _check_numbers(layer)
        bottoms = tuple(self._bottom(layer, name) for name in param.bottom)
        bottom_shapes = tuple(self.shapes[value] for value in bottoms)
        top_names = self._top_names(layer)
        self._check_counts(layer, len(top_names))
        loss_weights = self._loss_weights(layer, len(top_names))
        try:
            blobs, top_shapes = self._shape(layer, bottom_shapes, top_names)
        except CaffeError:
            raise
        except (ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
            raise layer.shape_error(
                f"bottoms of shape {', '.join(map(str, bottom_shapes))} do not fit: {error}"
            ) from error
        for name, shape in zip(top_names, top_shapes):
            _check_size(layer, f'top "{name}"', shape)
        for index, spec in enumerate(blobs):
            _check_size(layer, f"blob {index}", spec.shape)
        self._forget_consumed(layer, top_names)
        tops = tuple(
            self._top(layer, name, shape, weight)
            for name, shape, weight in zip(top_names, top_shapes, loss_weights)
        )
        owners = self._owners(layer, blobs)
        self.plan.layers.append(
            LayerPlan(
                layer.name,
                layer,
                bottoms,
                tops,
                top_names,
                bottom_shapes,
                tuple(top_shapes),
                tuple(blobs),
                owners,
                loss_weights,
                self._detached(layer),
                self._frozen(param, len(blobs)),
            )
        )

    def finish(self) -> None:
        unknown = [name for name in self.given if name not in self.plan.inputs]
        if unknown:
            raise ShapeError(
                f'{self.plan.source}: a shape was given for "{unknown[0]}", which is no input '
                f"(inputs: {', '.join(self.plan.inputs) or 'none'})"
            )
        self._add_loss_copies()
        self.plan.layers = _with_keys(self.plan.layers)
        self.plan.outputs = {name: self.plan.values[name] for name in sorted(self.available)}

    def _add_loss_copies(self) -> None:
        """A blob that is read and has a loss_weight too: Caffe's output is a copy of it.

        Its name is that of the first copy that Caffe's InsertSplits makes (util/insert_splits.cpp).
        """
        for plan in self.plan.layers:
            for index, (name, value) in enumerate(zip(plan.top_names, plan.tops)):
                if self.readers[value][:1] == ["its loss_weight"] and len(self.readers[value]) > 1:
                    copy = f"{name}_{plan.name}_{index}_split_0"
                    self.plan.values.setdefault(copy, value)
                    self.available.add(copy)

    # The steps of one layer ----------------------------------------------------------------------

    def _bottom(self, layer: Layer, name: str) -> int:
        if name not in self.plan.values:
            made = self.plan.values
            known = ", ".join(made if len(made) <= MOST else nearest(name, made)) or "none"
            which = f", the nearest of {len(made)}" if len(made) > MOST else ""
            raise NetError(
                f'{self.plan.source}: layer "{layer.name}": unknown bottom blob "{name}"; '
                f"blobs produced before it{which}: {known}"
            )
        value = self.plan.values[name]
        self.readers[value].append(layer.name)
        self.available.discard(name)
        return value

    def _top_names(self, layer: Layer) -> tuple[str, ...]:
        names = tuple(layer.param.top)
        missing = max(0, layer.tops.least - len(names)) if layer.is_loss else 0
        return names + (AUTOMATIC_TOP,) * missing

    def _check_counts(self, layer: Layer, tops: int) -> None:
        bottoms = len(layer.param.bottom)
        if not layer.bottoms.admits(bottoms):
            raise layer.error(f"takes {layer.bottoms} bottom blobs, got {bottoms}")
        if not layer.tops.admits(tops):
            raise layer.error(f"produces {layer.tops} top blobs, got {tops}")
        if layer.equal_bottoms_and_tops and bottoms != tops:
            raise layer.error(f"needs as many tops as bottoms, got {tops} and {bottoms}")
        if len(set(layer.param.top)) != len(layer.param.top):
            raise layer.error("names the same top blob twice")

    def _shape(
        self, layer: Layer, bottoms: Sequence[Shape], tops: Sequence[str]
    ) -> tuple[Sequence[BlobSpec], list[Shape]]:
        if not bottoms and tops and all(name in self.given for name in tops):
            # A Python layer that reads data is left out like any other source of given blobs.
            layer.is_data = True
        if not layer.is_data:
            _check_forks(layer)
            blobs = layer.setup(bottoms)
            return blobs, layer.reshape(bottoms)
        given = [self.given.get(name) for name in tops]
        if given and given[0] is not None:
            # Without the data file: labels default to one value per item of the first top.
            return (), [shape if shape is not None else given[0][:1] for shape in given]
        _check_forks(layer)
        layer.setup(bottoms)
        shapes = layer.reshape(bottoms)
        return (), [self.given.get(name, shape) for name, shape in zip(tops, shapes)]

    def _forget_consumed(self, layer: Layer, top_names: Sequence[str]) -> None:
        """Refuse what Caffe's automatic splits make impossible: overwriting a blob others read."""
        for index, name in enumerate(top_names):
            if name == AUTOMATIC_TOP or name not in self.plan.values:
                continue
            in_place = index < len(layer.param.bottom) and layer.param.bottom[index] == name
            if not in_place:
                raise layer.error(
                    f'top blob "{name}" is produced by multiple sources: layer '
                    f'"{self.producers[name]}" produces it already'
                )
            if not layer.in_place:
                raise layer.error(f'cannot work in place on "{name}": give the top another name')
            others = list(self.readers[self.plan.values[name]])
            others.remove(layer.name)
            if others:
                raise layer.error(
                    f'top blob "{name}" is produced by multiple sources: it is overwritten in '
                    f'place while "{others[0]}" reads it too'
                )

    def _top(self, layer: Layer, name: str, shape: Shape, loss_weight: float) -> int:
        value = len(self.shapes)
        self.shapes.append(shape)
        # Caffe counts a weight that the net gives, not the one that a loss has by itself.
        weighted = bool(layer.param.loss_weight) and loss_weight != 0
        self.readers.append(["its loss_weight"] if weighted else [])
        if name == AUTOMATIC_TOP:
            return value
        self.plan.values[name] = value
        self.producers[name] = layer.name
        self.available.add(name)
        if layer.is_data:
            self.plan.inputs[name] = value
        return value

    def _loss_weights(self, layer: Layer, tops: int) -> tuple[float, ...]:
        given = list(layer.param.loss_weight)
        if given and len(given) != tops:
            raise layer.error(
                f"has {len(given)} loss_weight values for {tops} tops; give none or one per top"
            )
        if layer.is_loss and not given and tops > 1:
            raise layer.error(
                f"has {tops} tops and no loss_weight; with more than one top, give each its own "
                "(loss_weight: 1 loss_weight: 0)"
            )
        default = 1.0 if layer.is_loss else 0.0
        return tuple(given) if given else (default,) * tops

    def _detached(self, layer: Layer) -> tuple[bool, ...]:
        flags = list(layer.param.propagate_down)
        number = len(layer.param.bottom)
        if flags and len(flags) != number:
            raise layer.error(
                f"has {len(flags)} propagate_down values for {number} bottoms; "
                "give none or one per bottom"
            )
        # force_backward overrules propagate_down, and lr_mult 0 (`_frozen`).
        cut = flags and not self.plan.net.force_backward
        return tuple(i in layer.no_gradient or bool(cut and not flags[i]) for i in range(number))

    # Parameters ----------------------------------------------------------------------------------

    def _frozen(self, param: pb.LayerParameter, blobs: int) -> tuple[bool, ...]:
        """Which blobs get no gradient from this layer: those whose own lr_mult is 0."""
        specs, forced = param.param, self.plan.net.force_backward
        return tuple(
            not forced and index < len(specs) and specs[index].lr_mult == 0
            for index in range(blobs)
        )

    def _owners(self, layer: Layer, blobs: Sequence[BlobSpec]) -> tuple[int, ...]:
        specs = layer.param.param
        if len(specs) > len(blobs):
            raise layer.error(
                f"has {len(specs)} param entries, but its {len(blobs)} blobs need no more"
            )
        return tuple(self._owner(layer, index, spec) for index, spec in enumerate(blobs))

    def _owner(self, layer: Layer, index: int, spec: BlobSpec) -> int:
        given = layer.param.param[index] if index < len(layer.param.param) else pb.ParamSpec()
        owner = self.shared.get(given.name) if given.name else None
        lr_mult = given.lr_mult if spec.trained else 0.0
        if owner is None:
            self.plan.learnables.append(
                Learnable(layer.name, index, spec, lr_mult, given.decay_mult)
            )
            self.lr_given.append(given.HasField("lr_mult"))
            self.decay_given.append(given.HasField("decay_mult"))
            owner = len(self.plan.learnables) - 1
            if given.name:
                self.shared[given.name] = owner
            return owner
        self._check_shared(layer, given, owner, spec)
        return owner

    def _check_shared(self, layer: Layer, given: pb.ParamSpec, owner: int, spec: BlobSpec) -> None:
        first = self.plan.learnables[owner]
        same = (
            math.prod(first.spec.shape) == math.prod(spec.shape)
            if given.share_mode == pb.ParamSpec.PERMISSIVE
            else first.spec.shape == spec.shape
        )
        if not same:
            raise layer.shape_error(
                f'shares parameter "{given.name}" of shape {first.spec.shape} with layer '
                f'"{first.layer}", but needs shape {spec.shape}'
            )
        for name, known in (("lr_mult", self.lr_given), ("decay_mult", self.decay_given)):
            if not given.HasField(name):
                continue
            value = getattr(given, name)
            if known[owner] and getattr(first, name) != value:
                raise layer.error(
                    f'shared parameter "{given.name}" has mismatched {name}: '
                    f'{value:g} here, {getattr(first, name):g} in layer "{first.layer}"'
                )
            known[owner] = True
            first = first._replace(**{name: value})
        self.plan.learnables[owner] = first
