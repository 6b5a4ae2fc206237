"""Python layers against `converters.layers.pycaffe`: permission, gradients, parameters, errors."""

from __future__ import annotations

import signal
import sys
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

class SquareAndTriple(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        for one in top:
            one.reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data ** 2
        top[1].data[...] = bottom[0].data * 3

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * bottom[0].data * top[0].diff + 3 * top[1].diff

class Told(Phase):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * propagate_down[0] + propagate_down[1]

class Sizes(Phase):
    def reshape(self, bottom, top):
        top[0].reshape(5)

    def forward(self, bottom, top):
        x = bottom[0]
        top[0].data[...] = x.num, x.channels, x.height, x.width, x.count

class Counted(Phase):
    def reshape(self, bottom, top):
        top[0].reshape(1 + int(bottom[0].data.sum()))

class Fails(Phase):
    def forward(self, bottom, top):
        if self.param_str == "forward":
            raise ValueError("no more")

    def backward(self, top, propagate_down, bottom):
        raise ValueError("no more")
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


def test_backward_sees_its_own_forward_and_all_tops(tmp_path: Path) -> None:
    """Also with other batches than the planned one, and after another forward."""
    net = build(tmp_path, INPUTS + python("SquareAndTriple", 'bottom: "a" top: "y" top: "z"'))
    first, second = (torch.rand(rows, 3).requires_grad_() for rows in (6, 2))
    outputs = [net({"a": x, "b": x.detach()}) for x in (first, second)]
    for x, blobs in zip((first, second), outputs):
        torch.testing.assert_close(blobs["y"], x.square())
        torch.testing.assert_close(blobs["z"], 3 * x)
        (found,) = torch.autograd.grad((blobs["y"] * 2 + blobs["z"] * 5).sum(), x)
        torch.testing.assert_close(found, 4 * x + 15)


def test_a_tops_shape_may_follow_the_values(tmp_path: Path) -> None:
    """Caffe reshapes before each forward."""
    net = build(tmp_path, INPUTS + python("Counted", 'bottom: "a" top: "y"'))
    for count in (5, 2, 7):
        x = torch.zeros(4, 3)
        x[1, 2] = count
        assert net({"a": x, "b": x})["y"].shape == (1 + count,)


def test_a_blobs_gradient_begins_at_zero_in_each_backward(tmp_path: Path) -> None:
    net = build(tmp_path, INPUTS + python("Weighted", 'bottom: "a" top: "y"', "[1, 2, 3]"))
    x = torch.rand(4, 3)
    y = net({"a": x, "b": x})["y"].sum()
    for _ in range(2):
        (found,) = torch.autograd.grad(y, net.params["p"], retain_graph=True)
        torch.testing.assert_close(found, x.sum(0))


@pytest.mark.parametrize(("both", "told"), [(False, 2), (True, 3)])
def test_backward_is_told_which_bottoms_need_a_gradient(
    tmp_path: Path, both: bool, told: int
) -> None:
    net = build(tmp_path, INPUTS + python("Told", 'bottom: "a" bottom: "b" top: "y"'))
    a, b = torch.rand(4, 3, requires_grad=True), torch.rand(4, 3, requires_grad=both)
    (found,) = torch.autograd.grad(net({"a": a, "b": b})["y"], a)
    assert found.eq(told).all()


@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 3, 5, 7)])
def test_the_sizes_of_a_blob_are_pycaffes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """num, channels, height and width, 1 where there is no such axis; count."""
    net = build(tmp_path, INPUTS + python("Sizes", 'bottom: "a" top: "y"'))
    sizes = net({"a": torch.zeros(shape), "b": torch.zeros(4, 3)})["y"].tolist()
    assert sizes == [*[*shape, 1, 1, 1][:4], torch.zeros(shape).numel()]


def test_the_module_may_lie_in_layers_and_the_path_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "deep_layers.py").write_text(LAYERS)
    net = tmp_path / "net.prototxt"
    net.write_text(python("Phase", 'top: "y"').replace("user_layers", "deep_layers"))
    before = list(sys.path)
    assert load_net(net, allow_python_layers=True)()["y"].item() == 1
    assert sys.path == before


def test_a_mere_folder_called_caffe_is_no_pycaffe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "caffe").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "caffe", raising=False)
    assert build(tmp_path, python("Phase", 'top: "y"'), "TEST")()["y"].item() == 1


@pytest.mark.parametrize("method", ["forward", "backward"])
def test_errors_while_running_name_the_layer(tmp_path: Path, method: str) -> None:
    net = build(tmp_path, INPUTS + python("Fails", 'bottom: "a" top: "y"', method))
    x = torch.rand(4, 3, requires_grad=True)
    said = rf'layer "p" \(Python\): user_layers\.Fails: {method} raised ValueError: no more'
    with pytest.raises(NetError, match=said):
        net({"a": x, "b": x})["y"].backward()


def test_a_python_layer_runs_in_bf16(tmp_path: Path) -> None:
    """Behind a layer that autocast, `--precision bf16`, makes bfloat16."""
    product = """layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip"
      inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }"""
    net = build(
        tmp_path, INPUTS + product + python("SquareAndTriple", 'bottom: "ip" top: "y" top: "z"')
    )
    x = torch.rand(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        blobs = net({"a": x, "b": x}, blobs=["ip", "z"])
    torch.testing.assert_close(blobs["z"].float(), 3 * blobs["ip"].float(), rtol=0.01, atol=0.01)


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


RAISES = {
    "SystemExit": "raise SystemExit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "Own": "raise Own('done')",
    "Mute": "raise Mute",
}
METHODS = ("import", "setup", "reshape", "forward", "backward")


@pytest.mark.parametrize("kind", RAISES)
@pytest.mark.parametrize("method", METHODS)
def test_whatever_the_users_code_raises_names_the_layer(
    method: str, kind: str, tmp_path: Path
) -> None:
    body = dict.fromkeys(METHODS, "pass") | {"reshape": "top[0].reshape(1)"}
    body[method] = RAISES[kind]
    arguments = {"backward": "self, top, propagate_down, bottom"}
    methods = "".join(
        f"    def {name}({arguments.get(name, 'self, bottom, top')}):\n        {body[name]}\n"
        for name in METHODS[1:]
    )
    module = f"raising_{method}_{kind}"
    (tmp_path / f"{module}.py").write_text(
        "import caffe\nclass Own(BaseException): pass\n"
        "class Mute(BaseException):\n    def __str__(self): raise SystemExit\n"
        f"{body['import']}\nclass Raises(caffe.Layer):\n{methods}"
    )
    (tmp_path / "net.prototxt").write_text(
        INPUTS + python("Raises", 'bottom: "a" top: "y"').replace("user_layers", module)
    )
    said = rf'net\.prototxt: layer "p" \(Python\): {module}\.Raises: {method} raised {kind}'
    with pytest.raises(NetError, match=said):
        net = load_net(tmp_path / "net.prototxt", "TRAIN", allow_python_layers=True)
        x = torch.rand(4, 3, requires_grad=True)
        net({"a": x, "b": x})["y"].backward()


@pytest.mark.parametrize("own_handler", [False, True])
def test_an_interruption_in_the_users_code_is_one(own_handler: bool, tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "import caffe, os, signal, time\n"
        "class Interrupted(caffe.Layer):\n"
        "    def setup(self, bottom, top):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(5)\n"
    )
    net = python("Interrupted", 'top: "y"').replace("user_layers", "interrupted")
    (tmp_path / "net.prototxt").write_text(net)

    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, handler if own_handler else signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load_net(tmp_path / "net.prototxt", allow_python_layers=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_refused_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="--allow-python-layers"):
        build(tmp_path, python("Phase", 'top: "y"'), allow=False)
