"""gmnet_pt.solver.updates against the float64 formulas in oracle.py, and what Caffe refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import oracle
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import SolverError
from converters.proto import caffe_pb2 as pb
from gmnet_pt.solver import updates
from gmnet_pt.solver.lr_policy import _policy, rate_policy
from gmnet_pt.solver.updates import _REGULARIZERS, Updater, _rule

RULES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")
# A scalar among them, as a channel_shared PReLU has; the last is a frozen BatchNorm blob.
SHAPES = ((4, 3, 2, 2), (5,), (), (2, 7), (3,))
LR_MULTS = (1.0, 2.0, 0.5, 1.0, 0.0)
DECAY_MULTS = (1.0, 0.0, 3.0, 1.0, 1.0)


def float32(minimum: float, maximum: float) -> st.SearchStrategy[float]:
    return st.floats(float(np.float32(minimum)), float(np.float32(maximum)), width=32)


@st.composite
def solvers(
    draw: st.DrawFn, rules: Sequence[str] = RULES, policies: Sequence[str] = POLICIES
) -> pb.SolverParameter:
    rule = draw(st.sampled_from(rules))
    solver = pb.SolverParameter(
        type=rule,
        base_lr=draw(float32(0.001, 0.1)),
        lr_policy=draw(st.sampled_from(policies)),
        gamma=draw(float32(0.1, 1)),
        power=draw(float32(0, 2)),
        stepsize=draw(st.integers(1, 6)),
        max_iter=10,
        stepvalue=sorted(draw(st.lists(st.integers(0, 9), max_size=3))),
        momentum=0 if rule in ("AdaGrad", "RMSProp") else draw(float32(0, 0.99)),
        momentum2=draw(float32(0.5, 0.999)),
        rms_decay=draw(float32(0, 0.99)),
        delta=draw(st.sampled_from([float(np.float32(d)) for d in (1e-8, 1e-6, 1e-2)])),
        weight_decay=draw(st.sampled_from([0.0, float(np.float32(0.01)), 0.5])),
        regularization_type=draw(st.sampled_from(["L1", "L2"])),
        iter_size=draw(st.integers(1, 4)),
    )
    if draw(st.booleans()):
        # Norms are near 6·iter_size: some limits clip, some do not.
        solver.clip_gradients = draw(float32(0, 30))
    return solver


def oracle_of(solver: pb.SolverParameter, params: Sequence[np.ndarray]) -> oracle.SolverOracle:
    return oracle.SolverOracle(
        solver.type,
        [p.astype(np.float64) for p in params],
        LR_MULTS,
        DECAY_MULTS,
        solver.momentum,
        solver.momentum2,
        solver.rms_decay,
        solver.delta,
        solver.weight_decay,
        solver.regularization_type,
        solver.iter_size,
        solver.clip_gradients,
    )


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    assert tuple(found.shape) == expected.shape
    difference = np.abs(found.double().numpy() - expected).max()
    return float(difference / max(np.abs(expected).max(), 1e-30))


# In float64 only the order of operations differs. In float32, 10 steps collect rounding of 6e-8
# each; a second moment is the worst (its terms are squares). A wrong δ or rate is off by over 1e-3.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-5)], ids=["f64", "f32"]
)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(solver=solvers(), seed=st.integers(0, 2**32 - 1))
def test_rules_equal_caffes_formulas(
    dtype: torch.dtype, tolerance: float, solver: pb.SolverParameter, seed: int
) -> None:
    random = np.random.default_rng(seed)
    start = [random.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    params = [torch.tensor(p, dtype=dtype) for p in start]
    updater = Updater(params, LR_MULTS, DECAY_MULTS, solver)
    expected = oracle_of(solver, start)
    policy, current_step = rate_policy(solver), 0
    for iteration in range(10):
        gradients = [
            random.uniform(0.2, 2, shape) * random.choice([-1, 1], shape) * solver.iter_size
            for shape in SHAPES
        ]
        gradients = [g.astype(np.float32).astype(np.float64) for g in gradients]
        gradients[-1][...] = 0
        rate, current_step = policy(iteration, current_step)
        given_gradients = [torch.tensor(g, dtype=dtype) for g in gradients[:-1]]
        updater.step([*given_gradients, None], torch.tensor(rate, dtype=dtype), iteration)
        expected.step(gradients, rate, iteration)
    for found, right in zip(params, expected.params, strict=True):
        assert relative(found, right) < tolerance
    assert len(updater.history) == len(expected.history)
    for found, right in zip(updater.history, expected.history, strict=True):
        assert relative(found, right) < tolerance
    assert torch.equal(params[-1], torch.tensor(start[-1], dtype=dtype))


@pytest.mark.parametrize("rule", RULES)
def test_updates_hold_what_was_subtracted(rule: str) -> None:
    solver = pb.SolverParameter(type=rule, weight_decay=0.25)
    params = [torch.ones(3), torch.full((2,), 2.0), torch.full((), 4.0)]
    updater = Updater(params, (1, 2, 1), (1, 1, 0), solver)
    before = [p.clone() for p in params]
    updater.step([torch.full_like(p, 0.5) for p in params], torch.tensor(0.125), 0)
    for old, new, update in zip(before, params, updater.updates, strict=True):
        assert new.shape == update.shape
        assert torch.equal(old - update, new)
        assert update.abs().min() > 0


@pytest.mark.parametrize("rule", RULES)
def test_pieces_of_any_size_give_the_same_bits(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut within a parameter and between them, in either layout, history in the other one."""
    solver = pb.SolverParameter(type=rule, weight_decay=0.25, clip_gradients=1, iter_size=2)
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES]
    found = []
    for piece in (2**18, 7, 1):
        for layout in (torch.contiguous_format, torch.channels_last):
            monkeypatch.setattr(updates, "PIECE", piece)
            params = [p.clone() for p in start]
            updater = Updater(params, LR_MULTS, DECAY_MULTS, solver)
            params[0].data = params[0].contiguous(memory_format=layout)
            for count in range(3):
                updater.step([(p + count).clone() for p in start], torch.tensor(0.125), count)
            found.append([*params, *updater.history, *updater.updates])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.equal(one, other)
    assert updater.history[0].is_contiguous(memory_format=torch.channels_last)


def test_decay_reaches_the_history_of_a_frozen_parameter() -> None:
    solver = pb.SolverParameter(type="AdaGrad", weight_decay=0.5)
    frozen = torch.tensor([2.0, -4.0])
    updater = Updater([frozen], [0.0], [1.0], solver)
    updater.step([None], torch.tensor(0.1), 0)
    assert frozen.tolist() == [2, -4]
    assert updater.history[0].tolist() == [1, 4]


def test_clipping_uses_the_norm_of_the_raw_sum() -> None:
    # ‖(6, 8)‖ = 10 is scaled to 5 and then halved by iter_size; decay is added unscaled.
    solver = pb.SolverParameter(type="SGD", clip_gradients=5, iter_size=2, weight_decay=1)
    params = [torch.tensor([1.0]), torch.tensor([1.0])]
    updater = Updater(params, [1, 1], [1, 1], solver)
    updater.step([torch.tensor([6.0]), torch.tensor([8.0])], torch.tensor(1.0), 0)
    assert updater.gradient_norm is not None
    assert float(updater.gradient_norm) == 10
    assert [float(p) for p in params] == [1 - (1.5 + 1), 1 - (2 + 1)]


def test_iteration_may_be_a_tensor() -> None:
    solver = pb.SolverParameter(type="Adam", momentum=0.9)
    results = []
    for iteration in (7, torch.tensor(7)):
        param = torch.tensor([1.0, 2.0])
        updater = Updater([param], [1], [1], solver)
        updater.step([torch.tensor([0.5, -1.0])], torch.tensor(0.01), iteration)
        results.append(param)
    assert torch.equal(*results)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", RULES)
def test_a_cuda_graph_captures_the_step(rule: str) -> None:
    solver = pb.SolverParameter(type=rule, weight_decay=0.01, clip_gradients=1, iter_size=2)
    random = np.random.default_rng(0)
    start = [random.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    params = [torch.tensor(p, device="cuda") for p in start]
    gradients = [torch.zeros_like(p) for p in params]
    rate, iteration = torch.zeros((), device="cuda"), torch.zeros((), device="cuda")
    updater = Updater(params, LR_MULTS, DECAY_MULTS, solver)
    expected = oracle_of(solver, start)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # a warm-up on zeros: what it changes is put back
        updater.step(gradients, rate, iteration)
    torch.cuda.synchronize()
    for tensor in updater.history:
        tensor.zero_()
    for param, old in zip(params, start, strict=True):
        param.copy_(torch.tensor(old))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        updater.step(gradients, rate, iteration)
    for count in range(5):
        fresh = [random.standard_normal(shape) for shape in SHAPES]
        fresh[-1][...] = 0
        for gradient, values in zip(gradients, fresh, strict=True):
            gradient.copy_(torch.tensor(values))
        rate.fill_(0.01 * (count + 1))
        iteration.fill_(count)
        graph.replay()
        expected.step(fresh, 0.01 * (count + 1), count)
    for found, right in zip(params, expected.params, strict=True):
        assert relative(found.cpu(), right) < 3e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type: "Lion"', 'type "Lion" is unknown (one of: SGD, Nesterov, AdaGrad, RMSProp,'),
        ('type: "AdaGrad" momentum: 0.9', "momentum is 0.9"),
        ('type: "RMSProp" momentum: 0.9', "momentum is 0.9"),
        ('type: "RMSProp" rms_decay: 1', "rms_decay is 1"),
        ('type: "RMSProp" rms_decay: -0.5', "rms_decay is -0.5"),
        ('regularization_type: "L3" weight_decay: 1', 'regularization_type "L3" is unknown'),
        ("iter_size: 0", "iter_size is 0"),
    ],
)
def test_errors_name_the_field_and_its_value(text: str, message: str) -> None:
    solver = text_format.Parse(text, pb.SolverParameter())
    with pytest.raises(SolverError) as raised:
        Updater([torch.zeros(1)], [1], [1], solver, "solver.prototxt")
    assert str(raised.value).startswith("solver.prototxt: ")
    assert message in str(raised.value)


def test_an_unknown_regularization_without_decay_is_accepted_as_by_caffe() -> None:
    solver = pb.SolverParameter(regularization_type="L3")
    Updater([torch.zeros(1)], [1], [1], solver)


def test_history_of_another_net_is_refused_whole() -> None:
    updater = Updater([torch.zeros(2), torch.zeros(3)], [1, 1], [1, 1], pb.SolverParameter())
    with pytest.raises(SolverError, match=r"x\.solverstate: holds 4 .* needs 2"):
        updater.load_history([torch.ones(2)] * 4, "x.solverstate")
    with pytest.raises(SolverError, match=r"history blob 1 has shape \[2\].* needs \[3\]"):
        updater.load_history([torch.ones(2), torch.ones(2)], "x.solverstate")
    assert all(not h.any() for h in updater.history)
    updater.load_history([torch.ones(2), torch.ones(3)], "x.solverstate")
    assert [h.tolist() for h in updater.history] == [[1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    "register",
    [lambda: _rule("SGD"), lambda: _REGULARIZERS.add("L1"), lambda: _policy("fixed")],
    ids=["rule", "regularizer", "policy"],
)
def test_a_name_is_registered_once(register: Callable[[], Callable[[object], object]]) -> None:
    with pytest.raises(ValueError, match="is registered twice"):
        register()(lambda *given: None)
