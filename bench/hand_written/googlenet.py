"""GoogLeNet with its two auxiliary classifiers, which only training runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.hand_written.classifier import Classifier


class ConvReLU(nn.Sequential):
    """A convolution with bias, and ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True))


class Inception(nn.Module):
    """1×1, 3×3, 5×5 and pooling side by side."""

    def __init__(
        self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int
    ) -> None:
        super().__init__()
        self.one = ConvReLU(inputs, one, 1)
        self.three = nn.Sequential(
            ConvReLU(inputs, three[0], 1), ConvReLU(*three, kernel=3, padding=1)
        )
        self.five = nn.Sequential(
            ConvReLU(inputs, five[0], 1), ConvReLU(*five, kernel=5, padding=2)
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvReLU(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, sum of the four, H, W)."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Auxiliary(nn.Sequential):
    """Scores from half-way: (N, inputs, 14, 14) → (N, 1000)."""

    def __init__(self, inputs: int) -> None:
        super().__init__(
            nn.AvgPool2d(5, 3),
            ConvReLU(inputs, 128, 1),
            nn.Flatten(),
            nn.Linear(2048, 1024),
            nn.ReLU(inplace=True),
            nn.Dropout(0.7),
            nn.Linear(1024, 1000),
        )


def _halve() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class GoogLeNet(Classifier):
    """(N, 3, 224, 224) → scores (N, 1000); the loss is 1 : 0.3 : 0.3 of three classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvReLU(3, 64, 7, stride=2, padding=3),
            _halve(),
            nn.LocalResponseNorm(5),
            ConvReLU(64, 64, 1),
            ConvReLU(64, 192, 3, padding=1),
            nn.LocalResponseNorm(5),
            _halve(),
            Inception(192, 64, (96, 128), (16, 32), 32),
            Inception(256, 128, (128, 192), (32, 96), 64),
            _halve(),
            Inception(480, 192, (96, 208), (16, 48), 64),
        )
        self.auxiliary1 = Auxiliary(512)
        self.middle = nn.Sequential(
            Inception(512, 160, (112, 224), (24, 64), 64),
            Inception(512, 128, (128, 256), (24, 64), 64),
            Inception(512, 112, (144, 288), (32, 64), 64),
        )
        self.auxiliary2 = Auxiliary(528)
        self.head = nn.Sequential(
            Inception(528, 256, (160, 320), (32, 128), 128),
            _halve(),
            Inception(832, 256, (160, 320), (32, 128), 128),
            Inception(832, 384, (192, 384), (48, 128), 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(1024, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) → (N, 1000)."""
        scores: Tensor = self.head(self.middle(self.stem(x)))
        return scores

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """All three classifiers', weighted."""
        low = self.stem(images)
        middle = self.middle(low)
        early, late = self.auxiliary1(low), self.auxiliary2(middle)
        extra = F.cross_entropy(early, labels) + F.cross_entropy(late, labels)
        return F.cross_entropy(self.head(middle), labels) + 0.3 * extra
