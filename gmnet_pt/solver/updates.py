"""Caffe's six update rules over all parameters at once, as `torch._foreach_*` calls.

`Updater.step` follows the order of Caffe (solvers/sgd_solver.cpp ApplyUpdate), which is visible
below: clip, normalize, regularize, update. A rule is one registered function. The rate comes from
`gmnet_pt.solver.lr_policy` as a 0-d tensor and nothing here turns a tensor into a Python number, so
that a CUDA graph can hold the whole step. On a CPU the steps behind clipping go over pieces that
stay in the cache: memory is what they wait for.

Where torch.optim differs: there the rate stays outside SGD's and Nesterov's history, and Adam adds
eps to the corrected root.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from converters.errors import SolverError
from converters.proto import caffe_pb2 as pb
from converters.registry import Registry

Tensors = list[Tensor]


class Step(NamedTuple):
    """What a rule is given beside gradients and history: rate is 0-d, iteration counts from 0."""

    rate: Tensor
    iteration: Tensor
    solver: pb.SolverParameter


Rule = Callable[[Tensors, Sequence[Tensors], Step], None]


class _Entry(NamedTuple):
    rule: Rule
    blocks: int


class _Group(NamedTuple):
    """The parameters that have the same two multipliers, by their place among all parameters."""

    places: list[int]
    lr_mult: float
    decay: float


Regularizer = Callable[[Tensors, Tensors, float], None]
# Values at a time on a CPU: of each of parameters, gradients and histories.
PIECE = 2**18
# A regularizer adds its decay to gradients, given them, the parameters and the factor.
_RULES: Registry[_Entry] = Registry("update rule")
_REGULARIZERS: Registry[Regularizer] = Registry("regularization_type")


def _rule(name: str, blocks: int = 1) -> Callable[[Rule], Rule]:
    """Register a rule that keeps `blocks` histories per parameter.

    A rule updates its histories in place, and the gradients to what is to be subtracted from the
    parameters.
    """

    def register(rule: Rule) -> Rule:
        _RULES.add(name)(_Entry(rule, blocks))
        return rule

    return register


class Updater:
    """The state and the step of one solver type over parameters of any shapes.

    `history` is laid out as in Caffe's solverstate: a tensor per parameter, and for AdaDelta and
    Adam a second such block. Parameters with lr_mult 0 belong here too: they never move, but weight
    decay enters their history.

    Raises:
        SolverError: an unknown type or regularization_type, or a field that the type forbids.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        lr_mults: Sequence[float],
        decay_mults: Sequence[float],
        solver: pb.SolverParameter,
        source: str = "solver",
    ) -> None:
        _check(solver, source)
        self._solver = pb.SolverParameter()
        self._solver.CopyFrom(solver)
        self._params = list(params)
        self._rule, blocks = _RULES[solver.type]
        self.history: Tensors = [torch.zeros_like(p) for _ in range(blocks) for p in self._params]
        self._groups = _grouped(self._params, lr_mults, decay_mults, solver.weight_decay)
        if any(group.decay for group in self._groups):
            _check_known(source, "regularization_type", solver.regularization_type, _REGULARIZERS)
        # Whether the rate may be read as a number: no recording of the step can hold one.
        self.reads_rate = True
        # 0-d: the global gradient norm before clipping (None without clip_gradients) …
        self.gradient_norm: Tensor | None = None
        # … and what the last step subtracted, by parameter, until the next: Caffe's diffs after an
        # update, which snapshot_diff writes.
        self.updates: Tensors = []

    @torch.no_grad()
    def step(
        self, gradients: Sequence[Tensor | None], rate: Tensor, iteration: Tensor | int
    ) -> None:
        """Update all parameters in place; `gradients` (sums over iter_size) are overwritten.

        None is a zero gradient; `rate` is 0-d, on the parameters' device; `iteration` counts the
        updates done before (a 0-d tensor under CUDA graphs).
        """
        solver = self._solver
        grads = [
            torch.zeros_like(param) if grad is None else grad
            for param, grad in zip(self._params, gradients, strict=True)
        ]
        done = torch.as_tensor(iteration, dtype=torch.float64, device=rate.device)
        if grads and solver.clip_gradients >= 0:
            self.gradient_norm = clip(grads, solver.clip_gradients)
        self.updates = grads
        self._follow_layouts()
        for group in self._groups:
            local = Step(rate * group.lr_mult, done, solver)
            if self._sgd_in_one_pass(group, local):
                continue
            for params, some, *history in _pieces(self._of(group, grads)):
                normalize(some, solver.iter_size)
                regularize(some, params, group.decay, solver.regularization_type)
                self._rule(some, history, local)
                torch._foreach_sub_(params, some)

    def _sgd_in_one_pass(self, group: _Group, step: Step) -> bool:
        """On a CPU, SGD as torch's own kernel, where that can be; False where nothing was done.

        That kernel makes h ← μ·h + (1 − d)·(g + decay·w); w ← w − h: with d = 1 − η, Caffe's rule.
        It takes η as a number, which a CPU has at hand.
        """
        solver = self._solver
        params, grads, *history = self._of(group, self.updates)
        l1 = group.decay and solver.regularization_type != "L2"
        if solver.type != "SGD" or not solver.momentum or l1:
            return False
        if not self.reads_rate or step.rate.device.type != "cpu":
            return False
        for tensors in zip(params, grads, *history, strict=True):
            if not all(map(_alike, tensors, tensors[1:])) or not _is_dense(tensors[0]):
                return False
        normalize(grads, solver.iter_size)
        torch._fused_sgd_(
            params,
            grads,
            history[0],
            weight_decay=group.decay,
            momentum=solver.momentum,
            lr=1.0,
            dampening=1 - float(step.rate),
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )
        for place, subtracted in zip(group.places, history[0], strict=True):
            self.updates[place] = subtracted
        return True

    def _follow_layouts(self) -> None:
        """Lay history out as the parameters are now: mixed layouts take several times as long."""
        for place, old in enumerate(self.history):
            param = self._params[place % len(self._params)]
            if old.stride() != param.stride():
                self.history[place] = torch.empty_like(param).copy_(old)

    def _of(self, group: _Group, grads: Tensors) -> list[Tensors]:
        """A group's parameters, gradients and blocks of history, each a list in its order."""
        count = len(self._params)
        blocks = [
            self.history[start : start + count] for start in range(0, len(self.history), count)
        ]
        return [[some[i] for i in group.places] for some in (self._params, grads, *blocks)]

    @torch.no_grad()
    def load_history(self, history: Sequence[Tensor], source: str = "snapshot") -> None:
        """Copy a snapshot's history in; raises SolverError when its number or shapes differ."""
        if len(history) != len(self.history):
            raise SolverError(
                f"{source}: holds {len(history)} history blobs, solver type "
                f'"{self._solver.type}" on this net needs {len(self.history)}'
            )
        for place, (own, new) in enumerate(zip(self.history, history, strict=True)):
            if own.shape != new.shape:
                raise SolverError(
                    f"{source}: history blob {place} has shape {list(new.shape)}, "
                    f"this net needs {list(own.shape)}"
                )
        for own, new in zip(self.history, history, strict=True):
            own.copy_(new)


def _check(solver: pb.SolverParameter, source: str) -> None:
    _check_known(source, "type", solver.type, _RULES)
    if solver.iter_size < 1:
        raise SolverError(f"{source}: iter_size is {solver.iter_size}, it must be at least 1")
    if solver.type in ("AdaGrad", "RMSProp") and solver.momentum != 0:
        raise SolverError(
            f'{source}: momentum is {solver.momentum:g}, but type "{solver.type}" cannot use '
            "momentum: leave it out"
        )
    if solver.type == "RMSProp" and not 0 <= solver.rms_decay < 1:
        raise SolverError(
            f"{source}: rms_decay is {solver.rms_decay:g}, it must be at least 0 and below 1"
        )


def _check_known(source: str, field: str, value: str, known: Mapping[str, object]) -> None:
    if value not in known:
        raise SolverError(f'{source}: {field} "{value}" is unknown (one of: {", ".join(known)})')


def _grouped(
    params: Sequence[Tensor],
    lr_mults: Sequence[float],
    decay_mults: Sequence[float],
    weight_decay: float,
) -> list[_Group]:
    places: dict[tuple[float, float], list[int]] = defaultdict(list)
    multipliers = zip(params, lr_mults, decay_mults, strict=True)
    for place, (_, lr_mult, decay_mult) in enumerate(multipliers):
        places[lr_mult, weight_decay * decay_mult].append(place)
    return [_Group(members, *key) for key, members in places.items()]


def _pieces(lists: list[Tensors]) -> Iterator[list[Tensors]]:
    """The lists as they are; on a CPU parts of about PIECE values that belong together.

    Tensors of one place in the lists have one shape. Those whose values lie in another order than
    the others' are not cut.
    """
    if any(tensor.device.type != "cpu" for tensor in lists[0]):
        yield lists
        return
    part: list[Tensors] = [[] for _ in lists]
    size = 0
    for tensors in zip(*lists, strict=True):
        first = tensors[0]
        alike = all(tensor.stride() == first.stride() for tensor in tensors)
        cut = first.numel() > PIECE and alike and _is_dense(first)
        for some in zip(*map(_cut, tensors), strict=True) if cut else (tensors,):
            for column, tensor in zip(part, some, strict=True):
                column.append(tensor)
            size += some[0].numel()
            if size >= PIECE:
                yield part
                part, size = [[] for _ in lists], 0
    if part[0]:
        yield part


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether both are float32 with values that belong together at one place of their memories."""
    if not one.dtype == other.dtype == torch.float32:
        return False
    steps, others = one.stride(), other.stride()
    return steps == others or all(n == 1 or a == b for n, a, b in zip(one.shape, steps, others))


def _is_dense(tensor: Tensor) -> bool:
    """Whether the values lie side by side, in whatever order."""
    if tensor.is_contiguous():
        return True
    return torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def _cut(tensor: Tensor) -> Sequence[Tensor]:
    """A dense tensor's values in the order of memory, PIECE at a time."""
    return torch.split(tensor.as_strided((tensor.numel(),), (1,)), PIECE)


def clip(gradients: Tensors, limit: float) -> Tensor:
    """Scale all gradients by limit / ‖g‖₂ where their global norm exceeds it; returns ‖g‖₂."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, 1.0))
    return norm


def normalize(gradients: Tensors, iter_size: int) -> None:
    """g ← g / iter_size: the mean of the accumulated passes."""
    if iter_size != 1:
        torch._foreach_mul_(gradients, 1 / iter_size)


def regularize(gradients: Tensors, params: Tensors, decay: float, kind: str) -> None:
    """g ← g + decay · w (L2) or g + decay · sign(w) (L1)."""
    if decay:
        _REGULARIZERS[kind](gradients, params, decay)


@_REGULARIZERS.add("L2")
def _l2(gradients: Tensors, params: Tensors, decay: float) -> None:
    torch._foreach_add_(gradients, params, alpha=decay)


@_REGULARIZERS.add("L1")
def _l1(gradients: Tensors, params: Tensors, decay: float) -> None:
    torch._foreach_add_(gradients, torch._foreach_sign(params), alpha=decay)


@_rule("SGD")
def _sgd(grads: Tensors, history: Sequence[Tensors], step: Step) -> None:
    """h ← μ·h + η·g; w ← w − h (Caffe solvers/sgd_solver.cpp)."""
    (h,) = history
    torch._foreach_mul_(grads, step.rate)
    torch._foreach_add_(grads, h, alpha=step.solver.momentum)
    torch._foreach_copy_(h, grads)


@_rule("Nesterov")
def _nesterov(grads: Tensors, history: Sequence[Tensors], step: Step) -> None:
    """h' = μ·h + η·g; w ← w − ((1 + μ)·h' − μ·h) (Caffe solvers/nesterov_solver.cpp).

    What is subtracted is μ·h' + η·g.
    """
    (h,) = history
    momentum = step.solver.momentum
    torch._foreach_mul_(grads, step.rate)
    torch._foreach_mul_(h, momentum)
    torch._foreach_add_(h, grads)
    torch._foreach_add_(grads, h, alpha=momentum)


@_rule("AdaGrad")
def _adagrad(grads: Tensors, history: Sequence[Tensors], step: Step) -> None:
    """h ← h + g²; w ← w − η·g / (√h + δ) (Caffe solvers/adagrad_solver.cpp)."""
    (h,) = history
    torch._foreach_addcmul_(h, grads, grads)
    _over_root(grads, h, step.solver.delta, step.rate)


@_rule("RMSProp")
def _rmsprop(grads: Tensors, history: Sequence[Tensors], step: Step) -> None:
    """h ← ρ·h + (1 − ρ)·g²; w ← w − η·g / (√h + δ) (Caffe solvers/rmsprop_solver.cpp)."""
    (h,) = history
    _average_square(h, grads, step.solver.rms_decay)
    _over_root(grads, h, step.solver.delta, step.rate)


@_rule("AdaDelta", blocks=2)
def _adadelta(grads: Tensors, history: Sequence[Tensors], step: Step) -> None:
    """h ← μ·h + (1 − μ)·g²; u = g·√((δ + k) / (δ + h)); k ← μ·k + (1 − μ)·u²; w ← w − η·u.

    h is the first block, k the second, μ the momentum (Caffe solvers/adadelta_solver.cpp).
    """
    h, k = history
    momentum, delta = step.solver.momentum, step.solver.delta
    _average_square(h, grads, momentum)
    ratio = torch._foreach_add(k, delta)
    torch._foreach_div_(ratio, torch._foreach_add(h, delta))
    torch._foreach_sqrt_(ratio)
    torch._foreach_mul_(grads, ratio)
    _average_square(k, grads, momentum)
    torch._foreach_mul_(grads, step.rate)


@_rule("Adam", blocks=2)
def _adam(grads: Tensors, history: Sequence[Tensors], step: Step) -> None:
    """m ← β₁·m + (1 − β₁)·g; v ← β₂·v + (1 − β₂)·g²; w ← w − η·c·m / (√v + δ).

    c = √(1 − β₂ᵗ) / (1 − β₁ᵗ) with t = iteration + 1, computed in float64 from the float32 betas as
    C++ promotes it (Caffe solvers/adam_solver.cpp).
    """
    m, v = history
    beta1, beta2 = step.solver.momentum, step.solver.momentum2
    torch._foreach_mul_(m, beta1)
    torch._foreach_add_(m, grads, alpha=1 - beta1)
    _average_square(v, grads, beta2)
    t = step.iteration + 1
    correction = torch.sqrt(1 - beta2**t) / (1 - beta1**t)
    torch._foreach_copy_(grads, m)
    _over_root(grads, v, step.solver.delta, step.rate * correction.to(step.rate.dtype))


def _average_square(average: Tensors, values: Tensors, keep: float) -> None:
    torch._foreach_mul_(average, keep)
    torch._foreach_addcmul_(average, values, values, value=1 - keep)


def _over_root(numerators: Tensors, squares: Tensors, delta: float, rate: Tensor) -> None:
    """numerator ← rate · numerator / (√square + delta)."""
    root = torch._foreach_sqrt(squares)
    torch._foreach_add_(root, delta)
    torch._foreach_div_(numerators, root)
    torch._foreach_mul_(numerators, rate)
