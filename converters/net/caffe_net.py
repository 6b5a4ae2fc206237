"""From a prototxt to a net that runs: `load_net` and the `CaffeNet` it returns.

`converters.net.plan` wires the layers and infers shapes, `blobs` and `layer_module` hold what a
layer has, `lower` makes a torch.fx graph of the plan, which `passes` rewrite for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from converters.errors import NetError, ShapeError
from converters.layers import bind_torch
from converters.nearest import known_names
from converters.net.blobs import BlobStore
from converters.net.choice import NetChoice, Weights, weight_files
from converters.net.frozen import Frozen, freeze, straight
from converters.net.layer_module import LayerModule, Layers, attribute
from converters.net.lower import Variant, lower
from converters.net.memory import require_room
from converters.net.plan import NetPlan, plan_net
from converters.net.weights import LoadReport, fill_blobs, load_files

bind_torch()

Blobs = str | Sequence[str] | None
Inputs = Mapping[str, Any] | Tensor | np.ndarray | None


def load_net(
    path: str | Path,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    weights: Weights = None,
    strict: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    allow_python_layers: bool = False,
) -> CaffeNet:
    """Build the net of a prototxt in one phase, with parameters from fillers or `weights`.

    Args:
        path: a net prototxt, of any age.
        phase: "TRAIN" or "TEST", in small letters too; `level` and `stages` choose layers by their
            include rules.
        weights: a .caffemodel or .caffemodel.h5, or several, loaded in turn by layer name.
        strict: a layer with blobs that no weights file has is an error; otherwise the log names it.
        input_shapes: shapes by blob name; they win over the file's, and replace absent data files.

    Raises:
        PrototxtError, NetError, ShapeError, WeightsError, DataError: one line each.
    """
    return build_net(
        NetChoice(
            str(path),
            phase=phase,
            level=level,
            stages=tuple(stages),
            weights=weight_files(weights),
            strict=strict,
            input_shapes={name: tuple(shape) for name, shape in (input_shapes or {}).items()},
            allow_python_layers=allow_python_layers,
        )
    )


def build_net(choice: NetChoice, sharing: CaffeNet | None = None) -> CaffeNet:
    """The net of a choice, its blobs those of the net `sharing` where layers have one name.

    Raises as `load_net`, and as `CaffeNet.share`.
    """
    net = CaffeNet(plan_net(choice))
    if sharing is not None:
        net.share(sharing)
    net.initialize(choice.weights, choice.strict).warn()
    return net


class _ByLayer(dict[str, list[Tensor]]):
    """Blobs by layer; a name that there is not is told with the nearest."""

    def __missing__(self, name: str) -> list[Tensor]:
        raise KeyError(f'no layer "{name}" with blobs{known_names(str(name), self)}')


class CaffeNet(nn.Module):
    """A Caffe net as a torch module: names, blobs, loss and parameters around an fx graph.

    `layers` has the layers' modules, `store` their blobs, `plan` how they are wired. A net of phase
    TRAIN starts in training mode, one of phase TEST in evaluation mode; `train()` and `eval()`
    switch what differs between them (Dropout, BatchNorm's statistics …) and leave the layers that
    the phase chose. Inputs are converted to the floating type of the net, which is that of its
    blobs and follows `net.to(...)`; labels and indices stay exact in a net of half precision.
    """

    def __init__(self, plan: NetPlan) -> None:
        super().__init__()
        require_room(plan)
        self.plan = plan
        self.name: str = plan.net.name
        self.phase = plan.phase
        self.inputs: list[str] = list(plan.inputs)
        self.outputs: list[str] = list(plan.outputs)
        self.store = BlobStore(plan)
        self.layers = Layers()
        positions = [position for position in plan.layers if not position.layer.is_data]
        self.layer_modules = tuple(LayerModule(position, self.store) for position in positions)
        for position, module in zip(positions, self.layer_modules):
            self.layers.add_module(attribute(position.key), module)
        # Asked before each call, so kept in the form that is asked fastest.
        self._plain_modules = list(self.layer_modules)
        self._plain_hooks = [
            hooks
            for own in self.layer_modules
            for hooks in (
                own._forward_hooks,
                own._forward_pre_hooks,
                own._backward_hooks,
                own._backward_pre_hooks,
            )
        ]
        # What a net without blobs knows its type and device by.
        self._anchor: Tensor
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)
        self.layout = torch.contiguous_format
        self._graphs: dict[Variant, fx.GraphModule] = {}
        self._functions: dict[Variant, Callable[..., tuple[Tensor, ...]]] = {}
        self._frozen: dict[Variant, Frozen] = {}
        self._known_shapes = {tuple(plan.input_shapes().values())}
        self._exact = plan.exact_inputs()
        self.train(plan.phase == "TRAIN")
        # Made now: what traces the first call (torch.compile, a strict export) could not.
        self.graph(Variant(tuple(self.outputs)))

    def __getstate__(self) -> dict[str, Any]:
        # Graphs are made anew from the plan: a copy's call the copy's modules.
        return {**self.__dict__, "_graphs": {}, "_functions": {}, "_frozen": {}}

    # What users call -----------------------------------------------------------------------------

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """The layers' blobs by layer name, in Caffe's order and shapes, live.

        Where layers have one name, the first has it here, later ones NAME#2, NAME#3 …
        """
        return _ByLayer(
            (key, module.stored()) for key, module in self.keyed_modules() if module.shapes
        )

    def keyed_modules(self) -> list[tuple[str, LayerModule]]:
        """The layers' modules in Caffe's order, each with its key in `params`."""
        keys = [position.key for position in self.plan.layers if not position.layer.is_data]
        return list(zip(keys, self.layer_modules, strict=True))

    def module_of(self, key: str) -> nn.Module:
        """What runs as the layer of this key: its module, or what was put in its place.

        Raises:
            NetError: it was deleted.
        """
        module = self.layers._modules.get(attribute(key))
        if module is None:
            raise NetError(
                f'{self.plan.source}: layer "{key}" was deleted from the net\'s layers; give it '
                "another module (nn.Identity() hands its bottom on)"
            )
        return module

    @property
    def learnable(self) -> list[Tensor]:
        """Caffe's learnable_params: every owned blob in net order, statistics included."""
        return list(self.store)

    def parameter_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for a torch.optim of one's own: lr and weight_decay times each blob's multipliers.

        Statistics, and blobs whose lr_mult is 0, are in none. The parameters of a module in a
        layer's place have multipliers of 1.
        """
        groups: dict[tuple[float, float], list[Tensor]] = {}
        rest = {id(parameter): parameter for parameter in self.parameters()}
        for place, entry in enumerate(self.plan.learnables):
            parameters = self.store.parameters(place)
            for parameter in parameters:
                rest.pop(id(parameter), None)
            if entry.spec.trained and entry.lr_mult != 0:
                groups.setdefault((entry.lr_mult, entry.decay_mult), []).extend(parameters)
        if others := [parameter for parameter in rest.values() if parameter.requires_grad]:
            groups.setdefault((1, 1), []).extend(others)
        return [
            {"params": blobs, "lr": lr * lr_mult, "weight_decay": weight_decay * decay_mult}
            for (lr_mult, decay_mult), blobs in groups.items()
        ]

    def forward(
        self, inputs: Inputs = None, blobs: Blobs = None, **named: Any
    ) -> dict[str, Tensor]:
        """Run the net; returns its outputs, or `blobs="all"` or those named, by blob name.

        Args:
            inputs: an array or tensor per input blob by name, or one for a net of one input;
                `net(data=x)` is `net({"data": x})`.

        Raises:
            ShapeError: an input is missing or unknown, or its shape does not fit a layer.
        """
        tensors = self._tensors(inputs, named)
        if blobs is None:
            return dict(zip(self.outputs, self._run(Variant(tuple(self.outputs)), tensors)))
        if isinstance(blobs, str):
            names = tuple(self.plan.values) if blobs == "all" else (blobs,)
        else:
            names = tuple(blobs)
        self.require_blobs(names)
        return dict(zip(names, self.graph(Variant(names, fused=False))(*tensors)))

    def require_blobs(self, names: Sequence[str]) -> None:
        """Raise ShapeError for a name that no blob has."""
        unknown = [name for name in names if name not in self.plan.values]
        if unknown:
            meant = known_names(unknown[0], self.plan.values, "blobs:")
            raise ShapeError(f'{self.plan.source}: no blob "{unknown[0]}"{meant}')

    def loss(self, inputs: Inputs = None, **named: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Σ loss_weight · Σ top over all weighted tops, differentiable, and the net's outputs.

        Takes its inputs as `forward` does.
        """
        variant = Variant(tuple(self.outputs), loss=True)
        total, *outputs = self._run(variant, self._tensors(inputs, named))
        return total, dict(zip(self.outputs, outputs))

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph: takes tensors in the order of `inputs` and returns those of `outputs`."""
        return self.graph(Variant(tuple(self.outputs)))

    @property
    def loss_module(self) -> fx.GraphModule:
        """As `graph_module`, with the loss before the outputs."""
        return self.graph(Variant(tuple(self.outputs), loss=True))

    def ordered(self, inputs: Inputs) -> list[Tensor]:
        """Inputs as `graph_module` and `loss_module` take them: in their order, type and device.

        Takes and raises what `forward` does.
        """
        return self._tensors(inputs, {})

    def graph(self, variant: Variant) -> fx.GraphModule:
        """A graph over the net's layers, made once.

        Layers are run together only while all are the net's own and none carries a hook.

        Raises:
            NetError: a layer was deleted.
        """
        if not (variant.fused and self.is_plain()):
            variant = variant._replace(fused=False)
            for key, _ in self.keyed_modules():
                self.module_of(key)
        if variant not in self._graphs:
            self._graphs[variant] = lower(self.plan, self.layers, variant)
        return self._graphs[variant]

    def _run(self, variant: Variant, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results of a graph, by the frozen one where nothing can tell the difference."""
        if not self._may_freeze(tensors):
            return self._runner(variant)(*tensors)
        frozen = self._frozen.get(variant)
        if frozen is None or not frozen.watch.holds():
            frozen = freeze(self.plan, self.layers, variant, keep=frozen is not None)
            self._frozen[variant] = frozen
        return frozen.run(*tensors)

    def _runner(self, variant: Variant) -> Callable[..., tuple[Tensor, ...]]:
        """A graph, as a function of its own where its modules need not be called as such."""
        if _is_traced() or not (variant.fused and self.is_plain()):
            return self.graph(variant)
        if variant not in self._functions:
            self._functions[variant] = straight(self.graph(variant))
        return self._functions[variant]

    def _may_freeze(self, tensors: Sequence[Tensor]) -> bool:
        """Whether values alone are asked for: no gradient, and nobody looks at what is called."""
        return (
            not _is_traced()
            and not (torch.is_grad_enabled() and self._requires_grad(tensors))
            and not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))
            and all(type(x) is Tensor for x in tensors)
            and self.is_plain()
        )

    def _requires_grad(self, tensors: Sequence[Tensor]) -> bool:
        blobs = map(self.store.unseen, range(len(self.store)))
        return any(x.requires_grad for x in (*tensors, *blobs))

    def lay_out(self, layout: torch.memory_format) -> None:
        """Keep blobs of four axes, and inputs as they come, in a memory format of torch's.

        Shapes and values stay; which is faster depends on the net (`gmnet_pt.solver.layout`).
        """
        self.layout = layout
        lay_out([*self.parameters(), *self.buffers()], layout)

    def reset_state(self) -> None:
        """Zero what layers keep between forwards besides parameters (hidden states)."""
        for module in self.layer_modules:
            for tensor in module.state.values():
                tensor.zero_()

    # Blobs and files -----------------------------------------------------------------------------

    def load_weights(self, path: str | Path, strict: bool = False) -> LoadReport:
        """Copy a caffemodel's blobs by layer name; see `converters.net.weights`."""
        report = self.initialize([path], strict, refill=False)
        report.warn()
        return report

    def initialize(
        self, files: Sequence[str | Path], strict: bool = False, refill: bool = True
    ) -> LoadReport:
        """Load `files` in turn; with `refill`, blobs that none of them has get their fillers.

        Raises:
            WeightsError: see `converters.net.weights.load_files`.
        """
        report = load_files(self.plan, self.store, files, strict, given=refill)
        if refill:
            fill_blobs(self.plan, self.store, report.places)
        return report

    def share(self, other: CaffeNet) -> None:
        """Use `other`'s blobs for the layers of the same name (Caffe's ShareTrainedLayersWith).

        Raises:
            ShapeError: such layers have blobs of another number or shape.
        """
        theirs = {position.key: position for position in other.plan.layers}
        for position in self.plan.layers:
            source = theirs.get(position.key)
            if source is None:
                continue
            shapes = [[blob.shape for blob in one.blobs] for one in (position, source)]
            if shapes[0] != shapes[1]:
                raise ShapeError(
                    f'{self.plan.source}: layer "{position.name}" has blobs of shape {shapes[0]}, '
                    f"the net {other.plan.source} that it shares them with {shapes[1]}"
                )
            for place, other_place in zip(position.owners, source.owners):
                self.store.share(place, other.store, other_place)

    # How it is built -----------------------------------------------------------------------------

    def is_plain(self) -> bool:
        """Whether every layer is the module made for it, and no hook waits to be called."""
        return (
            list(self.layers._modules.values()) == self._plain_modules
            and not any(self._plain_hooks)
            and not any("forward" in own.__dict__ for own in self._plain_modules)
            and not _any_global_hook()
        )

    def _tensors(self, inputs: Inputs, named: Mapping[str, Any]) -> list[Tensor]:
        given = self._by_name(inputs, named)
        for name in self.inputs:
            if name not in given:
                raise ShapeError(
                    f'{self.plan.source}: input "{name}" is missing; '
                    f"the net takes {', '.join(self.inputs)}"
                )
        for name in given:
            if name not in self.plan.inputs:
                raise ShapeError(
                    f'{self.plan.source}: no input "{name}"; '
                    f"the net takes {', '.join(self.inputs) or 'none'}"
                )
        like = self.store.unseen(0) if len(self.store) else self._anchor
        exact = torch.promote_types(like.dtype, torch.float32)
        tensors = [
            self._tensor(name, given[name]).to(
                like.device, exact if name in self._exact else like.dtype
            )
            for name in self.inputs
        ]
        if not torch.compiler.is_compiling():
            self._check_shapes(tensors)
        if self.layout is torch.contiguous_format:
            return tensors
        return [_laid_out(x, self.layout) if x.dim() == 4 else x for x in tensors]

    def _by_name(self, inputs: Inputs, named: Mapping[str, Any]) -> Mapping[str, Any]:
        if inputs is None:
            return named
        if not isinstance(inputs, Mapping) and len(self.inputs) != 1:
            raise ShapeError(
                f"{self.plan.source}: one tensor for a net of {len(self.inputs)} inputs "
                f"({', '.join(self.inputs) or 'none'}); give a mapping from names to tensors"
            )
        given = inputs if isinstance(inputs, Mapping) else {self.inputs[0]: inputs}
        if twice := [name for name in named if name in given]:
            raise ShapeError(f'{self.plan.source}: input "{twice[0]}" is given twice')
        return {**given, **named} if named else given

    def _tensor(self, name: str, value: Any) -> Tensor:
        """An input as a tensor; arrays may be read-only, reversed, or of any number type."""
        if isinstance(value, Tensor):
            return value
        try:
            array = np.require(value, requirements=["C", "W"])
            wide = array.dtype.kind == "f" and array.itemsize > 8
            native = np.float64 if wide else array.dtype.newbyteorder("=")
            return torch.from_numpy(array.astype(native, copy=False))
        except (TypeError, ValueError) as error:
            raise ShapeError(
                f'{self.plan.source}: input "{name}" is no array of numbers: {error}'
            ) from error

    def _check_shapes(self, tensors: Sequence[Tensor]) -> None:
        shapes = tuple(tuple(x.shape) for x in tensors)
        if shapes not in self._known_shapes:
            self.plan.check_shapes(dict(zip(self.inputs, shapes)))
            self._known_shapes.add(shapes)


def _laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """(N, C, H, W) in that format, by its strides too: kernels go by those.

    One channel lies in memory as channels_last does, but with strides that torch takes for NCHW.
    """
    x = x.contiguous(memory_format=layout)
    if x.shape[1] == 1 and layout is torch.channels_last:
        return x.as_strided(x.shape, (x.shape[2] * x.shape[3], 1, x.shape[3], 1))
    return x


def lay_out(tensors: Iterable[Tensor], layout: torch.memory_format) -> None:
    """Put the memory of those tensors that have four axes into a format, in their place."""
    for tensor in tensors:
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)


def _is_traced() -> bool:
    """Whether somebody traces or transforms the operations that are called now."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.maybe_current_level() is not None
    )


def _any_global_hook() -> bool:
    hooks = nn.modules.module
    return bool(
        hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
        or hooks._global_backward_hooks
        or hooks._global_backward_pre_hooks
    )
