"""GM-Net for CIFAR-10, the paper's Table 1 in the reading `text`: `bua` and `baseline`."""

from __future__ import annotations

from torch import Tensor, nn

from bench.hand_written.classifier import Classifier


class ConvUnit(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU; keeps height and width."""

    def __init__(self, inputs: int, kernel: int, outputs: int, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Bottleneck(nn.Sequential):
    """A 1×1 to `middle` channels, then a 3×3 in `groups` groups to `outputs`, maybe dropout."""

    def __init__(self, inputs: int, middle: int, outputs: int, groups: int, dropout: float) -> None:
        last = [nn.Dropout(dropout)] if dropout else []
        super().__init__(ConvUnit(inputs, 1, middle), ConvUnit(middle, 3, outputs, groups), *last)


class DenseUnit(nn.Module):
    """BU_A of the paper's Figure 1: the sum of three convolution units, each fed by all before."""

    def __init__(self, first: nn.Module, second: nn.Module, third: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.third = first, second, third

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', H, W)."""
        x1 = self.first(x)
        x2 = self.second(x1)
        x12 = x1 + x2
        sum_: Tensor = x12 + self.third(x12)
        return sum_


def _bottlenecks(
    inputs: int, middle: int, outputs: int, groups: int, dropout: float = 0
) -> DenseUnit:
    return DenseUnit(
        Bottleneck(inputs, middle, outputs, groups, dropout),
        Bottleneck(outputs, middle, outputs, groups, dropout),
        Bottleneck(outputs, middle, outputs, groups, dropout),
    )


class Merged(nn.Module):
    """BU_f + BU_s: full convolutions beside depthwise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.bu_f = _bottlenecks(128, 128, 256, 1)
        self.bu_s = nn.Sequential(
            ConvUnit(128, 1, 256), DenseUnit(*(ConvUnit(256, 3, 256, 256) for _ in range(3)))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 128, H, W) → (N, 256, H, W)."""
        sum_: Tensor = self.bu_f(x) + self.bu_s(x)
        return sum_


class GMNet(Classifier):
    """(N, 3, 32, 32) → scores (N, 10); `middle` is what variants differ in."""

    def __init__(self, middle: nn.Module, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvUnit(3, 3, 64),
            _bottlenecks(64, 64, 128, 8, dropout),
            ConvUnit(128, 3, 128, 4),
            nn.AvgPool2d(2),
            middle,
            ConvUnit(256, 3, 256, 4),
            nn.AvgPool2d(2),
            _bottlenecks(256, 192, 384, 8, dropout),
            ConvUnit(384, 1, 384, 4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(384, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → (N, 10)."""
        scores: Tensor = self.layers(x)
        return scores


def bua() -> GMNet:
    """Figure 2's net: both kinds of unit in the middle."""
    return GMNet(Merged())


def baseline() -> GMNet:
    """Grouped convolutions all the way."""
    return GMNet(_bottlenecks(128, 128, 256, 8))
