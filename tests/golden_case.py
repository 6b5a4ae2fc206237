"""One golden case of real Caffe: its net, its arrays, and how close a result must come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from converters.layers import LAYERS
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import read_net

GOLDEN = Path(__file__).parent / "golden"


def fork_cases() -> tuple[list[str], list[str]]:
    """The cases of forks whose layer types are all registered, and the others."""
    ready, pending = [], []
    for folder in sorted((GOLDEN / "forks").iterdir()):
        types = {layer.type for layer in read_net(folder / "net.prototxt").layer}
        (ready if types <= set(LAYERS) else pending).append(folder.name)
    return ready, pending


READY, PENDING = fork_cases()


class Bounds(NamedTuple):
    """Largest max|a - b| / max|golden| for blobs, gradients and BatchNorm's blobs."""

    blobs: float
    gradients: float
    statistics: float = 1e-6


# golden/README.md, "How close is close": single layers, small nets, GM-Net nets.
SINGLE = Bounds(2e-6, 5e-6)
SMALL_NET = Bounds(1e-5, 1e-5)
GMNET = Bounds(2e-5, 3e-4)


# A bias whose sum BN takes away again: its gradient is 0, and what both have of it is rounding.
# It is measured against the largest gradient of the layer.
ROUNDING_ALONE = {("net_seg_0", "TRAIN/paramdiff/e1/1"): "TRAIN/paramdiff/e1/0"}


def bounds_of(name: str) -> Bounds:
    """The bounds of a case by its name."""
    if name.startswith("net_gmnet"):
        return GMNET
    return SMALL_NET if name.startswith("net_") else SINGLE


def relative_error(found: np.ndarray, golden: np.ndarray) -> float:
    """max|found - golden| / max|golden|; the same NaNs and infinities count as equal."""
    assert found.shape == golden.shape, f"shape {found.shape}, golden {golden.shape}"
    if golden.size == 0:
        return 0.0
    finite = np.isfinite(golden)
    np.testing.assert_array_equal(found[~finite], golden[~finite])
    if not finite.any():
        return 0.0
    scale = np.abs(golden[finite]).max()
    return float(np.abs(found[finite] - golden[finite]).max() / (scale if scale else 1.0))


def case_folder(name: str) -> Path:
    """The folder of a case, among Caffe's layers or those of forks."""
    return next(
        GOLDEN / kind / name for kind in ("layers", "forks") if (GOLDEN / kind / name).exists()
    )


class GoldenCase:
    """A folder of tests/golden/layers or tests/golden/forks."""

    def __init__(
        self,
        name: str,
        change: Callable[[pb.NetParameter], None] = lambda net: None,
        device: str = "cpu",
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """`change` edits the net before it is built; `layout` is the memory format it runs in."""
        self.name = name
        self.change = change
        self.device = device
        self.layout = layout
        self.folder = case_folder(name)
        self.about = json.loads((self.folder / "case.json").read_text())
        self.arrays = dict(np.load(self.folder / "golden.npz"))
        self.bounds = bounds_of(name)

    def load(self, phase: str) -> CaffeNet:
        """The net in `phase` with the case's weights."""
        weights = self.folder / "weights.caffemodel"
        path = self.folder / "net.prototxt"
        message = read_net(path)
        self.change(message)
        given = (str(weights),) if weights.exists() else ()
        net = build_net(NetChoice(str(path), message, phase, weights=given)).to(self.device)
        net.lay_out(self.layout)
        return net

    def inputs(self, forward: int) -> dict[str, torch.Tensor]:
        """The inputs of the n-th forward, fresh leaves that take gradients."""
        prefix = f"in{forward + 1}/" if self.about["forwards"] > 1 else "in/"
        return {
            key.removeprefix(prefix): self.tensor(array).requires_grad_()
            for key, array in self.arrays.items()
            if key.startswith(prefix)
        }

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """A copy on the case's device."""
        return torch.tensor(array, device=self.device)

    def check(self, phase: str) -> int:
        """Run one phase and compare every golden array of it; returns how many there were."""
        net = self.load(phase)
        backward = phase == "TRAIN" and self.about["backward"]
        for forward in range(self.about["forwards"]):
            inputs = self.inputs(forward)
            saved = [blob.detach().clone() for blobs in net.params.values() for blob in blobs]
            blobs = net(inputs, blobs="all")
        compared = self._compare(f"{phase}/blob/", blobs, self.bounds.blobs)
        compared += self._compare_statistics(net, phase)
        if backward:
            compared += self._backward(net, inputs, blobs)
        elif self.about["forwards"] == 1:
            # The fused graph must say the same as the one that shows every blob.
            _restore(net, saved)
            outputs = net(inputs)
            wanted = [k for k in self.arrays if k.startswith(f"{phase}/blob/")]
            for key in wanted:
                name = key.removeprefix(f"{phase}/blob/")
                if name in outputs:
                    self._one(key, outputs[name], self.bounds.blobs)
        return compared

    def _one(self, key: str, tensor: torch.Tensor, bound: float) -> None:
        found, golden = tensor.detach().cpu().numpy(), self.arrays[key]
        if beside := ROUNDING_ALONE.get((self.name, key)):
            error = float(np.abs(found - golden).max() / np.abs(self.arrays[beside]).max())
        else:
            error = relative_error(found, golden)
        assert error <= bound, f"{self.name}: {key}: error {error:.2e} above {bound:.0e}"

    def _compare(self, prefix: str, found: dict[str, torch.Tensor], bound: float) -> int:
        keys = [key for key in self.arrays if key.startswith(prefix)]
        for key in keys:
            self._one(key, found[key.removeprefix(prefix)], bound)
        return len(keys)

    def _compare_statistics(self, net: CaffeNet, phase: str) -> int:
        prefix = f"{phase}/param_after/"
        keys = [key for key in self.arrays if key.startswith(prefix)]
        for key in keys:
            layer, index = key.removeprefix(prefix).rsplit("/", 1)
            self._one(key, net.params[layer][int(index)], self.bounds.statistics)
        return len(keys)

    def _backward(
        self, net: CaffeNet, inputs: dict[str, torch.Tensor], blobs: dict[str, torch.Tensor]
    ) -> int:
        given = {
            _blob_of(key.removeprefix("TRAIN/topdiff/")): self.tensor(array)
            for key, array in self.arrays.items()
            if key.startswith("TRAIN/topdiff/")
        }
        total = torch.zeros((), device=self.device)
        for position in net.plan.layers:
            for name, weight in zip(position.top_names, position.loss_weights):
                if weight and name not in given:
                    total = total + weight * blobs[name].sum()
        for name, gradient in given.items():
            if blobs[name].requires_grad:
                total = total + (blobs[name] * gradient).sum()
        if total.requires_grad:
            total.backward()
        compared = 0
        for key, array in self.arrays.items():
            if key.startswith("TRAIN/diff/"):
                leaf = inputs.get(key.removeprefix("TRAIN/diff/"))
                if leaf is None:
                    continue
                gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                self._one(key, gradient, self.bounds.gradients)
                compared += 1
            elif key.startswith("TRAIN/paramdiff/"):
                layer, index = key.removeprefix("TRAIN/paramdiff/").rsplit("/", 1)
                blob = net.params[layer][int(index)]
                gradient = torch.zeros(array.shape) if blob.grad is None else blob.grad
                self._one(key, gradient.reshape(array.shape), self.bounds.gradients)
                compared += 1
        return compared


def _blob_of(name: str) -> str:
    """The blob behind a copy that Caffe's automatic Split made: y for y_LAYER_0_split_0."""
    return name.split("_split_")[0].rsplit("_", 2)[0] if "_split_" in name else name


def _restore(net: CaffeNet, saved: list[torch.Tensor]) -> None:
    live = [blob for blobs in net.params.values() for blob in blobs]
    with torch.no_grad():
        for blob, value in zip(live, saved, strict=True):
            blob.copy_(value)
