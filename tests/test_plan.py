"""What the net itself reads of its layers: sharing, weights of losses, where gradients go."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from converters.errors import CaffeError, NetError, ShapeError
from converters.layers.fields import HEADING
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.proto.forks import fork_of
from converters.prototxt.text import parse_net
from gmnet_pt import Solver

DATA = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'


def product(name: str, bottom: str, more: str = "", outputs: int = 3) -> str:
    """An InnerProduct with a top of its own name."""
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {more} '
        f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}\n'
    )


def total(bottom: str, weight: float = 1) -> str:
    """The loss weight · Σ bottom."""
    return (
        f'layer {{ name: "sum_{bottom}" type: "Reduction" bottom: "{bottom}" top: "sum_{bottom}" '
        f"loss_weight: {weight} }}\n"
    )


def build(text: str, phase: str = "TRAIN") -> CaffeNet:
    torch.manual_seed(0)
    return build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"), phase))


X = torch.arange(6.0).reshape(2, 3)


def gradients(net: CaffeNet) -> dict[str, bool]:
    """After a backward pass: which layers' weights received a gradient."""
    loss, _ = net.loss({"x": X})
    if loss.requires_grad:
        loss.backward()
    return {name: blobs[0].grad is not None for name, blobs in net.params.items()}


# Sharing -----------------------------------------------------------------------------------------


def test_parameters_of_one_name_are_one_and_their_gradients_add() -> None:
    named = 'param { name: "w" lr_mult: 2 decay_mult: 3 }'
    net = build(DATA + product("a", "x", named) + product("b", "a", named) + total("b"))
    assert net.params["a"][0].data_ptr() == net.params["b"][0].data_ptr()
    owned = [(e.layer, e.place, e.lr_mult, e.decay_mult) for e in net.plan.learnables]
    assert owned == [("a", 0, 2, 3), ("a", 1, 1, 1), ("b", 1, 1, 1)]
    loss, _ = net.loss({"x": X})
    loss.backward()
    w = net.params["a"][0].detach().clone().requires_grad_()
    (X @ w.T @ w.T).sum().backward()
    torch.testing.assert_close(net.params["a"][0].grad, w.grad)


def test_a_later_sharers_multipliers_hold(tmp_path: Path) -> None:
    """The first layer gives none: one step is base_lr · 0.5 · gradient, without decay."""
    sharer = 'param { name: "w" lr_mult: 0.5 decay_mult: 0 }'
    text = DATA + product("a", "x", 'param { name: "w" }') + product("b", "a", sharer) + total("b")
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" weight_decay: 1 '
        f'snapshot_prefix: "{tmp_path}/run" random_seed: 1'
    )
    solver = Solver(tmp_path / "solver.prototxt", device="cpu")
    w = solver.net.params["a"][0].detach().clone().requires_grad_()
    (X @ w.T @ w.T).sum().backward()
    solver.step(inputs={"x": X})
    torch.testing.assert_close(
        solver.net.params["a"][0].detach(), (w - 0.1 * 0.5 * w.grad).detach()
    )


def test_permissive_sharing_needs_the_same_count_alone() -> None:
    permissive = 'param { name: "w" share_mode: PERMISSIVE }'
    wide = DATA.replace("dim: 3", "dim: 4") + product("a", "x", 'param { name: "w" }', 6)
    net = build(wide + product("b", "a", permissive, 4))
    assert net.params["b"][0].tolist() == net.params["a"][0].reshape(4, 6).tolist()
    assert net.params["b"][0].data_ptr() == net.params["a"][0].data_ptr()


class Refusal(NamedTuple):
    """A net that Caffe refuses, and what the error says."""

    text: str
    says: str


REFUSALS = [
    Refusal(
        product("a", "x", 'param { name: "w" }', 6) + product("b", "a", 'param { name: "w" }', 4),
        r'layer "b".*shares parameter "w" of shape \(6, 3\) with layer "a".*needs shape \(4, 6\)',
    ),
    Refusal(
        product("a", "x", 'param { name: "w" }', 6)
        + product("b", "a", 'param { name: "w" share_mode: PERMISSIVE }', 4),
        r'layer "b".*shares parameter "w"',
    ),
    Refusal(
        product("a", "x", 'param { name: "w" lr_mult: 1 }')
        + product("b", "a", 'param { name: "w" lr_mult: 2 }'),
        r'"b".*"w" has mismatched lr_mult: 2 here, 1 in layer "a"',
    ),
    Refusal(
        product("a", "x", 'param { name: "w" decay_mult: 0 }')
        + product("b", "a", 'param { name: "w" decay_mult: 1 }'),
        r'"b".*"w" has mismatched decay_mult: 1 here, 0 in layer "a"',
    ),
    Refusal(product("a", "x", "param { } param { } param { }"), '"a".*3 param entries.*2 blobs'),
    Refusal(product("a", "x") + product("a2", "y"), 'unknown bottom blob "y".*x, a'),
    Refusal(
        product("a", "x") + product("b", "x").replace('top: "b"', 'top: "a"'),
        '"b".*top blob "a" is produced by multiple sources: layer "a" produces it already',
    ),
    Refusal(
        product("a", "x")
        + product("b", "a")
        + 'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }',
        '"r".*"a" is produced by multiple sources: it is overwritten in place while "b" reads it',
    ),
    Refusal(
        product("a", "x", "propagate_down: true propagate_down: true"), "2 propagate_down.* 1 "
    ),
    Refusal(product("a", "x", "loss_weight: 1 loss_weight: 1"), "2 loss_weight values for 1 top"),
    Refusal(
        'layer { name: "e" type: "Eltwise" bottom: "x" top: "y" }', "takes 2 or more bottom.*got 1"
    ),
    Refusal(
        'layer { name: "s" type: "Split" bottom: "x" top: "y" top: "y" }', "same top blob twice"
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.says[:30])
def test_refusals(case: Refusal) -> None:
    with pytest.raises(NetError, match=case.says) as raised:
        build(DATA + case.text)
    assert str(raised.value).startswith('net.prototxt: layer "')


# Gradients ---------------------------------------------------------------------------------------


def test_lr_mult_0_stops_no_gradient_but_its_own() -> None:
    text = DATA + product("a", "x") + product("b", "a", "param { lr_mult: 0 }") + total("b")
    assert gradients(build(text)) == {"a": True, "b": False}
    # As in Caffe, force_backward computes that one too.
    assert gradients(build("force_backward: true\n" + text)) == {"a": True, "b": True}


def test_propagate_down_false_stops_the_gradient_unless_backward_is_forced() -> None:
    text = DATA + product("a", "x") + product("b", "a", "propagate_down: false") + total("b")
    assert gradients(build(text)) == {"a": False, "b": True}
    assert gradients(build("force_backward: true\n" + text)) == {"a": True, "b": True}


def test_a_loss_without_a_top_has_its_weight() -> None:
    label = 'layer { name: "y" type: "DummyData" top: "y" dummy_data_param { shape { dim: 2 } } }'
    text = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" loss_weight: 3 }'
    loss, outputs = build(DATA + label + text).loss({"x": X})
    wanted = 3 * torch.nn.functional.cross_entropy(X, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(loss, wanted)
    assert not outputs


def test_any_top_may_be_a_loss() -> None:
    text = DATA + product("a", "x", "loss_weight: 0.5") + product("b", "a") + total("b", 2)
    net = build(text)
    loss, _ = net.loss({"x": X})
    blobs = net({"x": X}, blobs=["a", "b"])
    torch.testing.assert_close(loss, 0.5 * blobs["a"].sum() + 2 * blobs["b"].sum())


def test_a_layers_own_phase_wins_over_the_nets() -> None:
    dropout = 'layer { name: "d" type: "Dropout" bottom: "x" top: "d" %s }'
    assert build(DATA + dropout % "phase: TEST")({"x": X})["d"].equal(X)
    torch.manual_seed(0)
    assert not build(DATA + dropout % "phase: TRAIN", "TEST")({"x": X})["d"].equal(X)


# Inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [
        'input: "x" input_dim: 2 input_dim: 3 input_dim: 1 input_dim: 1',
        'input: "x" input_shape { dim: 2 dim: 3 dim: 1 dim: 1 }',
    ],
)
def test_legacy_inputs(inputs: str) -> None:
    net = build(f"{inputs}\n{product('a', 'x')}")
    assert net.plan.input_shapes() == {"x": (2, 3, 1, 1)}
    assert net({"x": X.reshape(2, 3, 1, 1)})["a"].shape == (2, 3)


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        ({}, 'input "x" is missing; the net takes x'),
        ({"x": X, "y": X}, 'no input "y"; the net takes x'),
        ({"x": X[:, :2]}, r'"x" \(2, 2\) has 2 values.*take 3'),
        ({"x": X[:0]}, r"shape \(0, 3\); sizes must be at least 1"),
    ],
)
def test_wrong_inputs(feed: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        build(DATA + product("a", "x"))(feed)


def test_a_blob_too_large_for_caffe_is_refused_before_it_is_made() -> None:
    with pytest.raises(CaffeError, match=r"blob 0 would have shape \(1000000000, 3\).*2147483647"):
        build(DATA + product("a", "x", outputs=1_000_000_000))


def test_the_documents_name_every_field_that_the_net_reads() -> None:
    """Forks' fields are in the document's own table of them."""
    nested = [pb.ParamSpec, pb.NetStateRule, pb.FillerParameter]
    read = [f for message in (pb.LayerParameter, *nested) for f in message.DESCRIPTOR.fields]
    fields = [f.name for f in read if not fork_of(f) and not f.name.endswith("_param")]
    assert [name for name in fields if f"`{name}`" not in HEADING] == []
