"""A part of a net as the text of a Python module that needs torch alone, one line a layer.

The text is what a `.py` export is. `.pt2` and `.onnx` are traced from the module that it defines,
where a layer that no line says is called as it is in the net (`Module.called`).
"""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from converters.errors import NetError
from converters.export import arithmetic
from converters.export.part import Part
from converters.export.writing import BLOB, Call, NoLineError, write_line
from converters.layers.registry import Shape
from converters.net.caffe_net import CaffeNet
from converters.net.layer_module import attribute
from converters.net.lower import arguments
from converters.net.plan import AUTOMATIC_TOP, LayerPlan, NetPlan

_FUNCTIONS = {
    name: inspect.getsource(function)
    for name, function in vars(arithmetic).items()
    if inspect.isfunction(function)
}
_NAMES = ("F", "Path", "Tensor", "json", "nn", "load", "read_blobs")


class Line(NamedTuple):
    """A line of `forward`, and the layer that it computes."""

    text: str
    layer: LayerPlan


@dataclass
class Module:
    """The module of a part: its text, and the tensors that belong to it.

    `blobs` are by their names in the text; `statistics` those of them that training does not
    change; `called` the layers that are called as in the net, by their keys; `notes` what differs.
    """

    text: str
    name: str
    lines: tuple[Line, ...]
    blobs: dict[str, Tensor]
    statistics: tuple[str, ...]
    called: dict[str, nn.Module] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def build(self) -> nn.Module:
        """The module, from the text and on the blobs, in evaluation mode."""
        file = f"<{self.name}>"
        # Tracers look for the text of what they trace.
        linecache.cache[file] = (len(self.text), None, self.text.splitlines(True), file)
        names: dict[str, Any] = {"__name__": self.name, "__file__": file}
        exec(compile(self.text, file, "exec"), names)
        built: nn.Module = names[self.name](self.blobs, self.statistics)
        built.as_in_caffe = nn.ModuleList(self.called.values())
        return built.eval()

    def layer_at(self, text: str) -> LayerPlan | None:
        """The layer of the last line of this module that a text names: a stack, a message."""
        rows = self.text.splitlines()
        lines = {line.text: line.layer for line in self.lines}
        found = None
        for number in re.findall(_PLACE.format(re.escape(self.name)), text):
            found = lines.get(rows[int(number) - 1].strip(), found)
        return found

    def layer_in(self, error: BaseException | None) -> LayerPlan | None:
        """The layer in whose line an error was raised, or that its message names."""
        while error is not None:
            stack = "".join(traceback.format_tb(error.__traceback__))
            if found := self.layer_at(f"{error}\n{stack}"):
                return found
            error = error.__cause__ or error.__context__
        return None


_PLACE = r'"<{}>", line (\d+)'
"""How a message names a line of a module."""


def write_module(net: CaffeNet, part: Part, weights: str, calls: bool = False) -> Module:
    """The module of a part of a net; `weights` names the file that its `load` reads.

    With `calls` a layer without a line is called as in the net.

    Raises:
        NetError: layers have no line; all of them are named.
    """
    variables = _variables(net.plan)
    blobs = _Blobs(net)
    lines: list[Line] = []
    notes: dict[tuple[str, str], list[str]] = {}
    called: dict[str, nn.Module] = {}
    missing: list[tuple[LayerPlan, str]] = []
    for position in part.layers:
        call = Call(
            position,
            tuple(variables[value] for value in position.bottoms),
            tuple(blobs.expressions(position)),
            blob_key=attribute(position.key),
        )
        try:
            expression = write_line(call)
        except NoLineError as reason:
            missing.append((position, str(reason)))
            called[position.key] = net.module_of(position.key)
            expression = f"self.as_in_caffe[{len(called) - 1}]({', '.join(call.bottoms)})"
        blobs.add(call)
        for note in call.notes:
            notes.setdefault((position.layer.type, note), []).append(position.name)
        tops = ", ".join(variables[value] for value in position.tops)
        about = f"  # {_word(position.name)} ({position.layer.type})"
        lines.append(Line(f"{tops} = {expression}{about}", position))
    if missing and not calls:
        raise NetError(_no_line(part, missing))
    results = [variables[net.plan.values[name]] for name in part.outputs]
    name = arguments([net.name or "Net"], (*_NAMES, *_FUNCTIONS))[0]
    text = _text(
        name,
        part,
        [variables[net.plan.inputs[one]] for one in part.inputs],
        lines,
        results,
        weights,
    )
    return Module(
        text,
        name,
        tuple(lines),
        blobs.found,
        tuple(blobs.statistics),
        called,
        tuple(_note(*about, names) for about, names in notes.items()),
    )


def _variables(plan: NetPlan) -> dict[int, str]:
    """The variable of each value: that of its blob, which a value made of it in place has too."""
    values = [
        (name if name != AUTOMATIC_TOP else position.key, value)
        for position in plan.layers
        for name, value in zip(position.top_names, position.tops)
    ]
    blobs = dict.fromkeys(name for name, _ in values)
    known = dict(zip(blobs, arguments(blobs, (*_NAMES, *_FUNCTIONS)), strict=True))
    return {value: known[name] for name, value in values}


def _named(position: LayerPlan) -> str:
    return f'layer "{position.name}" ({position.layer.type})'


def _note(kind: str, note: str, names: list[str]) -> str:
    """`PriorBox "a", "b": …`, the first three by name."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    quoted = ", ".join(f'"{name}"' for name in names[:3])
    return f"{kind} {quoted}{more} {note}"


def _no_line(part: Part, missing: list[tuple[LayerPlan, str]]) -> str:
    told = "; ".join(f"{_named(position)}: {reason}" for position, reason in missing)
    return f"{part.plan.source}: cannot be written in torch's own words: {told}{leave_out(part)}"


def leave_out(part: Part, position: LayerPlan | None = None) -> str:
    """The end of an error: how to export what comes before a layer, or before any."""
    if position is None:
        return "; --until BLOB exports what comes before"
    names = {value: name for name, value in part.plan.values.items()}
    made = [names[value] for value in position.bottoms if value not in part.plan.inputs.values()]
    until = " ".join(f"--until {name}" for name in made)
    return f"; leave it out: {until}" if until else ""


class _Blobs:
    """The tensors that lines name: the layers' blobs where they have their owner, and constants."""

    def __init__(self, net: CaffeNet) -> None:
        self.net = net
        self.found: dict[str, Tensor] = {}
        self.statistics: list[str] = []
        self.owners: dict[int, str] = {}
        for position in net.plan.layers:
            for place, spec in zip(position.owners, position.blobs):
                self.owners.setdefault(place, f"{attribute(position.key)}.{spec.name}")

    def expressions(self, position: LayerPlan) -> Iterable[str]:
        for place, spec in zip(position.owners, position.blobs):
            name, blob = self.owners[place], self.net.store[place].detach()
            if name not in self.found:
                self.found[name] = blob.contiguous()
                if not self.net.plan.learnables[place].spec.trained:
                    self.statistics.append(name)
            expression = BLOB.format(name=name)
            same = tuple(blob.shape) == spec.shape
            yield expression if same else f"{expression}.view({spec.shape})"

    def add(self, call: Call) -> None:
        for name, value in call.constants.items():
            self.found[f"{call.blob_key}.{name}"] = value
            self.statistics.append(f"{call.blob_key}.{name}")


def used_functions(lines: Iterable[str]) -> list[str]:
    """The functions of `arithmetic` that lines call, and those that these call, in its order."""
    used: set[str] = set()
    waiting = list(lines)
    while waiting:
        text = waiting.pop()
        for name in _FUNCTIONS:
            if name not in used and re.search(rf"\b{name}\(", text):
                used.add(name)
                waiting.append(_FUNCTIONS[name])
    return [name for name in _FUNCTIONS if name in used]


def _word(name: str) -> str:
    """A name as it may stand in a comment or a docstring of one line."""
    return name.encode("unicode_escape").decode().replace('"', "'") if name else '""'


def _shape(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _blobs_line(shapes: dict[str, Shape]) -> str:
    return (
        ", ".join(f"{_word(name)} {_shape(shape)}" for name, shape in shapes.items()) or "nothing"
    )


def _text(
    name: str,
    part: Part,
    inputs: list[str],
    lines: list[Line],
    results: list[str],
    weights: str,
) -> str:
    functions = used_functions(line.text for line in lines)
    body = "\n".join(f"        {line.text}" for line in lines)
    return TEMPLATE.format(
        title=_word(part.plan.net.name or "A Caffe net"),
        name=name,
        inputs=_blobs_line(part.input_shapes()),
        outputs=_blobs_line(part.output_shapes()),
        takes="".join(f", {one}: Tensor" for one in inputs),
        given=", ".join(inputs),
        gives="Tensor" if len(results) == 1 else f"tuple[{', '.join(['Tensor'] * len(results))}]",
        result=", ".join(results),
        weights=weights,
        functions="".join(f"\n\n{_FUNCTIONS[function]}" for function in functions),
        body=body,
    )


TEMPLATE = '''"""{title}: a Caffe net in its TEST phase, as a module of torch.

Takes {inputs}.
Gives {outputs}.

    net = load()
    {result} = net({given})

Made by `gmnet export`. A line of `forward` is a layer, with its name and type in Caffe behind it;
`self["LAYER.BLOB"]` is a layer's weight, bias or statistic, in Caffe's shape and order.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
{functions}

class {name}(nn.Module):
    """{inputs} to {outputs}."""

    def __init__(self, blobs: dict[str, Tensor], statistics: tuple[str, ...] = ()) -> None:
        super().__init__()
        for name, blob in blobs.items():
            layer, _, own = name.rpartition(".")
            if layer not in self._modules:
                self.add_module(layer, nn.Module())
            if name in statistics:
                self._modules[layer].register_buffer(own, blob)
            else:
                self._modules[layer].register_parameter(own, nn.Parameter(blob))

    def __getitem__(self, name: str) -> Tensor:
        layer, _, own = name.rpartition(".")
        return getattr(self._modules[layer], own)

    def forward(self{takes}) -> {gives}:
{body}
        return {result}


def read_blobs(file: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a .safetensors file by name, and the names of those that are not trained.

    8 bytes are the length of a header in JSON, which says where each tensor lies behind it.
    """
    data = bytearray(Path(file).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    about = header.pop("__metadata__", {{}})
    blobs = {{}}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        number, place = (end - first) // 4, start + first
        values = torch.frombuffer(data, dtype=torch.float32, count=number, offset=place)
        blobs[name] = values.reshape(entry["shape"])
    return blobs, tuple(json.loads(about.get("statistics", "[]")))


def load(file: str | Path | None = None) -> {name}:
    """The net with the weights of a file, by default {weights} beside this one."""
    return {name}(*read_blobs(file or Path(__file__).with_name("{weights}"))).eval()
'''
