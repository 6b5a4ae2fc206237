"""ResNet-50 of the paper: the stride is in a block's first 1×1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bench.hand_written.classifier import Classifier


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Block(nn.Module):
    """(N, inputs, H, W) → (N, 4 · middle, H / stride, W / stride)."""

    def __init__(self, inputs: int, middle: int, stride: int = 1) -> None:
        super().__init__()
        self.shortcut = (
            nn.Sequential(*_unit(inputs, 4 * middle, 1, stride))
            if inputs != 4 * middle
            else nn.Identity()
        )
        self.residual = nn.Sequential(
            *_unit(inputs, middle, 1, stride),
            nn.ReLU(inplace=True),
            *_unit(middle, middle, 3),
            nn.ReLU(inplace=True),
            *_unit(middle, 4 * middle, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both, rectified."""
        shortcut = self.shortcut(x)
        return F.relu(self.residual(x).add_(shortcut), inplace=True)


class ResNet50(Classifier):
    """(N, 3, 224, 224) → scores (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        layers = [*_unit(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True)]
        channels = 64
        for middle, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            layers.append(Block(channels, middle, stride))
            layers += [Block(4 * middle, middle) for _ in range(blocks - 1)]
            channels = 4 * middle
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) → (N, 1000)."""
        scores: Tensor = self.layers(x)
        return scores
