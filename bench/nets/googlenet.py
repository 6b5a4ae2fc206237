"""GoogLeNet as Caffe's model zoo has it (`bvlc_googlenet`), with both auxiliary losses."""

from __future__ import annotations

from typing import NamedTuple

from bench.nets.builder import BIAS_TWICE, NetBuilder
from converters.proto import caffe_pb2 as pb

NORM = "local_size: 5 alpha: 0.0001 beta: 0.75"
HALVE = "pool: MAX kernel_size: 3 stride: 2"
FILLERS = 'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.2 }'
LAST = 'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0 }'


class Inception(NamedTuple):
    """Channels of a block's convolutions, in the order of its layers."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int


BLOCKS = {
    "3a": Inception(64, 96, 128, 16, 32, 32),
    "3b": Inception(128, 128, 192, 32, 96, 64),
    "4a": Inception(192, 96, 208, 16, 48, 64),
    "4b": Inception(160, 112, 224, 24, 64, 64),
    "4c": Inception(128, 128, 256, 24, 64, 64),
    "4d": Inception(112, 144, 288, 32, 64, 64),
    "4e": Inception(256, 160, 320, 32, 128, 128),
    "5a": Inception(256, 160, 320, 32, 128, 128),
    "5b": Inception(384, 192, 384, 48, 128, 128),
}
"""Table 1 of the paper (Szegedy et al., 2014)."""


class _Builder(NetBuilder):
    def unit(self, name: str, bottom: str, outputs: int, kernel: int, settings: str = "") -> str:
        """A convolution with its ReLU."""
        top = self.conv(name, bottom, outputs, kernel, f"{settings} {FILLERS}")
        return self.relu(f"{name}/relu", top)

    def inception(self, name: str, bottom: str) -> str:
        """Four branches, concatenated."""
        block, prefix = BLOCKS[name], f"inception_{name}"
        one = self.unit(f"{prefix}/1x1", bottom, block.one, 1)
        three = self.unit(f"{prefix}/3x3_reduce", bottom, block.three_reduce, 1)
        three = self.unit(f"{prefix}/3x3", three, block.three, 3, "pad: 1")
        five = self.unit(f"{prefix}/5x5_reduce", bottom, block.five_reduce, 1)
        five = self.unit(f"{prefix}/5x5", five, block.five, 5, "pad: 2")
        pool = self.pool(f"{prefix}/pool", bottom, "pool: MAX kernel_size: 3 stride: 1 pad: 1")
        pool = self.unit(f"{prefix}/pool_proj", pool, block.pool, 1)
        return self.layer("Concat", f"{prefix}/output", one, three, five, pool)

    def auxiliary(self, name: str, bottom: str) -> None:
        """A classifier half-way, whose loss counts 0.3."""
        top = self.pool(f"{name}/ave_pool", bottom, "pool: AVE kernel_size: 5 stride: 3")
        top = self.unit(f"{name}/conv", top, 128, 1)
        top = self.relu(f"{name}/relu_fc", self.full(f"{name}/fc", top, 1024, FILLERS))
        top = self.dropout(f"{name}/drop_fc", top, 0.7)
        self.loss(f"{name}/loss", self.full(f"{name}/classifier", top, 1000, LAST), 0.3)


def googlenet() -> pb.NetParameter:
    """(N, 3, 224, 224) → three losses over 1000 classes."""
    net = _Builder("GoogleNet", BIAS_TWICE)
    top = net.unit("conv1/7x7_s2", "data", 64, 7, "pad: 3 stride: 2")
    top = net.norm("pool1/norm1", net.pool("pool1/3x3_s2", top, HALVE), NORM)
    top = net.unit("conv2/3x3_reduce", top, 64, 1)
    top = net.unit("conv2/3x3", top, 192, 3, "pad: 1")
    top = net.pool("pool2/3x3_s2", net.norm("conv2/norm2", top, NORM), HALVE)
    for name in BLOCKS:
        top = net.inception(name, top)
        if name == "4a":
            net.auxiliary("loss1", top)
        if name == "4d":
            net.auxiliary("loss2", top)
        if name in ("3b", "4e"):
            top = net.pool(f"pool{name[0]}/3x3_s2", top, HALVE)
    top = net.pool("pool5/7x7_s1", top, "pool: AVE kernel_size: 7 stride: 1")
    top = net.dropout("pool5/drop_7x7_s1", top, 0.4)
    net.loss("loss3/loss3", net.full("loss3/classifier", top, 1000, LAST))
    return net.net
