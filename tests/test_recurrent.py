"""Recurrent layers beyond the golden cases: exposed states, state kept, changing batch sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters import load_net
from converters.errors import NetError
from converters.net.caffe_net import CaffeNet

STATES = {"LSTM": "hc", "RNN": "h"}


def build(folder: Path, layer: str, exposed: bool) -> CaffeNet:
    shapes = {"x": "dim: 3 dim: 2 dim: 5", "cont": "dim: 3 dim: 2"}
    states = STATES[layer] if exposed else ""
    shapes |= dict.fromkeys(states, "dim: 1 dim: 2 dim: 4")
    text = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" '
        f"input_param {{ shape {{ {shape} }} }} }}\n"
        for name, shape in shapes.items()
    )
    bottoms = " ".join(f'bottom: "{name}"' for name in shapes)
    tops = " ".join(f'top: "{name}"' for name in ("y", *(f"{s}_T" for s in states)))
    text += (
        f'layer {{ name: "r" type: "{layer}" {bottoms} {tops} recurrent_param {{ num_output: 4 '
        f'expose_hidden: {str(exposed).lower()} weight_filler {{ type: "uniform" min: -0.5 '
        "max: 0.5 } } }"
    )
    path = folder / f"{layer}{exposed}.prototxt"
    path.write_text(text)
    return load_net(path, "TRAIN")


@pytest.mark.parametrize("layer", STATES)
def test_exposed_states_handed_on_equal_the_kept_ones(tmp_path: Path, layer: str) -> None:
    torch.manual_seed(1)
    kept, exposed = build(tmp_path, layer, False), build(tmp_path, layer, True)
    with torch.no_grad():
        for mine, other in zip(exposed.params["r"], kept.params["r"]):
            mine.copy_(other)
    hidden = {name: torch.zeros(1, 2, 4) for name in STATES[layer]}
    outputs = []
    for _ in range(3):
        inputs = {"x": torch.randn(3, 2, 5), "cont": (torch.rand(3, 2) > 0.3).float()}
        outputs.append(kept(inputs)["y"])
        found = exposed(inputs | hidden)
        torch.testing.assert_close(found["y"], outputs[-1])
        hidden = {name: found[f"{name}_T"] for name in hidden}
        assert not any(h.requires_grad for h in hidden.values())
    # Each forward can still be differentiated: the state it began with was copied.
    sum(y.sum() for y in outputs).backward()


@pytest.mark.parametrize("layer", STATES)
def test_cont_zero_forgets_and_a_larger_batch_begins_anew(tmp_path: Path, layer: str) -> None:
    net = build(tmp_path, layer, False)
    x = torch.randn(3, 2, 5)
    begins, goes_on = torch.tensor([0.0, 1, 1]).view(3, 1).expand(3, 2), torch.ones(3, 2)
    first = net({"x": x, "cont": begins})["y"]
    assert not torch.equal(net({"x": x, "cont": goes_on})["y"], first)
    torch.testing.assert_close(net({"x": x, "cont": begins})["y"], first)
    larger = net({"x": x.repeat(1, 2, 1), "cont": torch.ones(3, 4)})["y"]
    torch.testing.assert_close(larger, first.repeat(1, 2, 1))
    smaller = net({"x": x[:, :1], "cont": goes_on[:, :1]})["y"]
    again = build(tmp_path, layer, False)
    again.load_state_dict(net.state_dict())
    again({"x": x, "cont": begins})
    torch.testing.assert_close(again({"x": x, "cont": goes_on})["y"][:, :1], smaller)


@pytest.mark.parametrize("layer", STATES)
def test_number_of_steps_is_fixed(tmp_path: Path, layer: str) -> None:
    net = build(tmp_path, layer, False)
    with pytest.raises(NetError, match="4 steps, the layer was set up for 3"):
        net({"x": torch.zeros(4, 2, 5), "cont": torch.ones(4, 2)})
