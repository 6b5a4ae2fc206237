"""Lines of recurrent layers; without exposed states each call begins anew."""

from __future__ import annotations

from converters.export.writing import Call, line
from converters.layers.recurrent import LSTM, RNN
from converters.layers.registry import Layer

ANEW = "begins anew in each call; Caffe goes on from the forward before"


@line("LSTM")
@line("RNN")
def _recurrent(layer: LSTM | RNN, call: Call) -> str:
    exposed = layer.param.recurrent_param.expose_hidden
    weight_x, bias, *rest = call.blobs
    x = f"{call.x}.flatten(2)" if len(call.shape) > 3 else call.x
    gates = f"F.linear({x}, {weight_x}, {bias})"
    if layer.has_static:
        static = call.bottoms[2]
        flat = f"{static}.flatten(1)" if len(call.shapes[2]) > 2 else static
        gates += f" + F.linear({flat}, {rest.pop(0)})"
    states = call.bottoms[2 + layer.has_static :] or ("None",) * len(layer.states)
    if not exposed:
        call.notes.append(ANEW)
    arguments = ", ".join((gates, call.bottoms[1], *rest, *states))
    return f"{layer.type.lower()}({arguments}){'' if exposed else '[0]'}"


@line("LSTMUnit")
def _lstm_unit(layer: Layer, call: Call) -> str:
    before, gates, cont = call.bottoms
    return f"lstm_unit({before}, {gates}, {cont}.unsqueeze(2))"
