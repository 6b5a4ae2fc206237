"""ResNet-50 in Caffe's layers: BatchNorm and Scale behind every convolution, no bias."""

from __future__ import annotations

from bench.nets.builder import NetBuilder
from converters.proto import caffe_pb2 as pb

MSRA = 'bias_term: false weight_filler { type: "msra" }'
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Channels within a stage's blocks, of which it has so many (He et al., 2015, Table 1)."""


class _Builder(NetBuilder):
    def unit(self, name: str, bottom: str, outputs: int, kernel: int, stride: int = 1) -> str:
        """A convolution, normalised."""
        settings = f"pad: {kernel // 2} stride: {stride} {MSRA}"
        top = self.conv(f"res{name}", bottom, outputs, kernel, settings)
        self.layer("BatchNorm", f"bn{name}", top, top=top)
        return self.layer(
            "Scale", f"scale{name}", top, top=top, settings="scale_param { bias_term: true }"
        )

    def block(self, name: str, bottom: str, middle: int, stride: int, first: bool) -> str:
        """1×1, 3×3, 1×1 beside a shortcut; the first 1×1 has the stride, as in the paper."""
        short = self.unit(f"{name}_branch1", bottom, 4 * middle, 1, stride) if first else bottom
        top = self.unit(f"{name}_branch2a", bottom, middle, 1, stride)
        top = self.unit(f"{name}_branch2b", self.relu(f"res{name}_branch2a_relu", top), middle, 3)
        top = self.relu(f"res{name}_branch2b_relu", top)
        top = self.unit(f"{name}_branch2c", top, 4 * middle, 1)
        return self.relu(f"res{name}_relu", self.layer("Eltwise", f"res{name}", short, top))


def resnet50() -> pb.NetParameter:
    """(N, 3, 224, 224) → loss over 1000 classes."""
    net = _Builder("ResNet-50")
    top = net.relu("conv1_relu", net.unit("conv1", "data", 64, 7, 2))
    top = net.pool("pool1", top, "pool: MAX kernel_size: 3 stride: 2")
    for stage, (middle, blocks) in enumerate(STAGES, 2):
        for index in range(blocks):
            stride = 2 if stage > 2 and index == 0 else 1
            top = net.block(f"{stage}{'abcdef'[index]}", top, middle, stride, index == 0)
    top = net.pool("pool5", top, "pool: AVE global_pooling: true")
    net.loss("loss", net.full("fc1000", top, 1000, 'weight_filler { type: "xavier" }'))
    return net.net
