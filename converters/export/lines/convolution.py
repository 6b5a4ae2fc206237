"""Lines of convolutions, and of Im2col."""

from __future__ import annotations

from converters.export.writing import Call, NoLineError, line, settings
from converters.layers.convolution import Convolution, Deconvolution, Im2col, Windows


def _settings(w: Windows, group: int) -> str:
    return settings(
        stride=(w.stride, 1), padding=(w.pad, 0), groups=(group, 1), dilation=(w.dilation, 1)
    )


def _require_images(layer: Convolution | Deconvolution | Im2col, most: int = 3) -> None:
    axes = len(layer.w.kernel)
    if layer.channel_axis != 1 or not 1 <= axes <= most:
        raise NoLineError(
            f"has its channels on axis {layer.channel_axis} and {axes} spatial axes; "
            f"torch takes axis 1 and 1 to {most} of them"
        )


@line("Convolution")
@line("DepthwiseConvolution")
@line("ConvolutionDepthwise")
@line("NdConvolution")
def _convolution(layer: Convolution, call: Call) -> str:
    _require_images(layer)
    w, function = layer.w, f"F.conv{len(layer.w.kernel)}d"
    end = _settings(w, layer.group)
    missing = [
        max(0, d * (k - 1) + 1 - n - 2 * p)
        for n, k, p, d in zip(call.shape[2:], w.kernel, w.pad, w.dilation)
    ]
    sides = tuple(m for axis in reversed(missing) for m in (0, axis))
    reached = [f"F.pad({x}, {sides})" if any(missing) else x for x in call.bottoms]
    return ", ".join(f"{function}({', '.join((x, *call.blobs))}{end})" for x in reached)


@line("Deconvolution")
def _deconvolution(layer: Deconvolution, call: Call) -> str:
    _require_images(layer)
    function = f"F.conv_transpose{len(layer.w.kernel)}d"
    end = _settings(layer.w, layer.group)
    return ", ".join(f"{function}({', '.join((x, *call.blobs))}{end})" for x in call.bottoms)


@line("Im2col")
def _im2col(layer: Im2col, call: Call) -> str:
    _require_images(layer, most=2)
    w = layer.w
    if len(w.kernel) != 2:
        raise NoLineError(f"has {len(w.kernel)} spatial axes; torch unfolds 2")
    return f"im2col({call.x}, {w.kernel}, {w.stride}, {w.pad}, {w.dilation})"
