"""Recurrent layers over (T, N, …) sequences: RNN, LSTM, and LSTMUnit, one step of an LSTM.

`cont` (T, N) is 0 where a sequence begins and 1 where it goes on. The last hidden state of a
forward enters the next one, without gradient, unless expose_hidden makes it a bottom and a top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

register = Family("#9edae5")


class _Recurrent(Layer):
    """What RNN and LSTM share: bottoms x, cont, maybe a static input, maybe exposed states.

    Blobs: W_x (gates·D, …), its bias, W_static if there is a static input, W_h, and what a subclass
    adds. Source: Caffe layers/recurrent_layer.cpp.
    """

    bottoms = Count(2, None)
    tops = Count(1, None)
    no_gradient = (1,)
    in_place = False
    ignored = {"recurrent_param.debug_info": "Caffe logs more with it and computes the same"}
    gates: ClassVar[int]
    states: ClassVar[tuple[str, ...]]

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param = self.param.recurrent_param
        if param.num_output <= 0:
            raise self.error(f"num_output {param.num_output} must be positive")
        exposed = len(self.states) if param.expose_hidden else 0
        if len(bottoms) not in (2 + exposed, 3 + exposed):
            raise self.error(
                f"takes {2 + exposed} bottoms (x, cont{self._exposed()}), or a static input after "
                f"cont too, got {len(bottoms)}"
            )
        if len(self.param.top) != 1 + exposed:
            raise self.error(f"produces {1 + exposed} tops, got {len(self.param.top)}")
        self.has_static = len(bottoms) == 3 + exposed
        self._check(bottoms)
        self.steps = bottoms[0][0]
        self.inputs = math.prod(bottoms[0][2:])
        self.static_inputs = math.prod(bottoms[2][1:]) if self.has_static else 0
        rows = self.gates * param.num_output
        specs = [self._weight("weight_x", rows, self.inputs), self._bias("bias", rows)]
        if self.has_static:
            specs.append(self._weight("weight_static", rows, self.static_inputs))
        return [*specs, self._weight("weight_h", rows, param.num_output)]

    def _exposed(self) -> str:
        return "".join(f", {name}_0" for name in self.states) if self._exposes else ""

    @property
    def _exposes(self) -> bool:
        return self.param.recurrent_param.expose_hidden

    def _weight(self, name: str, rows: int, columns: int) -> BlobSpec:
        return BlobSpec(name, (rows, columns), self.param.recurrent_param.weight_filler)

    def _bias(self, name: str, rows: int) -> BlobSpec:
        return BlobSpec(name, (rows,), self.param.recurrent_param.bias_filler)

    def _check(self, bottoms: Sequence[Shape]) -> None:
        x, cont = bottoms[:2]
        if len(x) < 3 or x[0] < 1:
            raise self.shape_error(
                f"{self.bottom_name(0)} {x} must have at least 3 axes: steps (1 or more), streams "
                "and values"
            )
        if cont != x[:2]:
            raise self.shape_error(
                f"{self.bottom_name(1)} {cont} must be {x[:2]}, the steps and streams of "
                f"{self.bottom_name(0)} {x}"
            )
        if self.has_static and (len(bottoms[2]) < 2 or bottoms[2][0] != x[1]):
            raise self.shape_error(
                f"static {self.bottom_name(2)} {bottoms[2]} must be ({x[1]}, …), a row of values "
                f"for each stream of {self.bottom_name(0)} {x}"
            )
        hidden = (1, x[1], self.param.recurrent_param.num_output)
        for index in range(2 + self.has_static, len(bottoms)):
            if bottoms[index] != hidden:
                raise self.shape_error(
                    f"hidden state {self.bottom_name(index)} {bottoms[index]} must be {hidden}"
                )

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self._check(bottoms)
        x = bottoms[0]
        if x[0] != self.steps:
            raise self.shape_error(
                f"{self.bottom_name(0)} {x} has {x[0]} steps, the layer was set up for {self.steps}"
            )
        values = math.prod(bottoms[2][1:]) if self.has_static else 0
        if (math.prod(x[2:]), values) != (self.inputs, self.static_inputs):
            raise self.shape_error(
                f"{self.bottom_name(0)} {x} must have {self.inputs} values per step and stream, "
                f"a static input {self.static_inputs} per stream"
            )
        outputs = self.param.recurrent_param.num_output
        states = len(self.states) if self._exposes else 0
        return [(*x[:2], outputs)] + [(1, x[1], outputs)] * states

    def state_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        if self._exposes:
            return {}
        shape = (1, bottoms[0][1], self.param.recurrent_param.num_output)
        return dict.fromkeys(self.states, shape)

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x, cont = bottoms[:2]
        blobs = state.blobs
        transformed = F.linear(x.flatten(2), blobs[0], blobs[1])
        if self.has_static:
            transformed = transformed + F.linear(bottoms[2].flatten(1), blobs[2])
        # Clones, because the state is overwritten below, and backward needs what it was.
        hidden = [h.detach().clone() for h in self._start(state, x.shape[1], bottoms)]
        y, last = self.unroll(blobs[2 + self.has_static :], transformed, cont.unsqueeze(2), hidden)
        if self._exposes:
            # As in Caffe, no gradient enters or leaves by an exposed state.
            return (y, *(h.detach() for h in last))
        with torch.no_grad():
            for name, value in zip(self.states, last):
                state.state[name][:, : x.shape[1]].copy_(value)
        return y

    def _start(self, state: LayerState, streams: int, bottoms: Sequence[Tensor]) -> list[Tensor]:
        if self._exposes:
            return list(bottoms[2 + self.has_static :])
        for kept in state.state.values():
            if kept.shape[1] < streams:
                # A larger batch begins anew, as Caffe's reallocated blobs do.
                kept.resize_(1, streams, kept.shape[2]).zero_()
        return [state.state[name][:, :streams] for name in self.states]

    def unroll(
        self, blobs: list[Tensor], x: Tensor, cont: Tensor, hidden: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all steps.

        Args:
            blobs: W_h and those after it.
            x: the inputs' part of the gates, (T, N, gates·D).
            cont: (T, N, 1).
            hidden: the states before the first step, each (1, N, D).

        Returns:
            The top (T, N, D) and the states after the last step.
        """
        raise NotImplementedError

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        steps, streams, outputs = tops[0]
        rows = self.gates * outputs
        return streams * rows * (steps * (self.inputs + outputs) + self.static_inputs)


@register("RNN", "recurrent_param")
class RNN(_Recurrent):
    """h = tanh(W_hh·(cont·h) + W_xh·x + b_h), y = tanh(W_ho·h + b_o).

    Blobs W_xh, b_h, (W_xh_static), W_hh, W_ho, b_o. Source: Caffe layers/rnn_layer.cpp.
    """

    gates = 1
    states = ("h",)

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        specs = super().setup(bottoms)
        outputs = self.param.recurrent_param.num_output
        return [
            *specs,
            self._weight("weight_o", outputs, outputs),
            self._bias("bias_o", outputs),
        ]

    def unroll(
        self, blobs: list[Tensor], x: Tensor, cont: Tensor, hidden: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        weight, output_weight, output_bias = blobs
        (h,) = hidden
        steps = []
        for x_t, cont_t in zip(torch.split(x, 1), torch.split(cont, 1)):
            h = torch.tanh(F.linear(h * cont_t, weight) + x_t)
            steps.append(h)
        y = torch.tanh(F.linear(torch.cat(steps), output_weight, output_bias))
        return y, [h]

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return super().multiply_adds(bottoms, tops) + math.prod(tops[0]) * tops[0][2]


FRACTIONAL = (
    "where cont is neither 0 nor 1 the gradient is that of Caffe's GPU code; its CPU code differs"
)


@register("LSTM", "recurrent_param")
class LSTM(_Recurrent):
    """Gates i, f, o, g = W_hc·(cont·h) + W_xc·x + b_c, then a step of `LSTMUnit`.

    Blobs W_xc, b_c, (W_xc_static), W_hc. Source: Caffe layers/lstm_layer.cpp.
    """

    differences = FRACTIONAL
    gates = 4
    states = ("h", "c")

    def unroll(
        self, blobs: list[Tensor], x: Tensor, cont: Tensor, hidden: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        (weight,) = blobs
        h, c = hidden
        steps = []
        for x_t, cont_t in zip(torch.split(x, 1), torch.split(cont, 1)):
            c, h = _lstm_unit(c, F.linear(h * cont_t, weight) + x_t, cont_t)
            steps.append(h)
        return torch.cat(steps), [h, c]


@register("LSTMUnit")
class LSTMUnit(Layer):
    """c = cont·σ(f)·c_before + σ(i)·tanh(g), h = σ(o)·tanh(c).

    Bottoms c_before (1, N, D), gates i, f, o, g (1, N, 4·D) and cont (1, N); tops c and h.
    Source: Caffe layers/lstm_unit_layer.cpp.
    """

    differences = FRACTIONAL
    bottoms = Count(3, 3)
    tops = Count(2, 2)
    no_gradient = (2,)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        before = bottoms[0]
        if len(before) != 3 or before[0] != 1:
            raise self.shape_error(f"{self.bottom_name(0)} {before} must be (1, streams, values)")
        wanted = ((*before[:2], 4 * before[2]), before[:2])
        for index, shape in enumerate(wanted, 1):
            if bottoms[index] != shape:
                raise self.shape_error(
                    f"{self.bottom_name(index)} {bottoms[index]} must be {shape} to go with "
                    f"{self.bottom_name(0)} {before}"
                )
        return [before, before]

    def forward(self, state: LayerState, *bottoms: Tensor) -> tuple[Tensor, ...]:
        before, gates, cont = bottoms
        return _lstm_unit(before, gates, cont.unsqueeze(2))


def _lstm_unit(before: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """Cell and hidden state after one step; `cont` is (1, N, 1)."""
    size = before.shape[2]
    i, f, o = torch.split(torch.sigmoid(gates[..., : 3 * size]), size, 2)
    c = cont * f * before + i * torch.tanh(gates[..., 3 * size :])
    return c, o * torch.tanh(c)
