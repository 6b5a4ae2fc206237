"""Layer by layer is the same net: blobs, loss and gradients of the whole graph."""

from __future__ import annotations

import pytest
import torch
from golden_case import GoldenCase, relative_error
from small_net import load_text
from torch import nn

from converters.net.layerwise import backward, forward, total_loss

# Loss weights on several tops, shared parameters, BatchNorm, in-place layers, several tops.
CASES = ["loss_weights", "net_siamese_shared", "net_grouped_bn", "net_lenet", "lstm_0", "slice_0"]


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_whole_graph(name: str) -> None:
    case = GoldenCase(name)
    whole, apart = case.load("TRAIN"), case.load("TRAIN")
    inputs = case.inputs(0)
    loss, outputs = whole.loss(inputs)
    if loss.requires_grad:
        loss.backward()
    leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in inputs.items()}
    ran = list(forward(apart, leaves))
    assert [one.position.name for one in ran] == [position.name for position in apart.plan.layers]
    assert torch.allclose(total_loss(ran), loss.detach(), rtol=1e-6)
    tops = {value: top for one in ran for value, top in zip(one.position.tops, one.tops)}
    for output, value in apart.plan.outputs.items():
        assert relative_error(numpy(tops[value]), numpy(outputs[output])) <= 2e-6
    backs = list(backward(ran))
    assert [back.ran.position.name for back in backs] == [
        position.name for position in reversed(apart.plan.layers)
    ]
    compared = 0
    for one, other in zip(apart.learnable, whole.learnable, strict=True):
        if other.grad is not None:
            assert one.grad is not None
            assert relative_error(numpy(one.grad), numpy(other.grad)) <= 5e-6
            compared += 1
    assert compared or not whole.learnable or not loss.requires_grad


def test_a_net_without_losses_has_gradients_of_zero() -> None:
    apart = GoldenCase("conv_0").load("TRAIN")
    inputs = GoldenCase("conv_0").inputs(0)
    for back in backward(list(forward(apart, inputs))):
        assert all(x is None or not x.any() for x in back.bottom_gradients)
    assert all(blob.grad is not None and not blob.grad.any() for blob in apart.learnable)


def test_a_module_in_the_place_of_two_layers_runs_as_both() -> None:
    """Also if it came there later than the other layers did."""
    x = torch.tensor([1.0, 2.0])
    names = ("a", "b", "c")
    power = 'layer {{ name: "{1}" type: "Power" bottom: "{0}" top: "{1}" power_param {{ {2} }} }}'
    layers = map(power.format, ("x", *names), names, ("scale: 3", "shift: 1", "scale: 5"))
    data = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
    net, both = load_text("".join((data, *layers))), nn.Identity()
    for name in ("a", "c"):
        delattr(net.layers, name)
        setattr(net.layers, name, both)
    tops = [one.tops[0].tolist() for one in forward(net, {"x": x})]
    assert tops == [[1, 2], [1, 2], [2, 3], [2, 3]]


def numpy(tensor: torch.Tensor) -> object:
    return tensor.detach().numpy()
