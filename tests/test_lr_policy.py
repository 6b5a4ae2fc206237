"""gmnet_pt.solver.lr_policy against the formulas in oracle.py and the rates that Caffe logged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import SolverError
from converters.proto import caffe_pb2 as pb
from gmnet_pt.solver.lr_policy import rate_policy

GOLDEN = Path(__file__).parent / "golden" / "training"
POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


def solver_of(text: str) -> pb.SolverParameter:
    return text_format.Parse(text, pb.SolverParameter())


def rates(solver: pb.SolverParameter, iterations: int) -> list[float]:
    policy, step, found = rate_policy(solver), 0, []
    for iteration in range(iterations):
        rate, step = policy(iteration, step)
        found.append(rate)
    return found


@settings(derandomize=True)
@given(
    name=st.sampled_from(POLICIES),
    base_lr=st.floats(2**-12, 1, width=32),
    gamma=st.floats(0, 1.5, width=32),
    power=st.floats(0, 4, width=32),
    stepsize=st.integers(1, 20),
    stepvalues=st.lists(st.integers(0, 25), max_size=4),
)
def test_every_policy_follows_its_formula(
    name: str, base_lr: float, gamma: float, power: float, stepsize: int, stepvalues: list[int]
) -> None:
    max_iter = 30
    solver = pb.SolverParameter(
        lr_policy=name, base_lr=base_lr, gamma=gamma, power=power, stepsize=stepsize
    )
    solver.max_iter = max_iter
    solver.stepvalue.extend(stepvalues)
    expected = oracle.RateOracle(name, base_lr, gamma, power, stepsize, stepvalues, max_iter)
    policy, step = rate_policy(solver), 0
    for iteration in range(max_iter):
        rate, step = policy(iteration, step)
        # float32 (6e-8) inside inv, poly and sigmoid, amplified there by power and gamma·iteration.
        assert rate == pytest.approx(expected(iteration), rel=5e-6, abs=1e-30)
        assert step == expected.current_step


@pytest.mark.parametrize("run", ["lenet_sgd_inv", "lenet_adam", "gmnet_nesterov_multistep"])
def test_rates_are_those_that_caffe_logged(run: str) -> None:
    solver = solver_of((GOLDEN / run / "solver.prototxt").read_text())
    logged = np.load(GOLDEN / run / "golden.npz")["lr"]
    assert len(logged) == solver.max_iter
    assert [f"{rate:g}" for rate in rates(solver, len(logged))] == [f"{r:g}" for r in logged]


def test_current_step_rises_once_a_call_and_is_taken_from_the_caller() -> None:
    solver = solver_of('lr_policy: "multistep" base_lr: 1 gamma: 0.5 stepvalue: 2 stepvalue: 2')
    assert rates(solver, 5) == [1, 1, 0.5, 0.25, 0.25]
    assert rate_policy(solver)(0, 2) == (0.25, 2)


def test_rates_are_float32() -> None:
    for rate in rates(solver_of('lr_policy: "exp" base_lr: 0.1 gamma: 0.9'), 10):
        assert rate == float(np.float32(rate))


def test_past_max_iter_the_rate_is_what_cpp_gives() -> None:
    policy = rate_policy(solver_of('lr_policy: "poly" base_lr: 1 power: 0.5 max_iter: 4'))
    assert policy(4, 0).rate == 0
    assert np.isnan(policy(5, 0).rate)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_lr: 1", 'lr_policy "" is unknown (one of: fixed, step, exp, inv, multistep, poly,'),
        ('lr_policy: "cosine"', 'lr_policy "cosine" is unknown'),
        ('lr_policy: "step" gamma: 0.1', "stepsize is missing"),
        ('lr_policy: "step" gamma: 0.1 stepsize: 0', "stepsize is 0"),
        ('lr_policy: "sigmoid" gamma: 0.1 stepsize: -3', "stepsize is -3"),
        ('lr_policy: "sigmoid" gamma: -0.1 stepsize: 3', "gamma is -0.1"),
        ('lr_policy: "exp" gamma: -0.1', "gamma is -0.1"),
        ('lr_policy: "inv" gamma: nan', "gamma is nan"),
        ('lr_policy: "multistep" gamma: -2', "gamma is -2"),
    ],
)
def test_errors_name_the_field_and_its_value(text: str, message: str) -> None:
    with pytest.raises(SolverError) as raised:
        rate_policy(solver_of(text), "solver.prototxt")
    assert str(raised.value).startswith("solver.prototxt: ")
    assert message in str(raised.value)
