"""Lines of layers of nets that label every pixel."""

from __future__ import annotations

from converters.export.writing import Call, NoLineError, line, number
from converters.layers.forks.segmentation import BN, Interp, Repeat, SegNetBN
from converters.layers.registry import Layer


@line("BN")
def _bn(layer: BN, call: Call) -> str:
    slope, bias, mean, variance = (f"{blob}.flatten()" for blob in call.blobs)
    return f"F.batch_norm({call.x}, {mean}, {variance}, {slope}, {bias}, eps={number(layer.eps)})"


@line("BN of SegNet")
def _segnet_bn(layer: SegNetBN, call: Call) -> str:
    if len(layer.param.top) > 1:
        raise NoLineError("has its batch's statistics as tops")
    behind = len(call.shape) - 2
    scale, shift = (
        blob if behind == 2 else f"{blob}.reshape(-1{', 1' * behind})" for blob in call.blobs
    )
    if layer.merged:
        return f"{call.x} * {scale} + {shift}"
    return f"batch_norm_by_batch({call.x}, {number(layer.EPS)}) * {scale} + {shift}"


@line("Upsample")
def _upsample(layer: Layer, call: Call) -> str:
    height, width = call.position.top_shapes[0][2:]
    return f"unpool({', '.join(call.bottoms)}, {height}, {width})"


@line("Upsample of MobileNet-YOLO")
def _repeat(layer: Repeat, call: Call) -> str:
    return f'F.interpolate({call.x}, scale_factor={float(layer.factor)}, mode="nearest")'


@line("Interp")
def _interp(layer: Interp, call: Call) -> str:
    first, last = layer.cut
    inner = f"{first or ''}:{-last or ''}"
    x = f"{call.x}[:, :, {inner}, {inner}]" if first or last else call.x
    size = call.position.top_shapes[0][2:]
    return f'F.interpolate({x}, {size}, mode="bilinear", align_corners=True)'
