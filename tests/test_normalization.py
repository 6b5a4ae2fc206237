"""BatchNorm where no case of real Caffe looks: which statistics it takes, and those of weight 0."""

from __future__ import annotations

import math

import torch
from small_net import load_layer, run_layer

from converters.proto import caffe_pb2 as pb

# BatchNorm's default eps as protobuf holds it, a float32.
EPS = pb.BatchNormParameter().eps


def test_use_global_stats_false_takes_the_batchs_statistics_in_test() -> None:
    """Mean 0 and variance 1 leave the values; the fresh net's own would make them 316 as large."""
    x = torch.tensor([[-1.0], [1.0]])
    (y,) = run_layer("BatchNorm", "batch_norm_param { use_global_stats: false }", x)
    torch.testing.assert_close(y, x / math.sqrt(1 + EPS))


def test_statistics_of_weight_0_count_as_0() -> None:
    """Caffe multiplies the sums by 0, not by 1 / 0, whatever they hold."""
    x = torch.tensor([[1.0], [3.0]])
    net = load_layer("BatchNorm", "", x)
    for blob, value in zip(net.params["layer"], (5.0, 4.0, 0.0)):
        blob.fill_(value)
    torch.testing.assert_close(net({"b0": x})["t0"], x / math.sqrt(EPS))


def test_two_forwards_may_come_before_their_backward() -> None:
    """The gradient of a sum is the sum of the gradients."""
    first, second = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.0], [5.0], [1.0]])
    net = load_layer("BatchNorm", "", first, phase="TRAIN")

    def total(x: torch.Tensor) -> torch.Tensor:
        return (net({"b0": x})["t0"] * torch.tensor([[1.0], [0.0], [0.0]])).sum()

    def gradient(x: torch.Tensor) -> torch.Tensor:
        """(dy - mean(dy) - y · mean(dy · y)) / sqrt(var + eps), dy being 1, 0, 0."""
        scale = (x.var(unbiased=False) + EPS).sqrt()
        y = (x - x.mean()) / scale
        return (torch.tensor([[1.0], [0.0], [0.0]]) - 1 / 3 - y * y[0] / 3) / scale

    leaves = [x.clone().requires_grad_() for x in (first, second)]
    (total(leaves[0]) + total(leaves[1])).backward()
    for leaf, x in zip(leaves, (first, second)):
        torch.testing.assert_close(leaf.grad, gradient(x))
