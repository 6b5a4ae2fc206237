"""LeNet."""

from __future__ import annotations

from torch import Tensor, nn

from bench.hand_written.classifier import Classifier


class LeNet(Classifier):
    """(N, 1, 28, 28) → scores (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 20, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(800, 500),
            nn.ReLU(inplace=True),
            nn.Linear(500, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) → (N, 10)."""
        scores: Tensor = self.layers(x)
        return scores
