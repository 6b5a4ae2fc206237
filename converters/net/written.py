"""The message that a caffemodel holds beside its blobs: a net as Caffe itself writes it.

`converters.formats.caffemodel` writes it with the blobs. Source: Caffe net.cpp (ToProto).
"""

from __future__ import annotations

from converters.layers import LAYERS
from converters.layers.meanings import Meanings
from converters.proto import caffe_pb2 as pb
from converters.prototxt.net_rules import insert_splits


def snapshot_net(net: pb.NetParameter, phase: str, source: str = "") -> pb.NetParameter:
    """The message, blobs aside, that Caffe's Net::ToProto writes for the filtered `net`.

    Only the name and the layers remain; Splits are inserted, every layer has its phase ("TRAIN" or
    "TEST"), and what a layer of its type adds itself (a loss its weight).

    Raises:
        NetError: as `insert_splits`; settings that Caffe's layer refuses.
    """
    split = insert_splits(net, source)
    written = pb.NetParameter(name=net.name, layer=split.layer)
    # The weights decide between meanings that are written alike.
    meanings = Meanings(net, source, lambda name: None)
    for layer in written.layer:
        if not layer.HasField("phase"):
            layer.phase = pb.TRAIN if phase == "TRAIN" else pb.TEST
        if layer.type in LAYERS:
            (meanings.of(layer) or LAYERS[layer.type]).complete(layer, source or net.name)
    return written
