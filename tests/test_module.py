"""What a torch user expects of any nn.Module, and of blobs with any name, holds for a net."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_case import GOLDEN
from small_net import load_layer, load_text
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from converters import CaffeNet, load_net, save_caffemodel
from converters.errors import CaffeError
from converters.proto import caffe_pb2 as pb

# BatchNorm's defaults as protobuf holds them, float32.
EPS = pb.BatchNormParameter().eps
FRACTION = pb.BatchNormParameter().moving_average_fraction

NET = """
layer { name: "in" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
layer { name: "bu_i/conv3x3" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "scale" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "scale" top: "relu" }
layer { name: "fc" type: "InnerProduct" bottom: "relu" top: "fc" loss_weight: 1
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
X = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


def build(phase: str = "TEST", text: str = NET) -> CaffeNet:
    """The net with its BatchNorm's statistics in use."""
    torch.manual_seed(0)
    net = load_text(text, phase)
    for blob, value in zip(net.params["bn"], (0.3, 2.0, 1.5)):
        blob.fill_(value)
    return net


Run = Callable[[CaffeNet, dict[str, Any]], dict[str, Tensor]]
WAYS: dict[str, Run] = {
    "outputs": lambda net, x: net(x),
    "loss": lambda net, x: net.loss(x)[1],
    "all": lambda net, x: net(x, blobs="all"),
}
every_way = pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)


# Calls -------------------------------------------------------------------------------------------


def test_a_net_of_one_input_takes_a_tensor() -> None:
    net = build()
    assert net(X)["fc"].equal(net({"data": X})["fc"])
    assert net(X, blobs=["relu"])["relu"].equal(net({"data": X}, blobs=["relu"])["relu"])


def test_inputs_may_be_given_by_name() -> None:
    net = build()
    assert net(data=X)["fc"].equal(net({"data": X})["fc"])
    assert net(data=X, blobs=["relu"]).keys() == {"relu"}
    with pytest.raises(CaffeError, match="the net takes data"):
        net(image=X)


def test_an_input_given_twice_is_refused() -> None:
    for inputs in (X, {"data": X}):
        with pytest.raises(CaffeError, match='input "data" is given twice'):
            build()(inputs, data=X + 1)


def test_one_blob_may_be_named() -> None:
    net = build()
    assert net(X, blobs="relu").keys() == {"relu"}
    with pytest.raises(CaffeError, match='no blob "rely"'):
        net(X, blobs="rely")


def test_a_tensor_alone_is_refused_by_a_net_of_two_inputs() -> None:
    with pytest.raises(CaffeError, match="b0, b1"):
        load_layer("Eltwise", "", X, X)(X)


PAIR = """
layer { name: "in" type: "Input" top: "%s" top: "%s" input_param { shape { dim: 3 } } }
layer { name: "sum" type: "Eltwise" bottom: "%s" bottom: "%s" top: "sum" loss_weight: 1
  eltwise_param { coeff: 1 coeff: 2 } }
"""
NAMES = [("inputs", "blobs"), ("größe", ""), ("x", "x_1"), ("x²", "৴"), ("ﬁ", "fi"), ("ſelf", "x")]
BROKEN_NAMES = [(name, "x") for name in ("class", "import", "self", "0", "None")] + [("a.b", "a_b")]


@pytest.mark.parametrize(
    ("first", "second"),
    [*NAMES, *(pytest.param(*pair) for pair in BROKEN_NAMES)],
)
def test_input_blobs_of_any_name(first: str, second: str) -> None:
    net = load_text(PAIR % (first, second, first, second))
    a, b = torch.tensor([1.0, 2, 3]), torch.tensor([10.0, 20, 30])
    for run in WAYS.values():
        assert run(net, {first: a, second: b})["sum"].tolist() == [21, 42, 63]
    compile(net.graph_module.code, "graph_module.code", "exec")


# eval() and train() ------------------------------------------------------------------------------

MODES = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 64 dim: 4 } } }
layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" %s }
layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" %s }
layer { name: "square" type: "Reshape" bottom: "data" top: "square"
  reshape_param { shape { dim: 0 dim: 1 dim: 2 dim: 2 } } }
layer { name: "pool" type: "Pooling" bottom: "square" top: "pool"
  pooling_param { pool: STOCHASTIC kernel_size: 2 } }
"""
BATCH = torch.rand(64, 4, generator=torch.Generator().manual_seed(1)) + 1


def show_mode(net: CaffeNet, run: Run) -> str:
    """ "TRAIN" or "TEST", if every layer of MODES behaves as in that phase."""
    before = [blob.clone() for blob in net.params["bn"]]
    tops = run(net, {"data": BATCH})
    after = net.params["bn"]
    mean, variance = BATCH.mean(0), BATCH.var(0, unbiased=False)
    if all(blob.equal(was) for blob, was in zip(after, before)):
        mean, variance = before[0] / before[2], before[1] / before[2]
        assert tops["drop"].equal(BATCH)
        expected = BATCH.square().sum(1) / BATCH.sum(1)
        torch.testing.assert_close(tops["pool"].flatten(), expected)
        mode = "TEST"
    else:
        moved = [before[0] * FRACTION + mean, before[1] * FRACTION + BATCH.var(0)]
        for blob, wanted in zip(after, [*moved, before[2] * FRACTION + 1]):
            torch.testing.assert_close(blob, wanted)
        kept = tops["drop"] != 0
        assert 0 < kept.sum() < kept.numel()
        torch.testing.assert_close(tops["drop"][kept], 2 * BATCH[kept])
        assert (tops["pool"].view(-1, 1) == BATCH).any(1).all()
        mode = "TRAIN"
    torch.testing.assert_close(tops["bn"], (BATCH - mean) / (variance + EPS).sqrt())
    return mode


@every_way
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_a_net_begins_in_its_phase(phase: str, run: Run) -> None:
    net = build(phase, MODES % ("", ""))
    assert net.training == (phase == "TRAIN")
    assert show_mode(net, run) == phase


@every_way
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_eval_and_train_change_how_a_net_runs(phase: str, run: Run) -> None:
    net = build(phase, MODES % ("", ""))
    assert show_mode(net.eval(), run) == "TEST"
    assert show_mode(net.train(), run) == "TRAIN"
    assert show_mode(net.eval(), run) == "TEST"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_what_a_layer_says_itself_wins_over_train_and_eval(phase: str, training: bool) -> None:
    stats = "batch_norm_param { use_global_stats: %s }"
    fixed = build(phase, MODES % (stats % "true", "phase: TEST")).train(training)
    tops = fixed({"data": BATCH})
    torch.testing.assert_close(tops["bn"], (BATCH - 0.3 / 1.5) / math.sqrt(2 / 1.5 + EPS))
    assert tops["drop"].equal(BATCH)
    moving = build(phase, MODES % (stats % "false", "")).train(training)
    moving({"data": BATCH})
    assert moving.params["bn"][2].item() == pytest.approx(1.5 * FRACTION + 1)


# Hooks, and other modules in a layer's place -----------------------------------------------------

LAYERS = ["bu_i/conv3x3", "bn", "scale", "relu", "fc"]


def plain(net: CaffeNet, changed: str, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`fc`, by formulas; `change` makes the layer `changed`'s top of its bottom and its own top."""
    p, functional = net.params, nn.functional
    gamma, beta = (blob.view(1, -1, 1, 1) for blob in p["scale"])
    layers: list[Callable[[Tensor], Tensor]] = [
        lambda x: functional.conv2d(x, *p["bu_i/conv3x3"]),
        lambda x: (x - 0.3 / 1.5) / math.sqrt(2 / 1.5 + EPS),
        lambda x: x * gamma + beta,
        lambda x: x.relu(),
        lambda x: functional.linear(x.flatten(1), *p["fc"]),
    ]
    x = X
    for name, layer in zip(LAYERS, layers, strict=True):
        x = change(x, layer(x)) if name == changed else layer(x)
    return x


@every_way
@pytest.mark.parametrize("kind", ["forward_pre", "forward"])
def test_hooks_on_every_layer_are_called(kind: str, run: Run) -> None:
    net, called = build(), []
    for name in LAYERS:
        register = getattr(net.get_submodule(f"layers.{name}"), f"register_{kind}_hook")
        register(lambda *_, name=name: called.append(name))
    run(net, {"data": X})
    assert called == LAYERS


@every_way
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_hook_returns_takes_the_tops_place(name: str, run: Run) -> None:
    """Of a net that has run without hooks before, and does again."""
    net = build()
    before = run(net, {"data": X})["fc"]
    hook = net.get_submodule(f"layers.{name}").register_forward_hook(lambda m, x, y: y + 1)
    found = run(net, {"data": X})["fc"]
    torch.testing.assert_close(found, plain(net, name, lambda x, y: y + 1))
    hook.remove()
    assert run(net, {"data": X})["fc"].equal(before)


@every_way
@pytest.mark.parametrize("name", ["bn", "scale", "relu"])
def test_a_module_in_a_layers_place_is_used(name: str, run: Run) -> None:
    net = build()
    wanted = plain(net, name, lambda x, y: x)
    run(net, {"data": X})
    net.set_submodule(f"layers.{name}", nn.Identity())
    torch.testing.assert_close(run(net, {"data": X})["fc"], wanted)


@every_way
@pytest.mark.parametrize("name", ["bn", "scale", "relu"])
def test_a_forward_given_to_a_layers_module_is_used(name: str, run: Run) -> None:
    net = build()
    run(net, {"data": X})
    net.get_submodule(f"layers.{name}").forward = lambda x: 2 * x
    torch.testing.assert_close(run(net, {"data": X})["fc"], plain(net, name, lambda x, y: 2 * x))


@every_way
@pytest.mark.parametrize("name", ["relu", "fc"])
@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "None"])
def test_a_deleted_layer_is_named(deleted: bool, name: str, run: Run) -> None:
    net = build()
    run(net, {"data": X})
    delattr(net.layers, name) if deleted else setattr(net.layers, name, None)
    with pytest.raises(CaffeError, match=f'layer "{name}" was deleted'):
        run(net, {"data": X})


# state_dict --------------------------------------------------------------------------------------


KEYS = {
    "layers.bu_i/conv3x3.weight": ("bu_i/conv3x3", 0),
    "layers.bu_i/conv3x3.bias": ("bu_i/conv3x3", 1),
    "layers.bn.mean": ("bn", 0),
    "layers.bn.variance": ("bn", 1),
    "layers.bn.scale_factor": ("bn", 2),
    "layers.scale.weight": ("scale", 0),
    "layers.scale.bias": ("scale", 1),
    "layers.fc.weight": ("fc", 0),
    "layers.fc.bias": ("fc", 1),
}


def test_state_dict_names_each_blob_once_as_its_layer_does() -> None:
    net, other = build("TRAIN"), build("TRAIN")
    net.loss({"data": X})
    state = net.state_dict()
    assert state.keys() == KEYS.keys()
    for key, (layer, place) in KEYS.items():
        assert state[key].data_ptr() == net.params[layer][place].data_ptr()
        other.params[layer][place].data.fill_(7)
    other.load_state_dict(state)
    assert other({"data": X})["fc"].equal(net({"data": X})["fc"])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("net_siamese_shared"),
        pytest.param("net_gmnet_bua"),
        "lstm_state",
    ],
)
def test_state_dict_holds_blobs_and_nothing_else(name: str) -> None:
    """A shared blob too is there once, and no hidden state or scratch buffer."""
    net = load_net(GOLDEN / "layers" / name / "net.prototxt", "TRAIN")
    blobs = {blob.data_ptr() for blobs in net.params.values() for blob in blobs}
    assert sorted(value.data_ptr() for value in net.state_dict().values()) == sorted(blobs)


# Types -------------------------------------------------------------------------------------------

GIVEN = [
    np.float64,
    np.float32,
    np.int64,
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.int64,
]


def as_type(dtype: type | torch.dtype) -> np.ndarray | Tensor:
    whole = (X * 4).round()
    return whole.to(dtype) if isinstance(dtype, torch.dtype) else whole.numpy().astype(dtype)


@every_way
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_inputs_become_the_nets_type(dtype: torch.dtype, run: Run) -> None:
    net = build("TRAIN").to(dtype).eval()
    wanted = run(net, {"data": as_type(dtype)})["fc"]
    assert wanted.dtype == dtype
    for given in GIVEN:
        found = run(net, {"data": as_type(given)})["fc"]
        assert found.dtype == dtype
        assert found.equal(wanted), given


def read_only() -> np.ndarray:
    array = X.numpy().copy()
    array.flags.writeable = False
    return array


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "array",
    [
        X.numpy().astype(">f4"),
        X.numpy().astype(np.longdouble),
        X.numpy().astype("<f8").byteswap().view(">f8"),
        np.ascontiguousarray(X.numpy()[:, ::-1])[:, ::-1],
        np.asfortranarray(X.numpy()),
        X.tolist(),
        read_only(),
    ],
    ids=["big-endian", "long", "big-endian double", "reversed", "Fortran", "list", "read-only"],
)
def test_arrays_of_any_layout_are_taken(array: np.ndarray) -> None:
    net = build()
    assert net(array)["fc"].equal(net(X)["fc"])


@pytest.mark.parametrize("value", [np.full(X.shape, "a"), [[1], [1, 2]], None, object()])
def test_what_is_no_array_of_numbers_is_refused(value: Any) -> None:
    with pytest.raises(CaffeError, match='input "data" is no array of numbers'):
        build()({"data": value})


@pytest.mark.parametrize("kind", ["ReLU", "BatchNorm"])
def test_a_net_without_parameters_has_a_type_too(kind: str) -> None:
    """That of its statistics, or what `.to` said, or torch's default."""
    net = load_layer(kind, "", X)
    assert net({"b0": X.double()})["t0"].dtype == torch.get_default_dtype()
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        net.to(dtype)
        for given in GIVEN:
            assert net({"b0": as_type(given)})["t0"].dtype == dtype, given


TWO_NORMS = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "one" type: "BatchNorm" bottom: "x" top: "one"
  param { name: "m" lr_mult: 0 } param { name: "v" lr_mult: 0 } param { name: "s" lr_mult: 0 } }
layer { name: "two" type: "BatchNorm" bottom: "one" top: "two"
  param { name: "m" lr_mult: 0 } param { name: "v" lr_mult: 0 } param { name: "s" lr_mult: 0 } }
"""


@pytest.mark.parametrize(
    "move",
    [
        lambda net: net.to("cpu"),
        pytest.param(lambda net: net.double()),
        pytest.param(lambda net: net.double().float()),
    ],
    ids=["cpu", "double", "float"],
)
def test_shared_statistics_stay_shared(move: Callable[[CaffeNet], CaffeNet]) -> None:
    net = move(load_text(TWO_NORMS, "TRAIN"))
    net({"x": torch.arange(8.0).reshape(4, 2)})
    for one, two in zip(net.params["one"], net.params["two"], strict=True):
        assert one.data_ptr() == two.data_ptr()
    # Both have counted: S = f · (f · 0 + 1) + 1.
    assert net.params["one"][2].item() == pytest.approx(FRACTION + 1)


# torch.export ------------------------------------------------------------------------------------


def test_a_net_is_exported_with_a_batch_of_any_size() -> None:
    net = build()
    sizes = {"inputs": {"data": {0: torch.export.Dim("batch", min=2, max=64)}}}
    exported = torch.export.export(net, ({"data": X},), dynamic_shapes=sizes).module()
    for data in (X, X.repeat(3, 1, 1, 1)[1:]):
        found = exported({"data": data})
        assert found.keys() == {"fc"}
        torch.testing.assert_close(found["fc"], net({"data": data})["fc"])


def test_a_net_that_never_ran_is_traced_whole() -> None:
    net = build()
    exported = torch.export.export(build(), ({"data": X},), strict=True).module()
    torch.compiler.reset()
    compiled = torch.compile(build(), backend="eager", fullgraph=True)
    for run in (exported, compiled):
        torch.testing.assert_close(run({"data": X})["fc"], net(X)["fc"])


def test_a_net_becomes_an_onnx_file_with_a_batch_of_any_size(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, batch = build(), torch.export.Dim("batch")
    torch.onnx.export(
        net,
        kwargs={"inputs": {"data": X}},
        f=tmp_path / "net.onnx",
        dynamic_shapes={"inputs": {"data": {0: batch}}},
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (data,) = session.get_inputs()
    for x in (X, torch.cat([X, X + 1, X - 1])):
        (found,) = session.run(None, {data.name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), net(x)["fc"].detach())


# Numbers and parameters --------------------------------------------------------------------------


def test_labels_stay_exact_in_a_net_of_half_precision() -> None:
    """bfloat16 has eight bits: class 257 would become 256."""
    text = """
    layer { name: "in" type: "Input" top: "x" top: "label" input_param {
      shape { dim: 1 dim: 300 } shape { dim: 1 } } }
    layer { name: "moved" type: "Reshape" bottom: "label" top: "moved"
      reshape_param { shape { dim: 0 } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "moved" top: "loss" }
    """
    net = load_text(text).bfloat16()
    scores = torch.zeros(1, 300)
    scores[0, 257] = 100
    for label in (torch.tensor([257]), torch.tensor([257.0])):
        assert net({"x": scores, "label": label})["loss"].item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_indices_stay_exact_in_a_net_of_half_precision(dtype: torch.dtype) -> None:
    """Place 2051 of 2500: bfloat16 and float16 hold neither that number nor its neighbours."""
    x = torch.zeros(1, 1, 50, 50)
    x[0, 0, 41, 1] = 1
    pooled = load_layer("Pooling", "pooling_param { global_pooling: true }", x, tops=2).to(dtype)
    assert pooled(x)["t1"].item() == 2051
    assert load_layer("ArgMax", "", x).to(dtype)(x)["t0"].item() == 2051


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_lrn_runs_in_half_precision(region: str, dtype: torch.dtype) -> None:
    net = load_layer("LRN", f"lrn_param {{ alpha: 1 local_size: 3 norm_region: {region} }}", X)
    found, wanted = net.to(dtype)(X)["t0"], net.float()(X)["t0"]
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.02)  # bfloat16 has 8 bits


def test_parameter_groups_carry_the_multipliers() -> None:
    """One step of torch's SGD: w − lr · lr_mult · (g + weight_decay · decay_mult · w)."""
    text = NET.replace(
        'top: "fc" loss_weight: 1',
        'top: "fc" loss_weight: 1 param { lr_mult: 2 decay_mult: 3 } param { lr_mult: 0 }',
    )
    net = build("TRAIN", text)
    groups = net.parameter_groups(lr=0.1, weight_decay=0.01)
    assert sum(len(group["params"]) for group in groups) == 5
    before = {key: [b.detach().clone() for b in blobs] for key, blobs in net.params.items()}
    net.loss(X)[0].backward()
    torch.optim.SGD(groups).step()
    for key, lr, decay in (("bu_i/conv3x3", 0.1, 0.01), ("fc", 0.2, 0.03)):
        blob, old = net.params[key][0], before[key][0]
        torch.testing.assert_close(blob, old - lr * (blob.grad + decay * old))
    assert net.params["fc"][1].equal(before["fc"][1])


@pytest.mark.parametrize("way", ["parametrized", "pruned"])
def test_parameter_groups_carry_the_multipliers_of_what_makes_a_blob(way: str) -> None:
    text = NET.replace('top: "fc" loss_weight: 1', 'top: "fc" loss_weight: 1 param { lr_mult: 2 }')
    net = build("TRAIN", text)
    if way == "pruned":
        prune.l1_unstructured(net.layers["fc"], "weight", amount=0.5)
        made_of = [net.layers["fc"].weight_orig]
    else:
        parametrizations.weight_norm(net.layers["fc"], "weight")
        made_of = list(net.layers["fc"].parametrizations["weight"].parameters())
    (twice,) = (g["params"] for g in net.parameter_groups(lr=0.1) if g["lr"] == 0.2)
    assert [id(parameter) for parameter in twice] == [id(parameter) for parameter in made_of]
    torch.optim.SGD(net.parameter_groups(lr=0.1))


def test_weights_are_refused_where_a_parametrization_makes_them(tmp_path: Path) -> None:
    net, model = build(), tmp_path / "net.caffemodel"
    save_caffemodel(net, model)
    parametrizations.weight_norm(net.layers["fc"], "weight")
    with pytest.raises(CaffeError, match=r'layer "fc" blob 0 .*parametrization'):
        net.load_weights(model)


def test_parameter_groups_have_the_parameters_of_a_module_in_a_layers_place() -> None:
    net = build("TRAIN")
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 7))
    net.set_submodule("layers.fc", head)
    net(X)["fc"].sum().backward()
    torch.optim.SGD(net.parameter_groups(lr=0.1)).step()
    torch.testing.assert_close(head[1].bias.grad, torch.full((7,), 2.0))
    found = [id(p) for group in net.parameter_groups(lr=0.1) for p in group["params"]]
    assert len(found) == len(set(found))
    assert {id(p) for p in net.parameters()} <= set(found)


def test_a_copy_is_a_net_of_its_own() -> None:
    net = build()
    net(X)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.params["fc"][0].zero_()
    assert other(X)["fc"].count_nonzero() == 0
    assert net(X)["fc"].count_nonzero() > 0


def test_blobs_of_an_unknown_layer_name_the_nearest() -> None:
    params = build().params
    name = next(iter(params))
    with pytest.raises(KeyError, match=f"no layer .*{name}x.* with blobs; did you mean .*{name}"):
        params[f"{name}x"]
    assert params.get(f"{name}x") is None and f"{name}x" not in params
