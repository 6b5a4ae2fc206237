"""Faster R-CNN's prototxts, with Python layers of the user's own in a package `rpn`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from converters import load_net
from converters.errors import NetError

STRIDES = """
def stride_of(text):
    name, value = text.strip("'").split("': ")
    assert name == "feat_stride"
    return int(value)
"""
PROPOSAL = """
import caffe
import numpy as np
from rpn.strides import stride_of

class ProposalLayer(caffe.Layer):
    # The best places, as many as the phase has; each is a box of two strides.
    def setup(self, bottom, top):
        self._stride = stride_of(self.param_str_)
        top[0].reshape(1, 5)

    def forward(self, bottom, top):
        assert bottom[0].data.shape[0] == 1
        scores = bottom[0].data[0, 1]
        most = {"TRAIN": 5, "TEST": 3}[str(self.phase)]
        best = scores.ravel().argsort()[::-1][:most]
        y, x = np.unravel_index(best, scores.shape)
        rows = np.stack([0 * x, x, y, x + 2, y + 2], 1) * [[1] + [self._stride] * 4]
        rows[:, 3:] = np.minimum(rows[:, 3:], bottom[2].data[0, 1::-1] - 1)
        top[0].reshape(*rows.shape)
        top[0].data[...] = rows

    def backward(self, top, propagate_down, bottom):
        pass

    def reshape(self, bottom, top):
        pass
"""
ANCHOR_TARGET = """
import caffe
import numpy as np
from rpn.strides import stride_of

class AnchorTargetLayer(caffe.Layer):
    # 1 where a place lies in the first box, -1 for a margin, else 0.
    def setup(self, bottom, top):
        self._stride = stride_of(self.param_str_)
        top[0].reshape(1, 1, *bottom[0].data.shape[-2:])

    def forward(self, bottom, top):
        height, width = bottom[0].data.shape[-2:]
        x1, y1, x2, y2 = bottom[1].data[0, :4] / self._stride
        y, x = np.mgrid[:height, :width]
        inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        labels = inside.astype(np.float32)
        labels[0] = -1
        top[0].reshape(1, 1, height, width)
        top[0].data[...] = labels

    def backward(self, top, propagate_down, bottom):
        pass

    def reshape(self, bottom, top):
        pass
"""
PROPOSAL_TARGET = """
import caffe
import numpy as np
import yaml_of_the_user

class ProposalTargetLayer(caffe.Layer):
    def setup(self, bottom, top):
        self._classes = yaml_of_the_user.load(self.param_str_)["num_classes"]
        for blob, size in zip(top, (5, 1, 4 * self._classes, 4 * self._classes)):
            blob.reshape(1, size)

    def forward(self, bottom, top):
        rois = np.concatenate([bottom[0].data, [[0, *bottom[1].data[0, :4]]]])
        labels = np.zeros(len(rois))
        labels[-1] = bottom[1].data[0, 4]
        targets = np.zeros((len(rois), 4 * self._classes))
        weights = np.zeros_like(targets)
        own = 4 * int(labels[-1])
        targets[-1, own:own + 4], weights[-1, own:own + 4] = 0.5, 1
        for blob, value in zip(top, (rois, labels[:, None], targets, weights)):
            blob.reshape(*value.shape)
            blob.data[...] = value

    def backward(self, top, propagate_down, bottom):
        pass

    def reshape(self, bottom, top):
        pass
"""
NET = """
name: "small Faster R-CNN"
layer { name: "in" type: "Input" top: "data" top: "im_info" top: "gt_boxes" input_param {
  shape { dim: 1 dim: 3 dim: 32 dim: 40 } shape { dim: 1 dim: 3 } shape { dim: 1 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 6 kernel_size: 4 stride: 4 weight_filler { type: "xavier" } } }
layer { name: "rpn_cls_score" type: "Convolution" bottom: "conv" top: "rpn_cls_score"
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "rpn-data" type: "Python" bottom: "rpn_cls_score" bottom: "gt_boxes" bottom: "im_info"
  bottom: "data" top: "rpn_labels" include { phase: TRAIN } python_param {
  module: "rpn.anchor_target_layer" layer: "AnchorTargetLayer" param_str: "'feat_stride': 4" } }
layer { name: "rpn_loss_cls" type: "SoftmaxWithLoss" bottom: "rpn_cls_score" bottom: "rpn_labels"
  top: "rpn_cls_loss" propagate_down: 1 propagate_down: 0 loss_weight: 1 include { phase: TRAIN }
  loss_param { ignore_label: -1 normalize: true } }
layer { name: "rpn_cls_prob" type: "Softmax" bottom: "rpn_cls_score" top: "rpn_cls_prob" }
layer { name: "proposal" type: "Python" bottom: "rpn_cls_prob" bottom: "conv" bottom: "im_info"
  top: "rpn_rois" python_param {
  module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "'feat_stride': 4" } }
layer { name: "roi-data" type: "Python" bottom: "rpn_rois" bottom: "gt_boxes" top: "rois"
  top: "labels" top: "bbox_targets" top: "bbox_weights" include { phase: TRAIN } python_param {
  module: "rpn.proposal_target_layer" layer: "ProposalTargetLayer" param_str: "'num_classes': 3" } }
layer { name: "roi-copy" type: "Power" bottom: "rpn_rois" top: "rois" include { phase: TEST } }
layer { name: "roi_pool" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_w: 2 pooled_h: 2 spatial_scale: 0.25 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "pool" top: "bbox_pred"
  inner_product_param { num_output: 12 weight_filler { type: "xavier" } } }
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels"
  top: "loss_cls" propagate_down: 1 propagate_down: 0 loss_weight: 1 include { phase: TRAIN } }
layer { name: "loss_bbox" type: "SmoothL1LossOHEM" bottom: "bbox_pred" bottom: "bbox_targets"
  bottom: "bbox_weights" top: "loss_bbox" loss_weight: 1 include { phase: TRAIN } }
layer { name: "cls_prob" type: "Softmax" bottom: "cls_score" top: "cls_prob"
  include { phase: TEST } }
"""


def write(net_folder: Path, package_folder: Path) -> Path:
    """The net's file; the package, and a module that it needs, in a folder of their own."""
    package = package_folder / "rpn"
    package.mkdir()
    for name, text in (
        ("__init__", ""),
        ("strides", STRIDES),
        ("proposal_layer", PROPOSAL),
        ("anchor_target_layer", ANCHOR_TARGET),
        ("proposal_target_layer", PROPOSAL_TARGET),
    ):
        (package / f"{name}.py").write_text(text)
    load = "def load(text):\n    return eval('{' + text + '}')\n"
    (package_folder / "yaml_of_the_user.py").write_text(load)
    (net_folder / "net.prototxt").write_text(NET)
    return net_folder / "net.prototxt"


@pytest.fixture(autouse=True)
def modules_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test imports is gone after it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rpn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "yaml_of_the_user", raising=False)


FEED = {
    "data": (1, 3, 32, 40),
    "im_info": [[32.0, 40, 1]],
    "gt_boxes": [[8.0, 8, 27, 23, 2]],
}


def feed() -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    given = {name: torch.tensor(value) for name, value in FEED.items() if name != "data"}
    return {"data": torch.randn(1, 3, 32, 40), **given}


@pytest.mark.parametrize("beside", [True, False])
def test_a_small_net_trains_end_to_end(
    beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the net's file, or on the path; the regions of a forward are as many as it finds."""
    folder = tmp_path / "net"
    folder.mkdir()
    if not beside:
        monkeypatch.syspath_prepend(str(tmp_path))
    net_file = write(folder, folder if beside else tmp_path)
    net = load_net(net_file, "TRAIN", allow_python_layers=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, tops = net.loss(feed())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert tops["loss_cls"].shape == ()
    assert net(feed(), blobs=["cls_score"])["cls_score"].shape == (6, 3)
    gradient = net.params["conv"][0].grad
    assert gradient is not None and bool(gradient.abs().sum() > 0)
    assert losses[-1] < losses[0] / 2
    deployed = load_net(net_file, "TEST", allow_python_layers=True)
    assert deployed(feed())["cls_prob"].shape == (3, 3)


def test_two_nets_have_packages_of_one_name(tmp_path: Path) -> None:
    found = []
    for name, most in (("first", 3), ("second", 2)):
        folder = tmp_path / name
        folder.mkdir()
        net_file = write(folder, folder)
        layer = folder / "rpn" / "proposal_layer.py"
        layer.write_text(PROPOSAL.replace('"TEST": 3', f'"TEST": {most}'))
        net = load_net(net_file, "TEST", allow_python_layers=True)
        found.append(len(net(feed())["cls_prob"]))
    assert found == [3, 2]


def test_it_runs_nothing_unless_allowed(tmp_path: Path) -> None:
    net_file = write(tmp_path, tmp_path)
    with pytest.raises(NetError, match=r"rpn\.proposal_layer\.ProposalLayer; allow it with"):
        load_net(net_file, "TEST")
    assert "rpn" not in sys.modules


def test_a_package_that_is_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    with pytest.raises(NetError, match=r"No module named 'rpn'.*looked in .*PYTHONPATH"):
        load_net(tmp_path / "net.prototxt", "TEST", allow_python_layers=True)
