"""A net's blobs as a caffemodel, and the message that Caffe writes around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from converters.formats.caffemodel import fill_caffemodel
from converters.formats.whole_files import written_beside
from converters.net.caffe_net import CaffeNet
from converters.net.written import snapshot_net
from converters.proto import caffe_pb2 as pb


def save_caffemodel(
    net: CaffeNet, path: str | Path, diffs: Sequence[Tensor | None] | None = None
) -> None:
    """Write the net's blobs as Caffe would: a .caffemodel, or HDF5 for a name ending in .h5.

    Args:
        diffs: written beside the blobs (Caffe's snapshot_diff), one for each of `net.learnable`;
            None stands for zeros.

    Raises:
        OutputError: the file cannot be written.
    """
    with written_beside(path) as partial:
        fill_with_net(net, partial, path, diffs)


def fill_with_net(
    net: CaffeNet,
    partial: Path,
    path: str | Path,
    diffs: Sequence[Tensor | None] | None = None,
) -> None:
    """As `save_caffemodel`, at `partial`: for who moves it to `path` himself.

    Raises:
        OutputError: it is too long for its format, with the name `path`.
        OSError: the file cannot be written.
    """
    message = snapshot_net(net.plan.net, net.phase)
    beside = None if diffs is None else _by_layer(net, diffs)
    blobs = _by_layer(net, net.learnable)
    fill_caffemodel(partial, path, message, blobs, beside, _keys(net, message))


def _keys(net: CaffeNet, message: pb.NetParameter) -> list[str]:
    """The key of each layer of `message`; the Splits that Caffe inserts have their names."""
    positions = iter(net.plan.layers)
    due = next(positions, None)
    keys = []
    for layer in message.layer:
        own = due is not None and (layer.name, layer.type) == (due.name, due.layer.type)
        keys.append(due.key if due is not None and own else layer.name)
        due = next(positions, None) if own else due
    return keys


def _by_layer(
    net: CaffeNet, tensors: Sequence[Tensor | None]
) -> Mapping[str, list[npt.NDArray[Any]]]:
    """Arrays of the layers' blobs by key, in the blobs' shapes, from a tensor for each place."""
    found = {}
    for position in net.plan.layers:
        if position.blobs:
            found[position.key] = [
                _array(tensors[place], spec.shape)
                for place, spec in zip(position.owners, position.blobs)
            ]
    return found


def _array(tensor: Tensor | None, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if tensor is None:
        return np.zeros(shape, np.float32)
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().reshape(shape)
