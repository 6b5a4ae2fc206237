"""Losses and Accuracy against plain formulas, where no case of real Caffe looks."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import torch
from small_net import run_layer


def test_normalization_wins_over_normalize() -> None:
    """FULL divides by all 8 positions, each a loss of log 3; `normalize: false` by the batch, 2."""
    settings = "loss_param { normalization: FULL normalize: false }"
    (loss,) = run_layer("SoftmaxWithLoss", settings, torch.zeros(2, 3, 4), torch.zeros(2, 4))
    assert loss.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "InfogainLoss"])
def test_the_second_top_is_the_softmax_over_the_losss_axis(kind: str, axis: int) -> None:
    scores = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    classes = scores.shape[axis]
    labels = torch.zeros(2, 12 // classes)
    matrix = [torch.eye(classes)] if kind == "InfogainLoss" else []
    param = "infogain_loss_param" if matrix else "softmax_param"
    settings = f"{param} {{ axis: {axis} }} loss_weight: 1 loss_weight: 0"
    _, top = run_layer(kind, settings, scores, labels, *matrix, tops=2)
    assert top.shape == scores.shape
    wanted = oracle.softmax(scores.double().numpy(), axis)
    np.testing.assert_allclose(top.numpy(), wanted, rtol=1e-5)


def test_the_accuracy_of_each_class_leaves_ignored_labels_out() -> None:
    labels = torch.tensor([[0, 1, 9, 0], [9, 9, 1, 0]])
    chosen = torch.tensor([[0, 1, 0, 1], [0, 2, 2, 0]])
    scores = torch.nn.functional.one_hot(chosen, 3).transpose(1, 2).float()
    settings = "accuracy_param { ignore_label: 9 }"
    accuracy, each = run_layer("Accuracy", settings, scores, labels, tops=2)
    assert accuracy.item() == pytest.approx(3 / 5)
    assert each.tolist() == pytest.approx([2 / 3, 1 / 2, 0])


def test_infogains_probabilities_are_at_least_1e_20() -> None:
    """softmax gives e^-100 to label 0; SoftmaxWithLoss would stop at FLT_MIN instead."""
    bottoms = torch.tensor([[0.0, 100.0]]), torch.zeros(1), torch.eye(2)
    (loss,) = run_layer("InfogainLoss", "", *bottoms)
    assert loss.item() == pytest.approx(-math.log(1e-20))


@pytest.mark.parametrize(("ignored", "counted"), [(0, [2]), (-1, [0, 1])])
def test_sigmoid_loss_ignores_targets_by_their_whole_part(ignored: int, counted: list[int]) -> None:
    """C++ cuts towards 0: -0.5 counts as 0, -1.5 as -1."""
    targets = [-0.5, 0.5, -1.5]
    settings = f"loss_param {{ ignore_label: {ignored} normalization: NONE }}"
    bottoms = torch.full((1, 3), 2.0), torch.tensor([targets])
    (loss,) = run_layer("SigmoidCrossEntropyLoss", settings, *bottoms)
    wanted = [math.log(1 + math.exp(2)) - 2 * targets[i] for i in counted]
    assert loss.item() == pytest.approx(sum(wanted))


def test_pairs_are_similar_by_any_label_whose_whole_part_is_not_0() -> None:
    """d = 0.5: d² for the similar, (margin - d)² for the others."""
    labels = torch.tensor([1.0, 2.0, -1.0, 0.5, 0.0])
    bottoms = torch.zeros(5, 1), torch.full((5, 1), 0.5), labels
    (loss,) = run_layer("ContrastiveLoss", "contrastive_loss_param { margin: 2 }", *bottoms)
    assert loss.item() == pytest.approx((3 * 0.5**2 + 2 * 1.5**2) / 10)
