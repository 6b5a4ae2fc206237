"""Caffemodels into nets and back: copying by layer name, with a report of what was found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from converters.errors import WeightsError
from converters.layers.fillers import fill

if TYPE_CHECKING:
    from converters.formats.caffemodel import StoredLayer
    from converters.net.caffe_net import CaffeNet, LayerModule


log = logging.getLogger(__name__)


@dataclass
class LoadReport:
    """What happened to each layer: loaded, left at its fillers, or in the file alone."""

    loaded: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def warn(self, files: Sequence[str | Path]) -> None:
        """Name the layers that none of the files has, on this module's log."""
        if files and self.filled:
            log.warning(
                "%s: no blobs for %s: left at their fillers",
                ", ".join(map(str, files)),
                ", ".join(self.filled),
            )

    def lines(self) -> list[str]:
        """The report in words, a line for each of the three that is not empty."""
        parts = {
            "Layers loaded": self.loaded,
            "Layers kept at their fillers (in no weights file)": self.filled,
            "Layers skipped (not in the net)": self.skipped,
        }
        return [f"{title}: {', '.join(names)}" for title, names in parts.items() if names]


def initialize(
    net: CaffeNet, files: Sequence[str | Path], strict: bool, refill: bool
) -> LoadReport:
    """Copy the files' blobs into `net` by layer name (Net::CopyTrainedLayersFrom), fill the rest.

    Layers that the net lacks are skipped; a later file wins over an earlier one, and any file over
    the blobs that a layer of the prototxt holds itself.

    Raises:
        WeightsError: a damaged file, blobs of another number or shape, or, with `strict`, a layer
            that no file has.
    """
    from converters.formats.caffemodel import given_blobs, stored_layers

    modules = {m.layer.name: m for m in net.layer_modules if m.shapes}
    given = [name for name, module in modules.items() if module.layer.param.blobs]
    for name in given if refill else ():
        stored = given_blobs(modules[name].layer.param, net.plan.source)
        _copy(modules[name], stored, net.plan.source, "its type")
    report = LoadReport()
    for path in files:
        for stored in stored_layers(path):
            module = modules.get(stored.name)
            if module is not None and stored.blobs:
                _copy(module, stored, str(path), net.plan.source)
                report.loaded.append(stored.name)
            elif module is None and stored.blobs:
                report.skipped.append(stored.name)
    loaded = {*report.loaded, *given}
    report.filled = [name for name in modules if name not in loaded]
    if files and report.filled and strict:
        raise WeightsError(
            f"{', '.join(map(str, files))}: no blobs for layer{'s' * (len(report.filled) > 1)} "
            f"{', '.join(report.filled)} of {net.plan.source} (strict)"
        )
    if refill:
        _fill(net, loaded)
    return report


def _copy(module: LayerModule, stored: StoredLayer, path: str, source: str) -> None:
    # An HDF5 file leaves out blobs that another layer owns, so its positions may have gaps.
    expected = len(module.shapes)
    if len(stored.blobs) != expected and stored.positions == tuple(range(len(stored.blobs))):
        raise WeightsError(
            f'{path}: layer "{stored.name}" has {len(stored.blobs)} blobs, '
            f"{source} needs {expected}"
        )
    for place, (blob, position) in enumerate(zip(stored.blobs, stored.positions)):
        if position >= expected or not stored.fits(place, module.shapes[position]):
            needed = module.shapes[position] if position < expected else "no such blob"
            raise WeightsError(
                f'{path}: layer "{stored.name}" blob {position} has shape {tuple(blob.shape)}, '
                f"{source} needs {needed}"
            )
        target: torch.Tensor = getattr(module, f"blob{position}").detach()
        if target.device.type == "cpu":
            np.copyto(target.numpy().reshape(blob.shape), blob)
        else:
            target.copy_(torch.tensor(blob).view(target.shape))


def _fill(net: CaffeNet, loaded: set[str]) -> None:
    by_name = {m.layer.name: m for m in net.layer_modules}
    given = {owner for p in net.plan.layers if p.name in loaded for owner in p.owners}
    for index, entry in enumerate(net.plan.learnables):
        if index in given or 0 in entry.spec.shape:
            continue
        blob = getattr(by_name[entry.layer], f"blob{entry.place}")
        if entry.spec.values is None:
            fill(blob, entry.spec.filler, f'{net.plan.source}: layer "{entry.layer}"')
        else:
            blob.data.copy_(torch.from_numpy(entry.spec.values))


def save_caffemodel(net: CaffeNet, path: str | Path, diffs: bool = False) -> None:
    """Write the net's blobs as Caffe would: a .caffemodel, or HDF5 for a name ending in .h5.

    Args:
        diffs: write the gradients too (Caffe's snapshot_diff).

    Raises:
        OutputError: the file cannot be written.
    """
    from converters.formats.caffemodel import write_caffemodel

    params = net.params
    data = {name: [_array(blob) for blob in blobs] for name, blobs in params.items()}
    gradients = {
        name: [_array(torch.zeros_like(b) if b.grad is None else b.grad) for b in blobs]
        for name, blobs in params.items()
    }
    write_caffemodel(path, net.to_message(), data, gradients if diffs else None)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()
