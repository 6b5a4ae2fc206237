"""From a prototxt to a torch.fx graph of Caffe layers: `load_net` and the `CaffeNet` it returns.

`converters.net.plan` wires the layers and infers shapes; here every layer becomes one call of a
small module that holds its blobs, in Caffe's order, and `converters.net.passes` rewrites the graph
for speed.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from converters.errors import ShapeError
from converters.layers import Layer, bind_torch
from converters.net.choice import NetChoice, weight_files
from converters.net.passes import fusion as passes
from converters.net.plan import LayerPlan, NetPlan, plan_net
from converters.net.weights import LoadReport, initialize
from converters.proto import caffe_pb2 as pb

bind_torch()

Blobs = Literal["all"] | Sequence[str] | None


def load_net(
    path: str | Path,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    weights: str | Path | Sequence[str | Path] | None = None,
    strict: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    allow_python_layers: bool = False,
) -> CaffeNet:
    """Build the net of a prototxt in one phase, with parameters from fillers or `weights`.

    Args:
        path: a net prototxt, of any age.
        phase: "TRAIN" or "TEST"; `level` and `stages` choose layers by their include rules.
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


def build_net(choice: NetChoice) -> CaffeNet:
    """The net of a choice; raises as `load_net`."""
    net = CaffeNet(plan_net(choice))
    net.initialize(choice.weights, choice.strict).warn(choice.weights)
    return net


class LayerModule(nn.Module):
    """One layer of the graph: its parameter blobs, its state, and its arithmetic."""

    def __init__(self, plan: LayerPlan, blobs: Sequence[Tensor]) -> None:
        super().__init__()
        self.layer = plan.layer
        self.detached = plan.detached if any(plan.detached) else ()
        self.shapes = tuple(spec.shape for spec in plan.blobs)
        self.frozen = plan.frozen
        for index, (spec, blob) in enumerate(zip(plan.blobs, blobs)):
            if spec.trained:
                self.register_parameter(f"blob{index}", nn.Parameter(blob, blob.requires_grad))
            else:
                self.register_buffer(f"blob{index}", blob)
        self._state_names = []
        for name, shape in plan.layer.state_shapes(plan.bottom_shapes).items():
            self.register_buffer(f"state_{name}", torch.zeros(shape), persistent=False)
            self._state_names.append(name)

    @property
    def blobs(self) -> list[Tensor]:
        """The parameter blobs in Caffe's order; one shared from another layer has its own shape."""
        return [self._blob(index) for index in range(len(self.shapes))]

    def _blob(self, index: int) -> Tensor:
        blob: Tensor = getattr(self, f"blob{index}")
        if self.frozen[index] and blob.requires_grad:
            blob = blob.detach()
        return blob if blob.shape == self.shapes[index] else blob.view(self.shapes[index])

    def stored(self) -> list[Tensor]:
        """The blobs as parameters, without the cut that lr_mult 0 makes in a gradient's way."""
        blobs = [getattr(self, f"blob{index}") for index in range(len(self.shapes))]
        return [
            blob if blob.shape == shape else blob.view(shape)
            for blob, shape in zip(blobs, self.shapes)
        ]

    @property
    def state(self) -> dict[str, Tensor]:
        """State kept between forwards, by name."""
        return {name: getattr(self, f"state_{name}") for name in self._state_names}

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the layer on its bottoms."""
        if self.detached:
            bottoms = tuple(
                x.detach() if cut else x for x, cut in zip(bottoms, self.detached, strict=True)
            )
        return self.layer.forward(self, *bottoms)

    def extra_repr(self) -> str:
        """The layer's type and name, for `print(net)`."""
        return f"{self.layer.type} {self.layer.name!r}"


class Layers(nn.Module):
    """The namespace of a net's layers, so that no layer's name meets another attribute."""


def escape(name: str) -> str:
    """A layer's name as an attribute name of `Layers`; different names stay different.

    Characters that Python does not allow become `_xHH_`; names that a module uses itself are
    prefixed with `_x_`.
    """
    escaped = re.sub(r"_(?=x)|[^A-Za-z0-9_]", lambda m: f"_x{ord(m[0]):02x}_", name)
    reserved = keyword.iskeyword(escaped) or hasattr(nn.Module(), escaped)
    return f"_x_{escaped}" if reserved or not escaped or escaped[0].isdigit() else escaped


class CaffeNet(nn.Module):
    """A Caffe net as a torch module: names, blobs, loss and parameters around an fx graph.

    `graph_module` takes tensors in the order of `inputs` and returns those of `outputs`.
    """

    def __init__(self, plan: NetPlan) -> None:
        super().__init__()
        self.plan = plan
        self.name: str = plan.net.name
        self.phase = plan.phase
        self.inputs: list[str] = list(plan.inputs)
        self.outputs: list[str] = list(plan.outputs)
        owned = _make_blobs(plan)
        self._layer_modules: dict[str, LayerModule] = {}
        root = nn.Module()
        root.layers = Layers()
        modules = []
        for position in plan.layers:
            if position.layer.is_data:
                continue
            module = LayerModule(position, [owned[owner] for owner in position.owners])
            self._share(position, module, owned)
            modules.append(module)
        self.layer_modules = tuple(modules)
        self._targets = _add_layers(root.layers, modules)
        self._root = (root,)
        self._variants: dict[tuple[str, ...], fx.GraphModule] = {}
        self._known_shapes = {tuple(plan.input_shapes().values())}
        self.graph_module = self._build(tuple(self.outputs), loss=False, fused=True)
        if plan.phase == "TEST":
            self.eval()

    def _share(self, position: LayerPlan, module: LayerModule, owned: list[Tensor]) -> None:
        """Put this module's parameters in place of the plain tensors, so that sharers get them."""
        for index, owner in enumerate(position.owners):
            blob = getattr(module, f"blob{index}")
            if isinstance(owned[owner], nn.Parameter):
                setattr(module, f"blob{index}", owned[owner])
            else:
                owned[owner] = blob

    # What users call -----------------------------------------------------------------------------

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """The layers' blobs by layer name, in Caffe's order and shapes, live."""
        return {m.layer.name: m.stored() for m in self.layer_modules if m.shapes}

    @property
    def learnable(self) -> list[Tensor]:
        """Caffe's learnable_params: every owned blob in net order, statistics included."""
        by_name = {module.layer.name: module for module in self.layer_modules}
        return [
            getattr(by_name[entry.layer], f"blob{entry.place}") for entry in self.plan.learnables
        ]

    @property
    def layers(self) -> list[Layer]:
        """The layers in Caffe's order, data layers included."""
        return [position.layer for position in self.plan.layers]

    def forward(
        self, inputs: Mapping[str, Any] | None = None, blobs: Blobs = None
    ) -> dict[str, Tensor]:
        """Run the net; returns its outputs, or `blobs="all"` or those named, by blob name.

        Args:
            inputs: an array or tensor per input blob; integers become the net's floating type.

        Raises:
            ShapeError: an input is missing or unknown, or its shape does not fit a layer.
        """
        tensors = self._tensors(inputs or {})
        if blobs is None:
            return dict(zip(self.outputs, self.graph_module(*tensors)))
        names = tuple(self.plan.values) if isinstance(blobs, str) else tuple(blobs)
        self.require_blobs(names)
        return dict(zip(names, self.variant(names, fused=False)(*tensors)))

    def require_blobs(self, names: Sequence[str]) -> None:
        """Raise ShapeError for a name that no blob has."""
        unknown = [name for name in names if name not in self.plan.values]
        if unknown:
            raise ShapeError(
                f'{self.plan.source}: no blob "{unknown[0]}"; blobs: {", ".join(self.plan.values)}'
            )

    def loss(self, inputs: Mapping[str, Any] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Σ loss_weight · Σ top over all weighted tops, differentiable, and the net's outputs."""
        total, *outputs = self.loss_module(*self._tensors(inputs or {}))
        return total, dict(zip(self.outputs, outputs))

    @property
    def loss_module(self) -> fx.GraphModule:
        """As `graph_module`, with the loss before the outputs."""
        return self.variant(tuple(self.outputs), loss=True)

    def variant(
        self, names: tuple[str, ...], loss: bool = False, fused: bool = True
    ) -> fx.GraphModule:
        """A graph over the same layers that returns other blobs; built once."""
        key = (*names, f"\0{loss}{fused}")
        if key not in self._variants:
            self._variants[key] = self._build(names, loss, fused)
        return self._variants[key]

    def reset_state(self) -> None:
        """Zero what layers keep between forwards besides parameters (hidden states)."""
        for module in self.layer_modules:
            for tensor in module.state.values():
                tensor.zero_()

    def load_weights(self, path: str | Path, strict: bool = False) -> LoadReport:
        """Copy a caffemodel's blobs by layer name; see `converters.net.weights`."""
        report = self.initialize([path], strict, refill=False)
        report.warn([path])
        return report

    def initialize(
        self, files: Sequence[str | Path], strict: bool = False, refill: bool = True
    ) -> LoadReport:
        """Load `files` in turn; with `refill`, layers that none of them has run their fillers."""
        return initialize(self, files, strict, refill)

    def to_message(self) -> pb.NetParameter:
        """The net without blobs as Caffe's Net::ToProto writes it, for a caffemodel."""
        from converters.net.written import snapshot_net

        return snapshot_net(self.plan.net, self.phase)

    # How it is built -----------------------------------------------------------------------------

    def _build(self, names: tuple[str, ...], loss: bool, fused: bool) -> fx.GraphModule:
        graph = fx.Graph()
        nodes: dict[int, fx.Node] = {}
        terms: list[fx.Node] = []
        for name, value in self.plan.inputs.items():
            nodes[value] = graph.placeholder(_identifier(name))
        called = iter(self._targets)
        for position in self.plan.layers:
            if not position.layer.is_data:
                _call(graph, nodes, position, next(called))
            for value, weight in zip(position.tops, position.loss_weights):
                if weight:
                    term = graph.call_method("sum", (nodes[value],))
                    terms.append(
                        term if weight == 1 else graph.call_function(operator.mul, (term, weight))
                    )
        results = [nodes[self.plan.values[name]] for name in names]
        if loss:
            results.insert(0, _sum(graph, terms))
        graph.output(tuple(results))
        (root,) = self._root
        module = fx.GraphModule(root, graph, class_name="CaffeGraph")
        if fused:
            passes.fuse_batch_norm_and_scale(module)
            passes.work_in_place(module)
        module.graph.lint()
        module.recompile()
        return module

    def _tensors(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        for name in self.inputs:
            if name not in inputs:
                raise ShapeError(
                    f'{self.plan.source}: input "{name}" is missing; '
                    f"the net takes {', '.join(self.inputs)}"
                )
        for name in inputs:
            if name not in self.plan.inputs:
                raise ShapeError(
                    f'{self.plan.source}: no input "{name}"; '
                    f"the net takes {', '.join(self.inputs) or 'none'}"
                )
        like = next(iter(self.parameters()), None)
        dtype = torch.get_default_dtype() if like is None else like.dtype
        device = None if like is None else like.device
        tensors = [_tensor(inputs[name], dtype, device) for name in self.inputs]
        shapes = tuple(tuple(x.shape) for x in tensors)
        if shapes not in self._known_shapes:
            self.plan.check_shapes(dict(zip(self.inputs, shapes)))
            self._known_shapes.add(shapes)
        return tensors


def _tensor(value: Any, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    if not tensor.is_floating_point() or (not isinstance(value, Tensor) and tensor.dtype != dtype):
        tensor = tensor.to(dtype)
    return tensor if device is None or tensor.device == device else tensor.to(device)


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name) or "blob"


def _call(graph: fx.Graph, nodes: dict[int, fx.Node], position: LayerPlan, target: str) -> None:
    """Append a layer's call and, for several tops, the items of its result."""
    node = graph.create_node(
        "call_module",
        target,
        tuple(nodes[value] for value in position.bottoms),
        name=_identifier(position.name),
    )
    if len(position.tops) == 1:
        nodes[position.tops[0]] = node
        return
    for index, value in enumerate(position.tops):
        nodes[value] = graph.call_function(operator.getitem, (node, index))


def _sum(graph: fx.Graph, terms: Sequence[fx.Node]) -> fx.Node:
    if not terms:
        return graph.call_function(torch.zeros, ((),))
    total = terms[0]
    for term in terms[1:]:
        total = graph.call_function(operator.add, (total, term))
    return total


def _make_blobs(plan: NetPlan) -> list[Tensor]:
    """Unfilled storage for every owned blob; lr_mult 0 everywhere means no gradient."""
    used = {owner for p in plan.layers for owner, cut in zip(p.owners, p.frozen) if not cut}
    blobs = []
    for index, entry in enumerate(plan.learnables):
        blob = torch.zeros(entry.spec.shape)
        blobs.append(blob.requires_grad_(entry.spec.trained and index in used))
    return blobs


def _add_layers(layers: Layers, modules: Sequence[LayerModule]) -> list[str]:
    """Register the modules under escaped names; returns their fx targets."""
    targets = []
    for module in modules:
        name = escape(module.layer.name)
        # Caffe allows two layers of one name; the later ones get a number.
        unique, number = name, 1
        while hasattr(layers, unique):
            number += 1
            unique = f"{name}_x_{number}"
        layers.add_module(unique, module)
        targets.append(f"layers.{unique}")
    return targets
