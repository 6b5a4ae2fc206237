"""Krizhevsky's net for CIFAR-10; its normalisation is over places, which torch has no layer for."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bench.hand_written.classifier import Classifier


class SpatialNorm(nn.Module):
    """x · (1 + alpha · mean of x² over 3×3)^-0.75, each channel alone."""

    def __init__(self, alpha: float = 5e-5) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), kept."""
        return x * (F.avg_pool2d(x * x, 3, 1, 1) * self.alpha + 1).pow(-0.75)


class Cifar10Full(Classifier):
    """(N, 3, 32, 32) → scores (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.ReLU(inplace=True),
            SpatialNorm(),
            nn.Conv2d(32, 32, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(3, 2, ceil_mode=True),
            SpatialNorm(),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(3, 2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(1024, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → (N, 10)."""
        scores: Tensor = self.layers(x)
        return scores
