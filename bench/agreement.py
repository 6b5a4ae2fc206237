"""Whether both sides compute the same: loss, gradients and updates, before anything is timed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from bench.cases import Case, write_training
from bench.hand_written.classifier import Classifier
from bench.hand_written.rule import Rule
from bench.hand_written.training import optimizer
from converters import CaffeNet, load_net
from converters.errors import NetError
from gmnet_pt import Solver

STATISTICS = ("BatchNorm",)
"""Layer types whose blobs are no weights."""


class Agreement(NamedTuple):
    """How far both sides are apart, as max|a − b| / max|b|, or how far they may be."""

    exact: float
    """Loss and gradients in float64."""
    gradients: float
    """Gradients in float32."""
    updates: float
    """What each of two updates changes, in float32: the second sees the momentum."""


AGREEMENT = Agreement(exact=1e-6, gradients=2e-2, updates=2.5e-1)
"""Rounding through a deep net stays near 1e-8 in float64; a wrong rule does not. In float32 it
reaches 11 % of a tensor's update (ResNet-50); without momentum or decay half of it is gone."""
SMALLEST = 1e-3
"""A tensor counts as at least this part of the largest: where a channel is normalised twice, the
true gradient of the first Scale is 0 and only rounding shows."""
UPDATED = Rule(base_lr=1e-3, weight_decay=1.0)
"""With a large decay a wrong one shows."""


def check(case: Case, module: Classifier, batch: int = 2) -> Agreement:
    """Require that `case` and the hand-written `module` train alike on a small batch of noise.

    Dropout is left out of both; the module's weights change.

    Raises:
        NetError: they differ by more than rounding.
    """
    case = replace(case.without_dropout(), rule=UPDATED._replace(nesterov=case.rule.nesterov))
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    torch.manual_seed(1)
    data = torch.rand(case.images.batch(batch)) - 0.5
    labels = torch.randint(case.classes, (batch,))
    with TemporaryDirectory(prefix="bench_") as folder:
        files = write_training(case, Path(folder), batch)
        net = load_net(files.net, phase="TRAIN")
        copy_weights(case, net, module)
        single = _gradients(case, net, module, data, labels)
        for side in (net, module):
            side.double()
        double = _gradients(case, net, module, data.double(), labels)
        module.float()
        with Solver(files.solver, device="cpu") as solver:
            updates = _updates(case, solver, module, data, labels)
    found = Agreement(double, single, updates)
    if not all(a <= b for a, b in zip(found, AGREEMENT, strict=True)):
        raise NetError(
            f"{case.name}: loss, gradients or updates differ: {found}, allowed {AGREEMENT}"
        )
    return found


def weights(case: Case, net: CaffeNet) -> list[Tensor]:
    """The trained blobs of the Caffe net, in its order."""
    return [blob for kind, blobs in _typed(case, net) if kind not in STATISTICS for blob in blobs]


def copy_weights(case: Case, net: CaffeNet, module: Classifier) -> None:
    """Give the module the net's parameters and statistics, by position.

    Raises:
        NetError: they have other shapes.
    """
    own, given = list(module.parameters()), weights(case, net)
    if [tuple(x.shape) for x in own] != [tuple(x.shape) for x in given]:
        raise NetError(f"{case.name}: the hand-written module has other parameters than the net")
    norms = [x for x in module.modules() if isinstance(x, torch.nn.BatchNorm2d)]
    statistics = [blobs for kind, blobs in _typed(case, net) if kind in STATISTICS]
    with torch.no_grad():
        for target, source in zip(own, given, strict=True):
            target.copy_(source)
        for norm, (mean, variance, scale) in zip(norms, statistics, strict=True):
            if scale > 0 and norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.copy_(mean / scale)
                norm.running_var.copy_(variance / scale)


def _typed(case: Case, net: CaffeNet) -> list[tuple[str, Sequence[Tensor]]]:
    kinds = {layer.name: layer.type for layer in case.layers().layer}
    return [(kinds[name], blobs) for name, blobs in net.params.items()]


def _gradients(
    case: Case, net: CaffeNet, module: Classifier, data: Tensor, labels: Tensor
) -> float:
    """The relative difference of the loss and of all gradients."""
    net.zero_grad(set_to_none=True)
    module.zero_grad(set_to_none=True)
    ours, _ = net.loss({"data": data, "label": labels})
    theirs = module.loss(data, labels)
    for loss in (ours, theirs):
        loss.backward()  # type: ignore[no-untyped-call]
    pairs = [
        (_gradient(case, blob), _gradient(case, parameter))
        for blob, parameter in zip(weights(case, net), module.parameters(), strict=True)
    ]
    return max(_apart([(ours, theirs)]), _apart(pairs))


def _gradient(case: Case, trained: Tensor) -> Tensor:
    if trained.grad is None:
        raise NetError(f"{case.name}: a trained blob has no gradient after the backward pass")
    return trained.grad


def _updates(case: Case, solver: Solver, module: Classifier, data: Tensor, labels: Tensor) -> float:
    """The relative difference of what a first and a second update change, from equal weights."""
    steps = optimizer(module, case.rule, case.rates)
    apart = []
    for _ in range(2):
        copy_weights(case, solver.net, module)
        before = [blob.detach().clone() for blob in weights(case, solver.net)]
        solver.step({"data": data, "label": labels})
        steps.zero_grad(set_to_none=True)
        module.loss(data, labels).backward()  # type: ignore[no-untyped-call]
        steps.step()
        changed = (
            [after - start for after, start in zip(side, before, strict=True)]
            for side in (weights(case, solver.net), module.parameters())
        )
        apart.append(_apart(zip(*changed, strict=True)))
    return max(apart)


def _apart(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    errors, sizes = [], []
    for mine, other in pairs:
        errors.append(float((mine - other).detach().abs().max()))
        sizes.append(float(other.detach().abs().max()))
    least = SMALLEST * max(sizes)
    return max(error / max(size, least) for error, size in zip(errors, sizes, strict=True))
