"""Nets from text, and one layer run on given values, by what users call: `load_net` and the net."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from field_rows import net_text
from torch import Tensor

from converters import CaffeNet, load_net


def load_text(text: str, phase: str = "TEST", **choice: Any) -> CaffeNet:
    """The net that a prototxt of this text holds; `choice` as for `load_net`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        path.write_text(text, encoding="utf-8")
        return load_net(path, phase, **choice)


def load_layer(
    kind: str, settings: str, *bottoms: Tensor, tops: int = 1, phase: str = "TEST"
) -> CaffeNet:
    """A net of one layer, "layer", for bottoms of these shapes; its blobs are b0, b1 … t0, t1 …"""
    return load_text(net_text(kind, settings, [tuple(x.shape) for x in bottoms], tops), phase)


def run_layer(
    kind: str, settings: str, *bottoms: Tensor, tops: int = 1, phase: str = "TEST"
) -> list[Tensor]:
    """The tops of one layer."""
    net = load_layer(kind, settings, *bottoms, tops=tops, phase=phase)
    feed = {f"b{index}": x for index, x in enumerate(bottoms)}
    return list(net(feed, blobs=[f"t{index}" for index in range(tops)]).values())
