"""The registry of layer types, and what a layer is: shapes without torch, arithmetic with it.

A family of layers is one file beside this one. Its classes say what Caffe's LayerSetUp, Reshape and
Forward do. Shapes must be known without importing torch (the generator's audit and the summary need
them), so a family imports torch under TYPE_CHECKING alone and `converters.layers.bind_torch` puts
the modules in its namespace when `converters.net.caffe_net` asks for arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from converters.environment import Environment
from converters.errors import NetError, ShapeError
from converters.layers.unknown import require_known
from converters.proto import caffe_pb2 as pb
from converters.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

ENGINE = "Caffe's engines compute the same; torch chooses its own kernels"


@dataclass(frozen=True)
class BlobSpec:
    """A parameter blob: its shape, its filler, and whether training changes it.

    `name` is the blob's in a state_dict. `trained` is False for statistics that the layer itself
    keeps (BatchNorm), and `neutral` is what makes those pass values as they are; `values` come in
    the filler's place where a Python layer fills its blobs itself. `also` are the shapes under
    which other forks' weights have the blob.
    """

    name: str
    shape: Shape
    filler: pb.FillerParameter = field(default_factory=pb.FillerParameter)
    trained: bool = True
    neutral: float | None = None
    values: np.ndarray | None = field(default=None, compare=False)
    also: tuple[Shape, ...] = ()


def extent(sizes: Sequence[int]) -> str:
    """Sizes on the spatial axes in short: `3` where they are equal, else `3×5`."""
    return "×".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))


class Count(NamedTuple):
    """How many bottoms or tops a layer takes; `most` None means any number."""

    least: int
    most: int | None

    def admits(self, number: int) -> bool:
        """True if `number` blobs are allowed."""
        return number >= self.least and (self.most is None or number <= self.most)

    def __str__(self) -> str:
        if self.most == self.least:
            return f"{self.least}"
        return f"{self.least} or more" if self.most is None else f"{self.least} to {self.most}"


class LayerState(Protocol):
    """What forward may use besides its bottoms: the parameter blobs, and state that it keeps.

    `blobs` are in Caffe's order; `state` holds named tensors that live on the net's device between
    forwards and are not parameters (a recurrent layer's hidden state). `training` says whether the
    layer computes as in TRAIN, which is where its phase put it until somebody changes that.
    """

    training: bool

    @property
    def blobs(self) -> list[Tensor]: ...
    @property
    def state(self) -> dict[str, Tensor]: ...


class Layer:
    """One layer of a net; subclasses are registered under their Caffe type.

    Class attributes say what Caffe's layer headers say: how many bottoms and tops, which bottoms
    never receive a gradient, whether the tops come from outside (`is_data`) or default to a loss;
    which bottoms are `whole_numbers` (labels, indices) and whether the layer only `moves_values`;
    whether it counts in a net's depth; whether running it leaves traces elsewhere (`has_effects`);
    why no CUDA graph can hold it (`needs_host`, in words that go on from its name); which fields
    that forks gave to messages it computes (`of_forks`); and what `docs/layers.md` tells: fields
    without effect (`ignored`) and what is `refused`, each with its reason, and where the result
    differs from Caffe's.
    """

    type: ClassVar[str]
    colour: ClassVar[str]
    """Of its family, in pictures of nets."""
    origin: ClassVar[str] = "BVLC Caffe"
    """Whose layer it is: Caffe's own, or a fork's."""
    counts_as_depth: ClassVar[bool] = False
    whole_numbers: ClassVar[tuple[int, ...]] = ()
    moves_values: ClassVar[bool] = False
    needs_host: ClassVar[str] = ""
    has_effects: ClassVar[bool] = False
    params: ClassVar[tuple[str, ...]] = ()
    of_forks: ClassVar[tuple[str, ...]] = ()
    """`loss_param.pre_fixed_normalizer`; `loss_param.normalization.PRE_FIXED` for a value."""
    ignored: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, str]] = {}
    differences: ClassVar[str] = ""
    bottoms: ClassVar[Count] = Count(1, 1)
    tops: ClassVar[Count] = Count(1, 1)
    equal_bottoms_and_tops: ClassVar[bool] = False
    is_data: bool = False
    is_loss: ClassVar[bool] = False
    no_gradient: ClassVar[tuple[int, ...]] = ()
    in_place: ClassVar[bool] = True

    def __init__(self, param: pb.LayerParameter, environment: Environment) -> None:
        self.param = param
        self.environment = environment
        self.name: str = param.name
        self.phase = environment.phase

    # What a family implements -------------------------------------------------------------------

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        """Check the fields against the bottoms' shapes; declare the parameter blobs."""
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The tops' shapes for the bottoms'; called after `setup`, again for every new shape."""
        return [bottoms[0]]

    def state_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        """Names and shapes of state kept between forwards, zero at first."""
        return {}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The top, or the tuple of tops if there are several (or a variable number)."""
        raise NotImplementedError

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Multiply-adds of a forward over the whole batch; convolutions and products count."""
        return 0

    def detail(self) -> str:
        """What a picture says beside the type, after `setup`: `3, 64` of a convolution."""
        return ""

    @classmethod
    def upgrade(cls, param: pb.LayerParameter) -> None:
        """Change what Caffe changes in an old file's layer of this type when it reads it."""

    @classmethod
    def complete(cls, param: pb.LayerParameter, source: str) -> None:
        """Write into `param` what Caffe's layer writes there when it is set up, for a snapshot.

        Raises:
            NetError: Caffe's layer would refuse it; `source` names the file.
        """
        if cls.is_loss and not param.loss_weight:
            param.loss_weight.append(1)

    # Where a type has several meanings (`Family.meaning`) ---------------------------------------

    @classmethod
    def told_by(cls, param: pb.LayerParameter) -> str:
        """What in the prototxt says that the type has this meaning here; "" if nothing does."""
        return ""

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        """Whether blobs of these shapes in a caffemodel are those of this meaning."""
        return False

    # What they may use --------------------------------------------------------------------------

    def error(self, message: str) -> NetError:
        """An error about this layer's fields."""
        return NetError(f'{self.environment.source}: layer "{self.name}" ({self.type}): {message}')

    def shape_error(self, message: str) -> ShapeError:
        """An error about this layer's shapes."""
        return ShapeError(
            f'{self.environment.source}: layer "{self.name}" ({self.type}): {message}'
        )

    def bottom_name(self, index: int) -> str:
        """The name of a bottom, quoted for an error."""
        return f'"{self.param.bottom[index]}"'

    def axis(self, axis: int, number_of_axes: int, field_name: str = "axis") -> int:
        """`axis` counted from the front; a negative one counts from the back."""
        if not -number_of_axes <= axis < number_of_axes:
            accepted = f"{-number_of_axes} to {number_of_axes - 1}" if number_of_axes else "none"
            raise self.shape_error(
                f"{field_name} {axis} is out of range for a blob of {number_of_axes} axes "
                f"(accepted: {accepted})"
            )
        return axis % number_of_axes

    def require_one_shape(self, bottoms: Sequence[Shape]) -> None:
        """Raise unless all bottoms have the first one's shape."""
        for index, shape in enumerate(bottoms):
            if shape != bottoms[0]:
                raise self.shape_error(
                    f"bottoms must have one shape: {self.bottom_name(0)} is {bottoms[0]}, "
                    f"{self.bottom_name(index)} is {shape}"
                )

    def require_same_count(self, bottoms: Sequence[Shape], first: int = 0, second: int = 1) -> None:
        """Raise unless two bottoms have equally many values."""
        if math.prod(bottoms[first]) != math.prod(bottoms[second]):
            raise self.shape_error(
                f"{self.bottom_name(first)} {bottoms[first]} and {self.bottom_name(second)} "
                f"{bottoms[second]} must have the same number of values"
            )


LayerClass = TypeVar("LayerClass", bound=type[Layer])
LAYERS: Registry[type[Layer]] = Registry("layer type")
MEANINGS: dict[str, list[type[Layer]]] = {}
"""The classes of a type that means one thing in one fork and another in the next: the one that is
meant where nothing tells is first. `converters.layers.meanings` chooses."""


class Family(NamedTuple):
    """A file of layer types that are drawn in one colour; calling it registers one of them."""

    colour: str

    def __call__(self, type_name: str, *params: str) -> Callable[[LayerClass], LayerClass]:
        """Register a class under its Caffe type; `params` are the LayerParameter fields it reads.

        Raises:
            ValueError: the type is registered already.
        """

        def add(cls: LayerClass) -> LayerClass:
            cls.type, cls.params, cls.colour = type_name, params, self.colour
            LAYERS.add(type_name)(cls)
            return cls

        return add

    def meaning(self, type_name: str, *params: str) -> Callable[[LayerClass], LayerClass]:
        """Register a class as what a registered type means in another fork, its `origin`.

        It is the entry `Type of fork` too, and a prototxt may say so itself.

        Raises:
            KeyError: the type is not registered yet.
            ValueError: that fork has a meaning of the type already.
        """

        def add(cls: LayerClass) -> LayerClass:
            cls.type, cls.params, cls.colour = type_name, params, self.colour
            meanings = MEANINGS.setdefault(type_name, [LAYERS[type_name]])
            LAYERS.add(f"{type_name} of {cls.origin}")(cls)
            meanings.append(cls)
            return cls

        return add


def make_layer(
    param: pb.LayerParameter, environment: Environment, meant: type[Layer] | None = None
) -> Layer:
    """The layer that `param` describes; its own `phase` wins over the net's.

    `meant` is the class where the type has several meanings; by default the first of them.

    Raises:
        NetError: no such type is registered.
    """
    require_known([param], LAYERS, environment.source)
    if param.HasField("phase"):
        environment = environment._replace(phase=pb.Phase.Name(param.phase))
    return (meant or LAYERS[param.type])(param, environment)
