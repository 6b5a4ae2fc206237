"""Lines of layers that give the same values another shape, extent or order."""

from __future__ import annotations

from converters.export.writing import Call, line
from converters.layers.forks.channels import ShuffleChannel
from converters.layers.forks.moving import Reorg, Transpose
from converters.layers.registry import Layer
from converters.layers.shaping import Crop, Reshape


@line("Flatten")
def _flatten(layer: Layer, call: Call) -> str:
    param, axes = layer.param.flatten_param, len(call.shape)
    start, end = param.axis % axes, param.end_axis % axes
    # No axes at all become a new one.
    return f"{call.x}.unsqueeze({start})" if end < start else f"{call.x}.flatten({start}, {end})"


@line("Reshape")
def _reshape(layer: Reshape, call: Call) -> str:
    param, axes = layer.param.reshape_param, len(call.shape)
    start = param.axis if param.axis >= 0 else axes + param.axis + 1
    end = axes if param.num_axes == -1 else start + param.num_axes
    sizes = [f"{call.x}.shape[{axis}]" for axis in range(start)]
    sizes += [
        str(dim) if dim else f"{call.x}.shape[{start + place}]"
        for place, dim in enumerate(layer.dims)
    ]
    sizes += [f"{call.x}.shape[{axis}]" for axis in range(end, axes)]
    return f"{call.x}.reshape({', '.join(sizes) or '()'})"


@line("Tile")
def _tile(layer: Layer, call: Call) -> str:
    repeats = [1] * len(call.shape)
    repeats[layer.param.tile_param.axis] = layer.param.tile_param.tiles
    return f"{call.x}.repeat({', '.join(map(str, repeats))})"


@line("Crop")
def _crop(layer: Crop, call: Call) -> str:
    reference, offsets = call.bottoms[1], dict(layer.offsets)
    places = [
        f"{offsets[axis] or ''}:{offsets[axis]} + {reference}.shape[{axis}]".replace(":0 + ", ":")
        if axis in offsets
        else ":"
        for axis in range(len(call.shape))
    ]
    return f"{call.x}[{', '.join(places)}]"


@line("ShuffleChannel")
def _shuffle_channel(layer: ShuffleChannel, call: Call) -> str:
    return f"{call.x}.unflatten(1, ({layer.group}, -1)).transpose(1, 2).flatten(1, 2)"


@line("Reorg")
def _reorg(layer: Reorg, call: Call) -> str:
    return f"reorg{'_back' if layer.reverse else ''}({call.x}, {layer.stride})"


@line("Reverse")
def _reverse(layer: Layer, call: Call) -> str:
    return f"{call.x}.flip({layer.param.reverse_param.axis})"


@line("Flip")
def _flip(layer: Layer, call: Call) -> str:
    param = layer.param.flip_param
    axes = [axis for axis, is_set in ((3, param.flip_width), (2, param.flip_height)) if is_set]
    return f"{call.x}.flip({[axis for axis in axes if axis < len(call.shape)]})"


@line("Transpose")
def _transpose(layer: Transpose, call: Call) -> str:
    return f"{call.x}.permute({', '.join(map(str, layer.order))})"
