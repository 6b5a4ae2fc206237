"""Lines of Pooling and SPP."""

from __future__ import annotations

from converters.export.writing import Call, line, settings, sizes
from converters.layers.pooling import SPP, Pooling, PoolingWindows, pooled_size, torch_has_windows
from converters.layers.registry import Layer
from converters.proto import caffe_pb2 as pb

_MAX, _AVE = pb.PoolingParameter.MAX, pb.PoolingParameter.AVE


@line("Pooling")
def _pooling(layer: Pooling, call: Call) -> str:
    method, x = layer.param.pooling_param.pool, call.x
    size = (call.shape[2], call.shape[3])
    w = layer.windows(size)
    if layer.param.pooling_param.global_pooling and method != pb.PoolingParameter.STOCHASTIC:
        if layer.has_mask:
            return f"max_pool_with_mask({x}, {x}.shape[2:], (1, 1), (0, 0), True)"
        return f"{x}.{'amax' if method == _MAX else 'mean'}((2, 3), keepdim=True)"
    if layer.has_mask:
        return f"max_pool_with_mask({x}, {_windows(w)})"
    return pooled(layer, x, size, w, pb.PoolingParameter.PoolMethod.Name(method))


@line("SPP")
def _spp(layer: SPP, call: Call) -> str:
    size = (call.shape[2], call.shape[3])
    method = pb.SPPParameter.PoolMethod.Name(layer.param.spp_param.pool)
    levels = [pooled(layer, call.x, size, w, method) for w in layer.levels(size)]
    flat = ", ".join(f"{level}.flatten(1)" for level in levels)
    return levels[0] if len(levels) == 1 else f"torch.cat(({flat}), 1)"


def pooled(layer: Layer, x: str, size: tuple[int, int], w: PoolingWindows, method: str) -> str:
    """One pooling of maps of this size, by the name of its method."""
    if method == "STOCHASTIC":
        return f"stochastic_pool({x}, {_windows(w)})"
    out = pooled_size(layer, size, w)
    shape = f"{sizes(w.kernel)}, {sizes(w.stride)}"
    ceil = settings(ceil_mode=(not w.floor, False))
    if method == "MAX":
        if not torch_has_windows(size, w, out):
            return f"max_pool({x}, {_windows(w)})"
        return f"F.max_pool2d({x}, {shape}{settings(padding=(w.pad, 0))}{ceil})"
    if not any(w.pad):
        return f"F.avg_pool2d({x}, {shape}{ceil}, count_include_pad=False)"
    if all(2 * p <= k for p, k in zip(w.pad, w.kernel)):
        return f"F.avg_pool2d({x}, {shape}{settings(padding=(w.pad, 0))}{ceil})"
    # torch pads up to half a kernel.
    sides = (w.pad[1], w.pad[1], w.pad[0], w.pad[0])
    padded = f"F.avg_pool2d(F.pad({x}, {sides}), {shape}{ceil}, count_include_pad=False)"
    return f"{padded}[:, :, :{out[0]}, :{out[1]}]"


def _windows(w: PoolingWindows) -> str:
    return f"{w.kernel}, {w.stride}, {w.pad}, {not w.floor}"
