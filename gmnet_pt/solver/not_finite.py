"""Where NaN or infinity came from, in words, once a loss or a parameter is found to be one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from converters.net.caffe_net import CaffeNet


def in_loss(net: CaffeNet, feed: Mapping[str, Any], loss: float, iteration: int) -> str:
    """The first layer of Caffe's order with a blob that is not finite; runs `net` on `feed`."""
    layer, blob = first_not_finite(net, feed)
    return (
        f"the loss is {loss:g} at iteration {iteration}; the first blob that is not "
        f'finite is "{blob}" of layer "{layer}"'
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


def first_not_finite(net: CaffeNet, feed: Mapping[str, Any]) -> tuple[str, str]:
    """The first layer, in Caffe's order, with a top (or blob) that is not finite, and its name."""
    for name, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            if not bool(torch.isfinite(blob).all()):
                return name, f"parameter blob {index}"
    with torch.no_grad():
        blobs_by_name = net(feed, blobs="all")
    for position in net.plan.layers:
        for name in position.top_names:
            if name in blobs_by_name and not bool(torch.isfinite(blobs_by_name[name]).all()):
                return position.name, name
    return "?", "the loss itself"
