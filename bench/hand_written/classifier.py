"""What the hand-written nets have in common: a loss, and a form for inference."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Classifier(nn.Module):
    """Images (N, C, H, W) → scores (N, classes)."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar; labels are (N,) of int64."""
        return F.cross_entropy(self(images), labels)


class Probabilities(nn.Module):
    """A classifier that was trained, for inference: probabilities (N, classes)."""

    def __init__(self, trained: Classifier) -> None:
        super().__init__()
        self.classifier = folded(trained)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, classes)."""
        return F.softmax(self.classifier(images), 1)


def folded(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode: BatchNorm within the convolution before it, dropout gone."""
    module = copy.deepcopy(module).eval()
    for parent in [one for one in module.modules() if isinstance(one, nn.Sequential)]:
        for index in reversed(range(len(parent))):
            layer = parent[index]
            if isinstance(layer, nn.BatchNorm2d):
                convolution = parent[index - 1]
                assert isinstance(convolution, nn.Conv2d)
                parent[index - 1] = fuse_conv_bn_eval(convolution, layer)
            if isinstance(layer, nn.BatchNorm2d | nn.Dropout):
                del parent[index]
    return module
