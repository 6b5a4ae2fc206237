"""AlexNet as Caffe's model zoo has it (`bvlc_alexnet`): in two groups, norm before pooling."""

from __future__ import annotations

from bench.nets.builder import BIAS_TWICE, NetBuilder
from converters.proto import caffe_pb2 as pb

NORM = "local_size: 5 alpha: 0.0001 beta: 0.75"
POOL = "pool: MAX kernel_size: 3 stride: 2"


def fillers(std: float, bias: float) -> str:
    """Gaussian weights, a constant bias."""
    return (
        f'weight_filler {{ type: "gaussian" std: {std} }} '
        f'bias_filler {{ type: "constant" value: {bias} }}'
    )


def alexnet() -> pb.NetParameter:
    """(N, 3, 227, 227) → loss over 1000 classes."""
    net = NetBuilder("AlexNet", BIAS_TWICE)
    top = net.relu("relu1", net.conv("conv1", "data", 96, 11, f"stride: 4 {fillers(0.01, 0)}"))
    top = net.pool("pool1", net.norm("norm1", top, NORM), POOL)
    two = "group: 2"
    top = net.relu("relu2", net.conv("conv2", top, 256, 5, f"pad: 2 {two} {fillers(0.01, 0.1)}"))
    top = net.pool("pool2", net.norm("norm2", top, NORM), POOL)
    top = net.relu("relu3", net.conv("conv3", top, 384, 3, f"pad: 1 {fillers(0.01, 0)}"))
    top = net.relu("relu4", net.conv("conv4", top, 384, 3, f"pad: 1 {two} {fillers(0.01, 0.1)}"))
    top = net.relu("relu5", net.conv("conv5", top, 256, 3, f"pad: 1 {two} {fillers(0.01, 0.1)}"))
    top = net.pool("pool5", top, POOL)
    for name in ("6", "7"):
        top = net.relu(f"relu{name}", net.full(f"fc{name}", top, 4096, fillers(0.005, 0.1)))
        top = net.dropout(f"drop{name}", top, 0.5)
    net.loss("loss", net.full("fc8", top, 1000, fillers(0.01, 0)))
    return net.net
