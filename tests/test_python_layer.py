"""Python layers against `converters.layers.pycaffe`: permission, gradients, parameters, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters import load_net
from converters.errors import NetError
from converters.net.caffe_net import CaffeNet

LAYERS = """
import caffe
import numpy as np

class Euclidean(caffe.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("two bottoms are needed")

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.difference ** 2).sum() / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        for index, sign in enumerate((1, -1)):
            if propagate_down[index]:
                bottom[index].diff[...] = sign * top[0].diff[0] * self.difference / bottom[0].num

class Weighted(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(3)
        self.blobs[0].data[...] = eval(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        self.input = bottom[0].data.copy()
        top[0].data[...] = self.input * self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * self.input).sum(0)
        bottom[0].diff[...] = top[0].diff * self.blobs[0].data

class Phase(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase
"""
INPUTS = """
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 4 dim: 3 } } }
"""


def build(folder: Path, text: str, phase: str = "TRAIN", allow: bool = True) -> CaffeNet:
    (folder / "user_layers.py").write_text(LAYERS)
    net = folder / "net.prototxt"
    net.write_text(text)
    return load_net(net, phase, allow_python_layers=allow)


def python(layer: str, more: str, param_str: str = "") -> str:
    return (
        f'layer {{ name: "p" type: "Python" {more} python_param {{ module: "user_layers" '
        f'layer: "{layer}" param_str: "{param_str}" }} }}'
    )


def test_loss_layer_has_the_gradients_of_euclidean_loss(tmp_path: Path) -> None:
    text = INPUTS + python("Euclidean", 'bottom: "a" bottom: "b" top: "l" loss_weight: 0.5')
    net = build(tmp_path, text)
    torch.manual_seed(0)
    a, b = (torch.randn(5, 3, requires_grad=True) for _ in range(2))
    loss, _ = net.loss({"a": a, "b": b})
    wanted = 0.5 * (a - b).square().sum() / 10
    torch.testing.assert_close(loss, wanted)
    found = torch.autograd.grad(loss, (a, b))
    torch.testing.assert_close(found, torch.autograd.grad(wanted, (a, b)))


@pytest.mark.parametrize("top", ["y", "a"])
def test_layer_with_a_blob_of_its_own_also_in_place(tmp_path: Path, top: str) -> None:
    net = build(tmp_path, INPUTS + python("Weighted", f'bottom: "a" top: "{top}"', "[1, 2, 3]"))
    (weight,) = net.params["p"]
    assert weight.tolist() == [1, 2, 3]
    x = torch.arange(12.0).reshape(4, 3).requires_grad_()
    y = net({"a": x, "b": x.detach()})[top]
    torch.testing.assert_close(y, x * torch.tensor([1.0, 2, 3]))
    y.sum().backward()
    torch.testing.assert_close(weight.grad, x.detach().sum(0))
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 2, 3]).expand(4, 3))


@pytest.mark.parametrize(("phase", "number"), [("TRAIN", 0), ("TEST", 1)])
def test_layer_without_bottoms_knows_its_phase_and_type(
    tmp_path: Path, phase: str, number: int
) -> None:
    net = build(tmp_path, python("Phase", 'top: "y"'), phase).double()
    y = net()["y"]
    assert (y.item(), y.shape, y.dtype) == (number, (), torch.float64)


def test_two_folders_with_a_module_of_one_name(tmp_path: Path) -> None:
    for name, number in (("one", 0), ("two", 7)):
        (tmp_path / name).mkdir()
        build(tmp_path / name, python("Phase", 'top: "y"'))
        changed = LAYERS.replace("= self.phase", f"= {number}")
        (tmp_path / name / "other_layers.py").write_text(changed)
        path = tmp_path / name / "net.prototxt"
        path.write_text(path.read_text().replace("user_layers", "other_layers"))
        assert load_net(path, allow_python_layers=True)()["y"].item() == number


@pytest.mark.parametrize(
    ("layer", "more", "said"),
    [
        ("Euclidean", 'bottom: "a" top: "l"', "setup raised ValueError: two bottoms are needed"),
        ("Absent", 'top: "l"', "Absent"),
    ],
)
def test_errors_of_the_user_name_the_layer(
    tmp_path: Path, layer: str, more: str, said: str
) -> None:
    with pytest.raises(NetError, match=said) as caught:
        build(tmp_path, INPUTS + python(layer, more))
    assert f'layer "p" (Python): user_layers.{layer}' in str(caught.value)


def test_refused_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="--allow-python-layers"):
        build(tmp_path, python("Phase", 'top: "y"'), allow=False)
