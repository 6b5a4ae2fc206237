"""Learning-rate policies: pure functions (iteration, current_step) → (rate, current_step).

`rate_policy` builds one from a SolverParameter. `current_step` is the only state that a policy
has, and `.solverstate` files carry it; but SSD's "plateau" has a `Plateau` too, which follows the
loss. `gmnet_pt.solver.updates` applies the rate.

Caffe (solvers/sgd_solver.cpp) computes in float32, but a power with an integer exponent in float64,
as C++ promotes it; so do these functions. The rate they return is a float32 value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from converters.errors import SolverError
from converters.proto import caffe_pb2 as pb
from converters.registry import Registry


class Rate(NamedTuple):
    """The rate of one iteration (a float32 value), and the step that goes into a snapshot."""

    rate: float
    current_step: int


FLT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Plateau:
    """What lr_policy "plateau" remembers: the smallest smoothed loss, and when it or the rate fell.

    The rate falls where neither has happened for plateau_winsize[step] iterations.
    Source: weiliu89/caffe solvers/sgd_solver.cpp.
    """

    minimum_loss: float = FLT_MAX
    last_event: int = 0

    def after(
        self, solver: pb.SolverParameter, iteration: int, step: int, loss: float
    ) -> tuple[Plateau, int]:
        """The state once the smoothed loss of an iteration is known, and the current_step then."""
        smallest, event = self.minimum_loss, self.last_event
        if loss < smallest:
            smallest, event = loss, iteration
        windows = solver.plateau_winsize
        if step < len(windows) and iteration >= event + windows[step]:
            step, event = step + 1, iteration
        return Plateau(smallest, event), step


RatePolicy = Callable[[int, int], Rate]
Factor = Callable[[pb.SolverParameter, int, int], tuple[float, int]]


class _Entry(NamedTuple):
    factor: Factor
    non_negative: tuple[str, ...]
    positive: tuple[str, ...]


_POLICIES: Registry[_Entry] = Registry("learning rate policy")


def _policy(
    name: str, non_negative: tuple[str, ...] = (), positive: tuple[str, ...] = ()
) -> Callable[[Factor], Factor]:
    """Register what a policy multiplies base_lr with, and the fields that Caffe checks for it."""

    def register(factor: Factor) -> Factor:
        _POLICIES.add(name)(_Entry(factor, non_negative, positive))
        return factor

    return register


def rate_policy(solver: pb.SolverParameter, source: str = "solver") -> RatePolicy:
    """The policy that `lr_policy` names, with this solver's base_lr, gamma, power and steps.

    Raises:
        SolverError: an unknown policy, gamma < 0, or no stepsize where the policy needs one.
    """
    entry = _POLICIES.get(solver.lr_policy)
    if entry is None:
        raise SolverError(
            f'{source}: lr_policy "{solver.lr_policy}" is unknown (one of: {", ".join(_POLICIES)})'
        )
    for field in entry.non_negative:
        if not getattr(solver, field) >= 0:
            raise SolverError(_refused(source, solver, field, "at least 0"))
    for field in entry.positive:
        if not getattr(solver, field) > 0:
            raise SolverError(_refused(source, solver, field, "above 0"))
    # The caller may go on editing its message.
    own = pb.SolverParameter()
    own.CopyFrom(solver)

    def policy(iteration: int, current_step: int) -> Rate:
        with np.errstate(all="ignore"):
            factor, step = entry.factor(own, iteration, current_step)
            return Rate(_float32(own.base_lr * factor), step)

    return policy


def _refused(source: str, solver: pb.SolverParameter, field: str, accepted: str) -> str:
    value = f"{getattr(solver, field):g}" if solver.HasField(field) else "missing"
    return f'{source}: {field} is {value}, lr_policy "{solver.lr_policy}" needs it {accepted}'


def _power(base: float | np.floating[Any], exponent: float) -> float:
    """In float64, by numpy: where Python would raise, C++ and numpy yield NaN or infinity."""
    return float(np.power(np.float64(base), np.float64(exponent)))


def _float32(value: float) -> float:
    return float(np.float32(value))


@_policy("fixed")
def _fixed(solver: pb.SolverParameter, iteration: int, step: int) -> tuple[float, int]:
    """base_lr."""
    return 1.0, step


@_policy("step", non_negative=("gamma",), positive=("stepsize",))
def _step(solver: pb.SolverParameter, iteration: int, step: int) -> tuple[float, int]:
    """base_lr · gamma^⌊iteration / stepsize⌋."""
    step = iteration // solver.stepsize
    return _power(solver.gamma, step), step


@_policy("exp", non_negative=("gamma",))
def _exp(solver: pb.SolverParameter, iteration: int, step: int) -> tuple[float, int]:
    """base_lr · gamma^iteration."""
    return _power(solver.gamma, iteration), step


@_policy("inv", non_negative=("gamma",))
def _inv(solver: pb.SolverParameter, iteration: int, step: int) -> tuple[float, int]:
    """base_lr · (1 + gamma · iteration)^−power."""
    base = np.float32(1) + np.float32(solver.gamma) * np.float32(iteration)
    return _float32(_power(base, -solver.power)), step


@_policy("multistep", non_negative=("gamma",))
def _multistep(solver: pb.SolverParameter, iteration: int, step: int) -> tuple[float, int]:
    """base_lr · gamma^step; the step rises at most once per call, when its stepvalue is reached."""
    if step < len(solver.stepvalue) and iteration >= solver.stepvalue[step]:
        step += 1
    return _power(solver.gamma, step), step


@_policy("poly")
def _poly(solver: pb.SolverParameter, iteration: int, step: int) -> tuple[float, int]:
    """base_lr · (1 − iteration / max_iter)^power."""
    base = np.float32(1) - np.float32(iteration) / np.float32(solver.max_iter)
    return _float32(_power(base, solver.power)), step


@_policy("sigmoid", non_negative=("gamma",), positive=("stepsize",))
def _sigmoid(solver: pb.SolverParameter, iteration: int, step: int) -> tuple[float, int]:
    """base_lr / (1 + exp(−gamma · (iteration − stepsize)))."""
    exponent = -np.float32(solver.gamma) * (np.float32(iteration) - np.float32(solver.stepsize))
    return float(np.float32(1) / (np.float32(1) + np.float32(np.exp(np.float64(exponent))))), step


@_policy("plateau", non_negative=("gamma",))
def _plateau(solver: pb.SolverParameter, iteration: int, step: int) -> tuple[float, int]:
    """base_lr · gamma^step; the step is that of `Plateau.after`."""
    return _power(solver.gamma, step), step
