"""Krizhevsky's net for CIFAR-10, as Caffe's example `cifar10_full` has it."""

from __future__ import annotations

from bench.nets.builder import NetBuilder
from converters.proto import caffe_pb2 as pb

NORM = "local_size: 3 alpha: 5e-05 beta: 0.75 norm_region: WITHIN_CHANNEL"
POOL = "kernel_size: 3 stride: 2"


def gaussian(std: float) -> str:
    """A weight filler."""
    return f'weight_filler {{ type: "gaussian" std: {std} }}'


def cifar10_full() -> pb.NetParameter:
    """(N, 3, 32, 32) → loss."""
    net = NetBuilder("CIFAR10_full")
    bias_twice = "param { lr_mult: 1 } param { lr_mult: 2 }"
    top = net.conv("conv1", "data", 32, 5, f"pad: 2 {gaussian(0.0001)}", bias_twice)
    top = net.relu("relu1", net.pool("pool1", top, f"pool: MAX {POOL}"))
    top = net.norm("norm1", top, NORM)
    top = net.relu("relu2", net.conv("conv2", top, 32, 5, f"pad: 2 {gaussian(0.01)}", bias_twice))
    top = net.norm("norm2", net.pool("pool2", top, f"pool: AVE {POOL}"), NORM)
    top = net.relu("relu3", net.conv("conv3", top, 64, 5, f"pad: 2 {gaussian(0.01)}"))
    top = net.pool("pool3", top, f"pool: AVE {POOL}")
    decayed = "param { lr_mult: 1 decay_mult: 250 } param { lr_mult: 2 decay_mult: 0 }"
    net.loss("loss", net.full("ip1", top, 10, gaussian(0.01), decayed))
    return net.net
