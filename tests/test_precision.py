"""gmnet_pt.solver.precision: TF32 and autocast hold inside a step, a test or a command, no longer.

The switches are the same on a machine without a GPU; what they do there is in test_gpu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_case import GOLDEN

from converters.errors import SolverError
from gmnet_pt import Solver, classify, features
from gmnet_pt import test as test_command
from gmnet_pt import time as time_command
from gmnet_pt.solver.precision import FP32, PRECISIONS, named_precision

RUN = GOLDEN / "training" / "lenet_sgd_inv"
NET, WEIGHTS = str(RUN / "net.prototxt"), str(RUN / "snap_iter_100.caffemodel")
DEVICE = torch.device("cpu")


def tf32() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def set_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    saved = tf32()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = saved


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bool, bool, bool]]]:
    """The switches, and whether autocast is on, at each call of a module and each backward."""
    found: list[tuple[bool, bool, bool]] = []

    def look(*ignored: object) -> None:
        found.append((*tf32(), torch.is_autocast_enabled("cpu")))

    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda *given: (look(), backward(*given))[1])
    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    yield found
    handle.remove()


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("name", PRECISIONS)
def test_the_switches_are_set_inside_and_put_back(name: str, outside: bool) -> None:
    set_tf32(outside)
    wanted = name != "fp32"
    with PRECISIONS[name].arithmetic(DEVICE):
        assert tf32() == (wanted, wanted)
        assert torch.is_autocast_enabled("cpu") == (name == "bf16")
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        with torch.autocast("cpu", torch.bfloat16), PRECISIONS[name].arithmetic(DEVICE):
            assert torch.is_autocast_enabled("cpu") == (name == "bf16")
    assert product.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)
    assert tf32() == (outside, outside)
    with pytest.raises(KeyError), PRECISIONS[name].kernels():
        raise KeyError
    assert tf32() == (outside, outside)


@pytest.fixture
def newer() -> Iterator[Any]:
    """`torch.backends` where each operation has a switch; put back behind the test."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        pytest.skip("this torch has the older switches alone")
    yield backends
    backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cuda.matmul.fp32_precision = "none"
    backends.cudnn.conv.fp32_precision = backends.cudnn.rnn.fp32_precision = "tf32"


def test_switches_set_the_newer_way_are_put_back(newer: Any) -> None:
    """Set one by one they hide the older ones."""
    newer.cudnn.conv.fp32_precision, newer.cudnn.rnn.fp32_precision = "ieee", "tf32"
    with FP32.kernels():
        assert newer.cudnn.rnn.fp32_precision == "ieee"
    assert (newer.cudnn.conv.fp32_precision, newer.cudnn.rnn.fp32_precision) == ("ieee", "tf32")


def test_a_general_switch_does_not_reach_inside_and_is_still_followed(newer: Any) -> None:
    """An operation at "none" follows `torch.backends.fp32_precision`."""
    newer.fp32_precision, newer.cuda.matmul.fp32_precision = "tf32", "none"
    with FP32.kernels():
        inside = [newer.cuda.matmul, newer.cudnn.conv, newer.cudnn.rnn, newer.mkldnn.matmul]
        assert [one.fp32_precision for one in inside] == ["ieee"] * 4
    assert newer.cuda.matmul.fp32_precision == "tf32"
    newer.fp32_precision = "ieee"
    assert newer.cuda.matmul.fp32_precision == "ieee"


@pytest.mark.parametrize("wanted", ["high", "medium"])
def test_the_precision_of_matmuls_is_put_back(newer: Any, wanted: str) -> None:
    """`medium` allows bfloat16 on a CPU; a step does not use it, and the caller has it again."""
    torch.set_float32_matmul_precision(wanted)
    with FP32.kernels():
        assert torch.get_float32_matmul_precision() == "highest"
        assert newer.mkldnn.matmul.fp32_precision == "ieee"
    assert torch.get_float32_matmul_precision() == wanted


def test_another_name_is_refused() -> None:
    with pytest.raises(SolverError, match="--precision fp16: one of fp32, tf32, bf16"):
        named_precision("fp16")


def solver(precision: str) -> Solver:
    settings = ["snapshot_after_train=false", "test_iter=1", "debug_info=false"]
    return Solver(RUN / "solver.prototxt", device="cpu", precision=precision, overrides=settings)


def test_a_second_solver_leaves_the_precision_of_the_first(
    seen: list[tuple[bool, bool, bool]],
) -> None:
    set_tf32(True)
    fp32, tf, bf16 = (solver(name) for name in ("fp32", "tf32", "bf16"))
    assert tf32() == (True, True)
    for one, allowed in ((fp32, False), (tf, True), (bf16, True)) * 2:
        for act in (one.step, one.test):
            seen.clear()
            act()
            assert {flags[:2] for flags in seen} == {(allowed, allowed)}
            # Backward runs outside autocast; its operations keep the types of forward.
            assert any(flags[2] for flags in seen) == (one is bf16)
    assert tf32() == (True, True)


def test_a_step_inside_autocast_is_the_step_outside() -> None:
    """Backward too: its operations would be autocast where the caller's context holds."""
    outside, inside = solver("fp32"), solver("fp32")
    outside.step()
    with torch.autocast("cpu", torch.bfloat16):
        inside.step()
    for one, other in zip(outside.net.learnable, inside.net.learnable):
        assert torch.equal(one, other)


COMMANDS: dict[str, Callable[[Path], int]] = {
    "test": lambda out: test_command.main([NET, "--weights", WEIGHTS, "--iterations", "1"]),
    "time": lambda out: time_command.main([NET, "--iterations", "1"]),
    "features": lambda out: features.main(
        [NET, "--weights", WEIGHTS, "--blobs", "ip1", "--out", str(out / "f.npz"), "--iterations=1"]
    ),
    "classify": lambda out: classify_one(out),
}


def classify_one(folder: Path) -> int:
    cv2 = pytest.importorskip("cv2")
    deploy = folder / "deploy.prototxt"
    deploy.write_text(
        'layer { name: "in" type: "Input" top: "data" '
        "input_param { shape { dim: 1 dim: 1 dim: 28 dim: 28 } } }\n"
        'layer { name: "ip2" type: "InnerProduct" bottom: "data" top: "y" '
        "inner_product_param { num_output: 10 } }"
    )
    from converters import load_net, save_caffemodel

    save_caffemodel(load_net(deploy), folder / "w.caffemodel")
    cv2.imwrite(str(folder / "x.png"), np.zeros((28, 28), np.uint8))
    return classify.main([str(deploy), str(folder / "w.caffemodel"), str(folder / "x.png")])


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compute_in_plain_fp32(
    command: str, tmp_path: Path, seen: list[tuple[bool, bool, bool]]
) -> None:
    set_tf32(True)
    assert COMMANDS[command](tmp_path) == 0
    assert set(seen) == {(False, False, False)}
    assert tf32() == (True, True)
