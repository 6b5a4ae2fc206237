"""The message that a caffemodel holds beside its blobs: a net as Caffe itself writes it.

`converters.formats.caffemodel` writes it with the blobs. Source: Caffe net.cpp (ToProto).
"""

from __future__ import annotations

from converters.errors import NetError
from converters.layers import LAYERS
from converters.proto import caffe_pb2 as pb
from converters.prototxt.net_rules import insert_splits

BATCHNORM_BLOBS = 3


def snapshot_net(net: pb.NetParameter, phase: str, source: str = "") -> pb.NetParameter:
    """The message, blobs aside, that Caffe's Net::ToProto writes for the filtered `net`.

    Only the name and the layers remain; Splits are inserted, every layer has its phase ("TRAIN" or
    "TEST"), losses their weight and BatchNorms the `param`s that freeze their statistics.

    Raises:
        NetError: as `insert_splits`; a BatchNorm whose `param` has another lr_mult than 0.
    """
    split = insert_splits(net, source)
    written = pb.NetParameter(name=net.name, layer=split.layer)
    for layer in written.layer:
        if not layer.HasField("phase"):
            layer.phase = pb.TRAIN if phase == "TRAIN" else pb.TEST
        if _is_loss(layer) and not layer.loss_weight:
            layer.loss_weight.append(1)
        if layer.type == "BatchNorm":
            _freeze_statistics(layer, source or net.name)
    return written


def _freeze_statistics(layer: pb.LayerParameter, source: str) -> None:
    for index, param in enumerate(layer.param):
        if param.lr_mult != 0:
            raise NetError(
                f'{source}: layer "{layer.name}": param {index} of a BatchNorm must have '
                f"lr_mult 0, not {param.lr_mult:g}"
            )
    while len(layer.param) < BATCHNORM_BLOBS:
        layer.param.add(lr_mult=0)


def _is_loss(layer: pb.LayerParameter) -> bool:
    return layer.type in LAYERS and LAYERS[layer.type].is_loss
