"""gmnet_pt.solver.scores: outputs as numbers with their weights, and means over batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters import load_net
from converters.errors import ShapeError
from converters.net.caffe_net import CaffeNet
from gmnet_pt.log.events import Output
from gmnet_pt.solver.scores import Means, list_outputs

# y is read and a loss too: its output is a copy, under the name that Caffe gives it.
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "twice" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } loss_weight: 3 }
layer { name: "plain" type: "Power" bottom: "y" top: "z" power_param { scale: 1 } }
"""


@pytest.fixture
def net(tmp_path: Path) -> CaffeNet:
    (tmp_path / "net.prototxt").write_text(NET)
    return load_net(tmp_path / "net.prototxt")


def test_every_value_has_its_blobs_weight(net: CaffeNet) -> None:
    loss, outputs = net.loss({"x": torch.tensor([[1.0, 2.0]])})
    assert list_outputs(net, outputs) == [
        Output("y_twice_0_split_0", 2.0, 3.0),
        Output("y_twice_0_split_0", 4.0, 3.0),
        Output("z", 2.0),
        Output("z", 4.0),
    ]
    assert float(loss) == 18


def test_means_are_over_batches(net: CaffeNet) -> None:
    means = Means(net)
    for batch in ([[1.0, 2.0]], [[3.0, 6.0]]):
        means.add(*net.loss({"x": torch.tensor(batch)}))
    assert means.loss() == (18 + 54) / 2
    assert means.outputs()["z"].tolist() == [[4.0, 8.0]]


def test_outputs_of_changing_shape_have_no_mean(net: CaffeNet) -> None:
    means = Means(net)
    means.add(torch.zeros(()), {"z": torch.zeros(2)})
    with pytest.raises(ShapeError, match=r'output "z" has shape \(3,\) in batch 1, \(2,\) before'):
        means.add(torch.zeros(()), {"z": torch.zeros(3)})
