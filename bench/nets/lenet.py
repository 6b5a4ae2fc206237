"""LeNet for MNIST, as Caffe's example trains it."""

from __future__ import annotations

from bench.nets.builder import NetBuilder
from converters.proto import caffe_pb2 as pb

XAVIER = 'weight_filler { type: "xavier" }'


def lenet() -> pb.NetParameter:
    """(N, 1, 28, 28) → loss."""
    net = NetBuilder("LeNet", "param { lr_mult: 1 } param { lr_mult: 2 }")
    top = net.conv("conv1", "data", 20, 5, XAVIER)
    top = net.pool("pool1", top, "pool: MAX kernel_size: 2 stride: 2")
    top = net.conv("conv2", top, 50, 5, XAVIER)
    top = net.pool("pool2", top, "pool: MAX kernel_size: 2 stride: 2")
    top = net.relu("relu1", net.full("ip1", top, 500, XAVIER))
    net.loss("loss", net.full("ip2", top, 10, XAVIER))
    return net.net
