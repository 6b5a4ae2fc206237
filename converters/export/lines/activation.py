"""Lines of layers that work on each value alone."""

from __future__ import annotations

from converters.export.writing import Call, NoLineError, line, number
from converters.layers.activation import Clip, Dropout, Exp, Log, Power
from converters.layers.registry import Layer

_BY_VALUE = {
    "Sigmoid": "torch.sigmoid({x})",
    "TanH": "torch.tanh({x})",
    "AbsVal": "{x}.abs()",
    "BNLL": "F.softplus({x}, threshold=50)",
}


@line("Sigmoid")
@line("TanH")
@line("AbsVal")
@line("BNLL")
def _by_value(layer: Layer, call: Call) -> str:
    return _BY_VALUE[layer.type].format(x=call.x)


@line("ReLU")
def _relu(layer: Layer, call: Call) -> str:
    slope = layer.param.relu_param.negative_slope
    return f"F.leaky_relu({call.x}, {number(slope)})" if slope else f"F.relu({call.x})"


@line("ReLU6")
def _relu6(layer: Layer, call: Call) -> str:
    slope = layer.param.relu6_param.negative_slope
    leaky = f"F.leaky_relu({call.x}, {number(slope)}).clamp(max=6)"
    return leaky if slope else f"F.relu6({call.x})"


@line("PReLU")
def _prelu(layer: Layer, call: Call) -> str:
    return f"F.prelu({call.x}, {call.blobs[0]})"


@line("ELU")
def _elu(layer: Layer, call: Call) -> str:
    return f"F.elu({call.x}, {number(layer.param.elu_param.alpha)})"


@line("Swish")
def _swish(layer: Layer, call: Call) -> str:
    beta = layer.param.swish_param.beta
    return f"F.silu({call.x})" if beta == 1 else f"{call.x} * torch.sigmoid({_times(call.x, beta)})"


@line("Power")
def _power(layer: Power, call: Call) -> str:
    param = layer.param.power_param
    if param.power * param.scale == 0:
        return f"torch.full_like({call.x}, {number(layer.constant)})"
    inner = _plus(_times(call.x, param.scale), param.shift)
    if param.power == 1:
        return inner
    base = f"({inner})" if inner != call.x else inner
    return f"{base} ** {_signed(param.power)}"


@line("Exp")
def _exp(layer: Exp, call: Call) -> str:
    y = f"torch.exp({_times(call.x, layer.inner)})"
    return _times(y, layer.outer)


@line("Log")
def _log(layer: Log, call: Call) -> str:
    param = layer.param.log_param
    return _times(f"torch.log({_plus(_times(call.x, param.scale), param.shift)})", layer.factor)


def _times(expression: str, factor: float) -> str:
    return expression if factor == 1 else f"{expression} * {_signed(factor)}"


def _plus(expression: str, term: float) -> str:
    return f"{expression} + {_signed(term)}" if term else expression


def _signed(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


@line("Clip")
def _clip(layer: Clip, call: Call) -> str:
    low, high = layer.param.clip_param.min, layer.param.clip_param.max
    # Bounds in the wrong order give the lower one everywhere.
    return (
        f"{call.x}.clamp(max={number(high)}).clamp(min={number(low)})"
        if low > high
        else (f"{call.x}.clamp({number(low)}, {number(high)})")
    )


@line("Threshold")
def _threshold(layer: Layer, call: Call) -> str:
    return f"({call.x} > {number(layer.param.threshold_param.threshold)}).to({call.x}.dtype)"


@line("Dropout")
def _dropout(layer: Dropout, call: Call) -> str:
    if layer.param.HasField("phase") and layer.phase == "TRAIN":
        ratio = number(layer.ratio)
        raise NoLineError(f"its own phase is TRAIN, in which dropout_ratio {ratio} is random")
    return call.x if layer.scales_train else f"{call.x} * {number(1 - layer.ratio)}"
