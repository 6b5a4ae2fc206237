"""Nets that are too big, settings that torch refuses, nets that are only tried: one line each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from converters import load_net, memory
from converters.errors import CaffeError, NetError
from converters.memory import free_memory, ran_out, require_memory
from converters.net.failures import explained

h5py = pytest.importorskip("h5py")

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { %s } } }\n'
SMALL = INPUT % "dim: 2 dim: 4 dim: 7 dim: 6"


@pytest.fixture
def a_gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GiB free."""
    monkeypatch.setattr(memory, "free_memory", lambda: 1 << 30)


def load(folder: Path, text: str, phase: str = "TEST") -> Any:
    (folder / "net.prototxt").write_text(text)
    return load_net(folder / "net.prototxt", phase)


def layer(kind: str, settings: str = "", name: str = "l") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "x" top: "y" {settings} }}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            SMALL + layer("InnerProduct", "inner_product_param { num_output: 6000000 }"),
            r'layer "l": blob 0 \(6000000, 168\) needs 3\.8 GiB of memory, 1\.0 GiB are free',
        ),
        (
            SMALL
            + layer("Convolution", "convolution_param { num_output: 1 kernel_size: 3 pad: 20000 }"),
            r'layer "l": top "y" \(2, 1, 40005, 40004\) needs|a blob can hold at most',
        ),
        (
            INPUT % "dim: 1000000000" + layer("ReLU"),
            r'layer "in": top "x" \(1000000000,\) needs 3\.7 GiB',
        ),
        (
            INPUT % "dim: 150000000" + layer("Power"),
            r'layer "l": top "y" \(150000000,\), beside the net\'s inputs, needs 1\.1 GiB',
        ),
        (
            SMALL + layer("Tile", "tile_param { tiles: 3000000 }"),
            r'layer "l": top "y" .* needs 3\.8 GiB',
        ),
        (
            SMALL
            + "".join(
                f'layer {{ name: "l{i}" type: "InnerProduct" bottom: "x" top: "y{i}" '
                "inner_product_param { num_output: 500000 } }\n"
                for i in range(4)
            ),
            r'all parameters \(the largest in layer "l0"\): the net needs 1\.3 GiB',
        ),
    ],
)
def test_a_net_that_needs_more_than_is_free_says_so_before_it_is_built(
    text: str, says: str, tmp_path: Path, a_gibibyte: None
) -> None:
    with pytest.raises(NetError, match=says):
        load(tmp_path, text)


def test_what_fits_is_built(tmp_path: Path, a_gibibyte: None) -> None:
    net = load(tmp_path, SMALL + layer("InnerProduct", "inner_product_param { num_output: 9 }"))
    assert net.params["l"][0].shape == (9, 168)


def test_free_memory_is_a_number_and_small_things_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = free_memory()
    assert free is None or 0 < free < 1 << 50
    monkeypatch.setattr(memory, "free_memory", lambda: pytest.fail("asked"))
    require_memory(1 << 20, "a little", NetError)


def test_errors_for_want_of_memory_are_known() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 50)
    assert ran_out(of_torch.value)
    assert ran_out(MemoryError())
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not ran_out(RuntimeError("shapes do not match"))
    assert not ran_out(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError("Unable to allocate 8 TiB"), "too little memory (Unable to allocate 8 TiB)"),
        (RuntimeError("can't allocate memory: 1 bytes"), "too little memory"),
        (RuntimeError("no such number"), "its settings cannot be computed: no such number"),
        (OverflowError("too large"), "its settings cannot be computed: too large"),
    ],
    ids=str,
)
def test_what_a_layer_cannot_do_names_it(
    error: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = load(tmp_path, SMALL + layer("ReLU", name="broken"))

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(torch.nn.functional, "relu", fail)
    monkeypatch.setattr(torch, "relu", fail)
    with pytest.raises(NetError) as raised:
        explained(lambda: net(torch.zeros(2, 4, 7, 6)))
    assert 'net.prototxt: layer "broken" (ReLU): ' in str(raised.value)
    assert says in str(raised.value)


def test_errors_outside_of_layers_stay_what_they_are() -> None:
    def fail() -> None:
        raise ValueError("a mistake of ours")

    with pytest.raises(ValueError, match="of ours"):
        explained(fail)

    def too_much() -> None:
        raise MemoryError("Unable to allocate 8 TiB")

    with pytest.raises(CaffeError, match="too little memory"):
        explained(too_much)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("eps", ["-1", "-1e30", "-inf", "inf", "nan", "-1e-9"])
def test_a_batch_norm_without_a_positive_eps(eps: str, phase: str, tmp_path: Path) -> None:
    with pytest.raises(NetError, match=r'layer "l" \(BatchNorm\): eps .* must be a positive'):
        load(tmp_path, SMALL + layer("BatchNorm", f"batch_norm_param {{ eps: {eps} }}"), phase)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("LRN", "lrn_param { local_size: 4294967295 }"),
        ("Convolution", "convolution_param { num_output: 4294967295 kernel_size: 1 }"),
        ("Convolution", "convolution_param { num_output: 1 kernel_size: 1 pad: 4294967295 }"),
        ("Convolution", "convolution_param { num_output: 1 kernel_size: 1 stride: 2147483648 }"),
        ("Convolution", "convolution_param { num_output: 1 kernel_size: 2 dilation: 4294967294 }"),
        ("Pooling", "pooling_param { kernel_size: 4294967295 }"),
        ("InnerProduct", "inner_product_param { num_output: 4294967295 }"),
        ("ArgMax", "argmax_param { top_k: 4294967295 }"),
    ],
)
def test_numbers_that_an_int_does_not_hold(kind: str, settings: str, tmp_path: Path) -> None:
    with pytest.raises(
        NetError, match=rf'layer "l" \({kind}\): \w+ \d+ must be at most 2147483647'
    ):
        load(tmp_path, SMALL + layer(kind, settings))


# Nets that are only tried ------------------------------------------------------------------------

OUTPUT = (
    SMALL
    + 'layer { name: "z" type: "Power" bottom: "x" top: "z" }\n'
    + 'layer { name: "o" type: "HDF5Output" bottom: "x" bottom: "z" '
    + 'hdf5_output_param { file_name: "%s" } }\n'
)


@pytest.mark.parametrize("command", ["check", "time"])
def test_trying_or_timing_a_net_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converters.__main__ import COMMANDS
    from converters.command_line.program import run_subcommand
    from gmnet_pt import time

    (tmp_path / "nets").mkdir()
    victim = tmp_path / "precious.h5"
    victim.write_bytes(b"precious")
    net = tmp_path / "nets/net.prototxt"
    net.write_text(OUTPUT % victim)
    monkeypatch.chdir(tmp_path)
    if command == "check":
        assert run_subcommand("converters", "", COMMANDS, ["check", str(net.parent)]) == 0
    else:
        assert time.main([str(net), "--iterations", "1", "--device", "cpu"]) == 0
    assert victim.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nets", "precious.h5"]


def test_a_net_that_is_run_on_purpose_writes(tmp_path: Path) -> None:
    net = load(tmp_path, OUTPUT % (tmp_path / "out.h5"))
    net(torch.ones(2, 4, 7, 6))
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["data"].size == math.prod((2, 4, 7, 6))
