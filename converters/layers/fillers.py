"""Caffe's fillers, drawn from torch's global generator (`torch.manual_seed` makes them repeatable).

fan_in = count / shape[0] and fan_out = count / shape[1] of the blob as it is stored: a grouped
convolution's fan_in is in/group·k·k, a Deconvolution's fans are swapped. Source: Caffe filler.hpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from converters.errors import NetError
from converters.proto import caffe_pb2 as pb
from converters.registry import Registry

Filler = Callable[[Tensor, pb.FillerParameter], Tensor]
FILLERS: Registry[Filler] = Registry("filler type")


def fill(tensor: Tensor, filler: pb.FillerParameter, place: str) -> Tensor:
    """Fill `tensor` in place as `filler` says; `place` (file and layer) begins its errors.

    Raises:
        NetError: an unknown filler type, or a shape that the filler cannot fill.
    """
    if filler.type not in FILLERS:
        raise NetError(f'{place}: unknown filler type "{filler.type}"; known: {", ".join(FILLERS)}')
    if filler.sparse != -1 and filler.type != "gaussian":
        raise NetError(f"{place}: sparse is for the gaussian filler, not {filler.type}")
    try:
        with torch.no_grad():
            return FILLERS[filler.type](tensor, filler)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise NetError(
            f"{place}: the {filler.type} filler cannot fill shape {tuple(tensor.shape)}: {reason}"
        ) from error


def _fan(tensor: Tensor, filler: pb.FillerParameter) -> float:
    """The number of values that variance_norm divides by."""
    count = tensor.numel()
    fan_in = count / tensor.shape[0] if tensor.dim() else 1.0
    fan_out = count / tensor.shape[1] if tensor.dim() > 1 else float(count)
    return {
        pb.FillerParameter.FAN_IN: fan_in,
        pb.FillerParameter.FAN_OUT: fan_out,
        pb.FillerParameter.AVERAGE: (fan_in + fan_out) / 2,
    }[filler.variance_norm]


@FILLERS.add("constant")
def _constant(tensor: Tensor, filler: pb.FillerParameter) -> Tensor:
    return tensor.fill_(filler.value)


@FILLERS.add("uniform")
def _uniform(tensor: Tensor, filler: pb.FillerParameter) -> Tensor:
    return tensor.uniform_(filler.min, filler.max)


@FILLERS.add("gaussian")
def _gaussian(tensor: Tensor, filler: pb.FillerParameter) -> Tensor:
    """N(mean, std²); `sparse` keeps that many inputs per output on average, the others are 0."""
    tensor.normal_(filler.mean, filler.std)
    if filler.sparse >= 0:
        outputs = tensor.shape[0] if tensor.dim() else 1
        tensor.mul_(torch.empty_like(tensor).bernoulli_(filler.sparse / outputs))
    return tensor


@FILLERS.add("positive_unitball")
def _positive_unitball(tensor: Tensor, filler: pb.FillerParameter) -> Tensor:
    rows = tensor.uniform_(0, 1).view(tensor.shape[0], -1)
    rows.div_(rows.sum(1, keepdim=True))
    return tensor


@FILLERS.add("xavier")
def _xavier(tensor: Tensor, filler: pb.FillerParameter) -> Tensor:
    limit = math.sqrt(3 / _fan(tensor, filler))
    return tensor.uniform_(-limit, limit)


@FILLERS.add("msra")
def _msra(tensor: Tensor, filler: pb.FillerParameter) -> Tensor:
    return tensor.normal_(0, math.sqrt(2 / _fan(tensor, filler)))


@FILLERS.add("bilinear")
def _bilinear(tensor: Tensor, filler: pb.FillerParameter) -> Tensor:
    """(1 - |x/f - c|)·(1 - |y/f - c|), f = ceil(K/2), c = (K - 1)/(2f): upsampling by f."""
    if tensor.dim() != 4 or tensor.shape[2] != tensor.shape[3]:
        raise ValueError("it needs 4 axes and a square kernel")
    size = tensor.shape[3]
    factor = math.ceil(size / 2)
    centre = (size - 1) / (2 * factor)
    line = (
        1 - (torch.arange(size, dtype=torch.float64, device=tensor.device) / factor - centre).abs()
    )
    return tensor.copy_(torch.outer(line, line))
