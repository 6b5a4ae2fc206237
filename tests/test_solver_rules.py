"""Property: the Solver's whole step, rate policy included, is Caffe's formulas in float64 NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_updates import POLICIES, RULES, relative, solvers

from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import to_text
from gmnet_pt import Solver

# y = x Wᵀ + b against t: its gradients are written out below.
NET = """
name: "regression"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules")
    (path / "net.prototxt").write_text(NET)
    return path


def in_float64(path: Path, message: pb.SolverParameter) -> Solver:
    """A solver whose parameters and history are float64, so that only formulas can differ."""
    message.net = str(path / "net.prototxt")
    (path / "solver.prototxt").write_text(to_text(message))
    solver = Solver(path / "solver.prototxt", device="cpu")
    solver.net.double()
    solver.updater.history = [history.double() for history in solver.updater.history]
    return solver


# The rate is a float32 value (6e-8, amplified by inv's and poly's powers): nothing else is rounded.
TOLERANCE = 1e-5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=3)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_a_run_equals_the_transcription(
    rule: str, policy: str, folder: Path, data: st.DataObject, seed: int
) -> None:
    message = data.draw(solvers([rule], [policy]))
    message.random_seed = seed % 1000
    solver = in_float64(folder, message)
    weights = [blob.detach().numpy().copy() for blob in solver.net.params["fc"]]
    rate = oracle.RateOracle(
        message.lr_policy,
        message.base_lr,
        message.gamma,
        message.power,
        message.stepsize,
        list(message.stepvalue),
        message.max_iter,
    )
    expected = oracle.SolverOracle(
        message.type,
        weights,
        (1.0, 2.0),
        (1.0, 0.0),
        message.momentum,
        message.momentum2,
        message.rms_decay,
        message.delta,
        message.weight_decay,
        message.regularization_type,
        message.iter_size,
        message.clip_gradients,
    )
    random = np.random.default_rng(seed)
    for iteration in range(8):
        # Far from the solution: no gradient is so near zero that rounding decides its sign.
        x, t = random.uniform(0.5, 1, (4, 3)), random.uniform(8, 9, (4, 2))
        w, b = expected.params
        error = x @ w.T + b - t
        loss = solver.step({"x": torch.from_numpy(x), "t": torch.from_numpy(t)})
        assert float(loss) == pytest.approx((error**2).sum() / 8, rel=1e-4)
        gradients = [error.T @ x / 4, error.sum(axis=0) / 4]
        expected.step([message.iter_size * g for g in gradients], rate(iteration), iteration)
    found = [blob.detach() for blob in solver.net.params["fc"]]
    for one, right in zip([*found, *solver.updater.history], [*expected.params, *expected.history]):
        assert one.dtype == torch.float64
        assert relative(one, right) < TOLERANCE
