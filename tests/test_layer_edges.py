"""Layers at the edges of what Caffe accepts: shapes that it rounds its own way, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from field_rows import net_text

from converters import load_net, save_caffemodel
from converters.errors import CaffeError, WeightsError
from converters.formats.caffemodel import read_caffemodel
from converters.layers.registry import Shape
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_net


def build(text: str, phase: str = "TEST") -> CaffeNet:
    return build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"), phase))


class Edge(NamedTuple):
    """A layer, and its tops' shapes or what the refusal says (as real Caffe behaves)."""

    kind: str
    settings: str
    bottoms: tuple[Shape, ...]
    expected: tuple[Shape, ...] | str
    tops: int = 1


EDGES = [
    Edge("MVN", "", ((2, 4, 3),), ((2, 4, 3, 1),)),
    Edge("MVN", "", ((5,),), ((5, 1, 1, 1),)),
    Edge("Scale", "scale_param { axis: 3 }", ((2, 3), ()), ((2, 3),)),
    Edge("Bias", "", ((2,), ()), ((2,),)),
    Edge(
        "Scale",
        "scale_param { axis: 3 bias_term: true }",
        ((2, 3), ()),
        "axis 3 is out of range for a blob of 2 axes",
    ),
    Edge("BatchNorm", "", ((4,),), r"\(4,\) must have 2 axes or more"),
    Edge("Slice", "slice_param { slice_point: 1 }", ((2, 3),), ((2, 1), (2, 2)), tops=2),
    Edge("Slice", "slice_param { slice_point: 3 }", ((2, 3),), "does not cut axis 1", tops=2),
    Edge(
        "SoftmaxWithLoss",
        "",
        ((2, 3), (2,)),
        "has 2 tops and no loss_weight.*loss_weight: 1 loss_weight: 0",
        tops=2,
    ),
    Edge("Accuracy", "", ((2, 3, 4), (2, 4)), ((), (3,)), tops=2),
    Edge("SoftmaxWithLoss", "loss_weight: 1 loss_weight: 0", ((2, 3), (2,)), ((), (2, 3)), tops=2),
    # One window, with zeros beyond the end: C++ rounds (2 - 3) / 2 to 0.
    Edge(
        "Im2col",
        "convolution_param { kernel_size: 3 stride: 2 }",
        ((1, 1, 2, 2),),
        ((1, 9, 1, 1),),
    ),
    Edge(
        "Convolution",
        "convolution_param { num_output: 1 kernel_size: 4 stride: 2 }",
        ((1, 1, 2, 2),),
        "does not fit bottom size",
    ),
]


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge.kind}-{edge.bottoms}")
def test_edges(edge: Edge) -> None:
    text = net_text(edge.kind, edge.settings, edge.bottoms, edge.tops)
    if isinstance(edge.expected, str):
        with pytest.raises(CaffeError, match=edge.expected) as raised:
            build(text)
        assert str(raised.value).startswith(f'net.prototxt: layer "layer" ({edge.kind}): ')
        return
    feed = {f"b{i}": torch.zeros(shape) for i, shape in enumerate(edge.bottoms)}
    net = build(text)
    assert net.plan.layers[-1].top_shapes == edge.expected
    tops = net(feed, blobs=[f"t{i}" for i in range(edge.tops)])
    assert tuple(tuple(top.shape) for top in tops.values()) == edge.expected


GIVEN = """
blobs { shape { dim: 3 dim: 2 } data: 1 data: 2 data: 3 data: 4 data: 5 data: 6 }
blobs { shape { dim: 3 } data: 9 data: 8 data: 7 }
inner_product_param { num_output: %d }
"""


def test_blobs_in_a_prototxt_take_the_fillers_place(tmp_path: Path) -> None:
    net = build(net_text("InnerProduct", GIVEN % 3, ((1, 2),)))
    assert net.params["layer"][0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert net({"b0": torch.ones(1, 2)})["t0"].tolist() == [[12, 15, 18]]
    save_caffemodel(net, tmp_path / "net.caffemodel")
    stored = read_caffemodel(tmp_path / "net.caffemodel").layers[1].blobs
    assert [blob.tolist() for blob in stored] == [[[1, 2], [3, 4], [5, 6]], [9, 8, 7]]


def test_layers_that_a_cut_caffemodel_lacks_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut between two layers, a caffemodel is whole protobuf."""
    layer = (
        'layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" '
        "inner_product_param { num_output: 2 } }"
    )
    text = net_text("InnerProduct", "inner_product_param { num_output: 2 }", ((1, 2),))
    text += layer % ("second", "t0", "t1") + layer % ("third", "t1", "t2")
    path, model = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    path.write_text(text)
    save_caffemodel(build(text), model)
    whole = model.read_bytes()
    message = pb.NetParameter.FromString(whole)
    del message.layer[2:]
    model.write_bytes(whole[: message.ByteSize()])
    load_net(path, weights=model)
    assert "no blobs for second, third: left at their fillers" in caplog.text
    with pytest.raises(WeightsError, match=r"no blobs for layers second, third .*strict"):
        load_net(path, weights=model, strict=True)


def test_blobs_in_a_prototxt_must_fit() -> None:
    with pytest.raises(WeightsError, match=r'"layer" blob 0 has shape \(3, 2\).*\(4, 2\)'):
        build(net_text("InnerProduct", GIVEN % 4, ((1, 2),)))
    with pytest.raises(WeightsError, match=r"blob 0: 5 values do not fill the shape \(3, 2\)"):
        build(net_text("InnerProduct", (GIVEN % 3).replace("data: 6", ""), ((1, 2),)))


WEIGHTED = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "square" type: "Power" bottom: "x" top: "y" power_param { power: 2 } %s }
layer { name: "half" type: "Power" bottom: "y" top: "z" power_param { scale: 0.5 } }
"""


def test_a_blob_that_is_read_and_lost_is_an_output_by_its_copys_name() -> None:
    """Caffe's InsertSplits gives the loss the first copy, and nobody reads that."""
    net = build(WEIGHTED % "loss_weight: 2", "TRAIN")
    assert net.outputs == ["y_square_0_split_0", "z"]
    loss, outputs = net.loss({"x": torch.full((2, 3), 3.0)})
    assert float(loss) == 2 * 6 * 9
    assert outputs["y_square_0_split_0"].tolist() == [[9.0] * 3] * 2
    assert build(WEIGHTED % "", "TRAIN").outputs == ["z"]


def test_a_loss_of_its_own_weight_may_be_overwritten_in_place() -> None:
    text = net_text("EuclideanLoss", "", ((2, 3), (2, 3)))
    scaled = """layer { name: "s" type: "Power" bottom: "t0" top: "t0" power_param { scale: 3 } }"""
    net = build(text + scaled, "TRAIN")
    loss, outputs = net.loss({"b0": torch.ones(2, 3), "b1": torch.zeros(2, 3)})
    assert (float(loss), float(outputs["t0"])) == (1.5, 4.5)
