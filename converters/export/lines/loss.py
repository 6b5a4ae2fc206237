"""Lines of losses, and of Accuracy."""

from __future__ import annotations

import torch

from converters.export.writing import Call, NoLineError, line, number
from converters.layers.forks.faces import CenterLoss
from converters.layers.loss import Accuracy, InfogainLoss, NormalizedLoss, SoftmaxWithLoss
from converters.layers.registry import Layer
from converters.proto import caffe_pb2 as pb


def _normalization(layer: NormalizedLoss) -> str:
    """The end of a call: what the sum is divided by, and the label that does not count."""
    name = pb.LossParameter.NormalizationMode.Name(layer.normalization)
    ignored = "" if layer.ignored_label is None else f", {layer.ignored_label}"
    return f'"{name}"{ignored}'


def _with_softmax(layer: SoftmaxWithLoss | InfogainLoss, loss: str, call: Call) -> str:
    return f"{loss}, F.softmax({call.x}, {layer.along})" if layer.softmax_wanted else loss


@line("SoftmaxWithLoss")
def _softmax_loss(layer: SoftmaxWithLoss, call: Call) -> str:
    if layer.each_wanted:
        raise NoLineError("its third top, the loss at each label, is of R-FCN's training alone")
    x, labels = call.bottoms
    loss = f"softmax_loss({x}, {labels}, {layer.along}, {_normalization(layer)})"
    return _with_softmax(layer, loss, call)


@line("InfogainLoss")
def _infogain_loss(layer: InfogainLoss, call: Call) -> str:
    values = layer.values
    matrix = call.bottoms[-1] if values is None else call.constant("matrix", torch.tensor(values))
    x, labels = call.bottoms[:2]
    loss = f"infogain_loss({x}, {labels}, {matrix}, {layer.along}, {_normalization(layer)})"
    return _with_softmax(layer, loss, call)


@line("Accuracy")
def _accuracy(layer: Accuracy, call: Call) -> str:
    ignored = "" if layer.ignored_label is None else f", {layer.ignored_label}"
    top_k = layer.param.accuracy_param.top_k
    y = f"accuracy({', '.join(call.bottoms)}, {layer.along}, {top_k}{ignored})"
    return y if layer.per_class else f"{y}[0]"


@line("SigmoidCrossEntropyLoss")
def _sigmoid_cross_entropy_loss(layer: NormalizedLoss, call: Call) -> str:
    return f"sigmoid_cross_entropy_loss({', '.join(call.bottoms)}, {_normalization(layer)})"


@line("EuclideanLoss")
def _euclidean_loss(layer: Layer, call: Call) -> str:
    return f"euclidean_loss({', '.join(call.bottoms)})"


@line("HingeLoss")
def _hinge_loss(layer: Layer, call: Call) -> str:
    power = 2 if layer.param.hinge_loss_param.norm == pb.HingeLossParameter.L2 else 1
    return f"hinge_loss({', '.join(call.bottoms)}, {power})"


@line("ContrastiveLoss")
def _contrastive_loss(layer: Layer, call: Call) -> str:
    param = layer.param.contrastive_loss_param
    end = f"{number(param.margin)}, {param.legacy_version}"
    return f"contrastive_loss({', '.join(call.bottoms)}, {end})"


@line("MultinomialLogisticLoss")
def _multinomial_logistic_loss(layer: Layer, call: Call) -> str:
    return f"multinomial_logistic_loss({', '.join(call.bottoms)})"


@line("CenterLoss")
@line("CenterLoss of happynear")
def _center_loss(layer: CenterLoss, call: Call) -> str:
    power = 2 if layer.distance == "L2" else 1
    return f"center_loss({', '.join((*call.bottoms, *call.blobs))}, {power})"


@line("L1Loss")
def _l1_loss(layer: Layer, call: Call) -> str:
    x, y = call.bottoms
    return f"({x} - {y}.reshape({x}.shape)).abs().sum() / {x}.shape[0]"
