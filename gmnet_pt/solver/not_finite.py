"""Where NaN or infinity came from, in words, once a loss or a parameter is found to be one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from converters.net.caffe_net import CaffeNet


class Place(NamedTuple):
    """A layer and one of its blobs."""

    layer: str
    blob: str


def in_loss(places: Sequence[Place | None], loss: float, iteration: int) -> str:
    """A loss that is not finite, and where that began: `first_not_finite` of each process."""
    of = [f" in process {rank}" if len(places) > 1 else "" for rank in range(len(places))]
    (layer, blob), where = next(
        ((place, where) for place, where in zip(places, of) if place),
        (("?", "the loss itself"), ""),
    )
    return (
        f"the loss is {loss:g} at iteration {iteration}; the first blob that is not "
        f'finite is "{blob}" of layer "{layer}"{where}'
    )


def in_parameters(net: CaffeNet, iteration: int) -> str | None:
    """The first learnable blob that is not finite after `iteration`, if there is one."""
    for entry, blob in zip(net.plan.learnables, net.learnable, strict=True):
        if not bool(torch.isfinite(blob).all()):
            return (
                f"after iteration {iteration} parameter blob {entry.place} of layer "
                f'"{entry.layer}" is not finite'
            )
    return None


def first_not_finite(net: CaffeNet, feed: Mapping[str, Any]) -> Place | None:
    """The first layer, in Caffe's order, with a top (or blob) that is not finite; runs `net`."""
    for name, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            if not bool(torch.isfinite(blob).all()):
                return Place(name, f"parameter blob {index}")
    with torch.no_grad():
        blobs_by_name = net(feed, blobs="all")
    for position in net.plan.layers:
        for name in position.top_names:
            if name in blobs_by_name and not bool(torch.isfinite(blobs_by_name[name]).all()):
                return Place(position.name, name)
    return None
