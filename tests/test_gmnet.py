"""The generated nets against Caffe: its weights give its blobs, and groups keep their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import GMNET, GOLDEN, relative_error

from converters import load_net
from converters.net.caffe_net import CaffeNet
from converters.proto import caffe_pb2 as pb
from prototxt_gen.__main__ import main

SMALL = ["--width", "0.125", "--unit-groups", "4", "--adaption-groups", "2", "--dropout", "0"]
GROUPED = ["--reading", "table", "--width", "0.25", "--dropout", "0"]
# BatchNorm's default eps as protobuf holds it, a float32.
EPS = pb.BatchNormParameter().eps


@pytest.mark.parametrize("variant", ["bua", "bub", "baseline"])
def test_caffes_weights_give_caffes_blobs(variant: str, tmp_path: Path) -> None:
    assert main([variant, *SMALL, "--out", str(tmp_path)]) == 0
    golden = GOLDEN / "layers" / f"net_gmnet_{variant}"
    arrays = dict(np.load(golden / "golden.npz"))
    shapes = {name: arrays[f"in/{name}"].shape for name in ("data", "label")}
    inputs = {name: torch.from_numpy(arrays[f"in/{name}"]) for name in shapes}
    for phase in ("TRAIN", "TEST"):
        net = load_net(next(tmp_path.glob("*/net.prototxt")), phase, input_shapes=shapes)
        source = load_net(golden / "net.prototxt", phase, weights=golden / "weights.caffemodel")
        with torch.no_grad():
            for ours, theirs in zip(net.params.values(), source.params.values(), strict=True):
                for one, other in zip(ours, theirs, strict=True):
                    one.copy_(other)
        # By position: Convolution, Eltwise, Pooling and InnerProduct tops, in order.
        kinds = ("Convolution", "Eltwise", "Pooling", "InnerProduct", "SoftmaxWithLoss")
        ours, theirs = (
            [p.top_names[0] for p in n.plan.layers if p.layer.type in kinds] for n in (net, source)
        )
        assert len(ours) == len(theirs) > 25
        found = net(inputs, blobs="all")
        compared = 0
        for blob, wanted in zip(ours, theirs):
            # A convolution's blob ends as its ReLU's output here, in the golden as its own.
            wanted = f"{wanted}/bn" if f"{wanted}/bn" in source.plan.values else wanted
            key = f"{phase}/blob/{wanted}"
            if key in arrays:
                assert relative_error(found[blob].detach().numpy(), arrays[key]) <= GMNET.blobs
                compared += 1
        assert compared >= 15


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 0.0), (torch.float32, 1e-5)])
@pytest.mark.parametrize("part", ["bu_i", "bu_e"])
def test_a_grouped_unit_is_g_independent_paths(
    dtype: torch.dtype, bound: float, part: str, tmp_path: Path
) -> None:
    """Caffe maps input group i to output group i, in order, through all three units."""
    assert difference(dtype, part, tmp_path, order=range(8)) <= bound


def test_a_permuted_group_order_is_caught(tmp_path: Path) -> None:
    assert difference(torch.float64, "bu_i", tmp_path, [1, 0, 2, 3, 4, 5, 6, 7]) > 1e-2


def difference(
    dtype: torch.dtype, part: str, folder: Path, order: range | list[int], groups: int = 8
) -> float:
    """max|grouped - paths| / max|grouped| over the part's sum, the paths run one by one."""
    assert main(["bua", *GROUPED, "--out", str(folder)]) == 0
    torch.manual_seed(3)
    net = load_net(next(folder.glob("*/deploy.prototxt")), "TRAIN").to(dtype)
    first = next(p for p in net.plan.layers if p.name == f"{part}/unit1/conv1x1")
    last = [p.top_names[0] for p in net.plan.layers if p.name.startswith(f"{part}/sum")][-1]
    entry = first.layer.param.bottom[0]
    blobs = net({"data": torch.randn(4, 3, 32, 32, dtype=dtype)}, blobs=[entry, last])
    inputs = blobs[entry].detach().chunk(groups, 1)
    outputs = [path(net, part, inputs[order[i]], i, groups) for i in range(groups)]
    joined, grouped = torch.cat(outputs, 1), blobs[last].detach()
    return float((joined - grouped).abs().max() / grouped.abs().max())


def path(net: CaffeNet, part: str, x: torch.Tensor, number: int, groups: int) -> torch.Tensor:
    """One group's three units, dense sums between them, with the weights of that group."""
    functional, sums, out = torch.nn.functional, [], x
    for unit in (1, 2, 3):
        for conv, pad in (("conv1x1", 0), ("conv3x3", 1)):
            name = f"{part}/unit{unit}/{conv}"
            weight = net.params[name][0].detach().chunk(groups)[number]
            scale, shift = (b.detach().chunk(groups)[number] for b in net.params[f"{name}/scale"])
            out = functional.conv2d(out, weight, padding=pad)
            out = functional.batch_norm(out, None, None, training=True, eps=EPS)
            out = torch.relu(out * scale.view(-1, 1, 1) + shift.view(-1, 1, 1))
        sums.append(out)
        out = sums[0] + sums[1] if unit == 2 else out
    return sums[0] + sums[1] + sums[2]
