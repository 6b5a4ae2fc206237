"""Caffemodels into a net's blobs: copying by layer name, with a report of what was found.

Blobs are addressed by their place in the plan (`converters.net.blobs`); the files themselves are
`converters.formats.caffemodel`'s; `converters.net.saving` is the way back. Source: Caffe net.cpp,
CopyTrainedLayersFrom.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from converters.errors import WeightsError
from converters.formats.caffemodel import (
    StoredLayer,
    given_blobs,
    stored_layers,
)
from converters.layers.fillers import fill
from converters.net.blobs import BlobStore
from converters.net.plan import LayerPlan, NetPlan

log = logging.getLogger(__name__)


@dataclass
class LoadReport:
    """What happened to each layer: loaded, left at its fillers, or in the file alone.

    `places` are the blobs that got values, `twins` the names under which several layers did.
    """

    files: tuple[str, ...] = ()
    loaded: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    places: set[int] = field(default_factory=set)

    def warn(self) -> None:
        """Name the layers that none of the files has, on this module's log."""
        if self.files and self.filled:
            names = _some(self.filled)
            log.warning("%s: no blobs for %s: left at their fillers", ", ".join(self.files), names)
        for line in self._twin_lines():
            log.warning("%s: %s", ", ".join(self.files), line)

    def lines(self) -> list[str]:
        """The report in words: how many layers have values from the files, and which have not."""
        loaded, filled = len(set(self.loaded)), len(self.filled)
        if filled:
            lines = [f"{loaded} of {loaded + filled} layers loaded"]
        else:
            lines = [f"all {loaded} layer{'s' * (loaded != 1)} loaded"]
        parts = {
            "Layers kept at their fillers (in no weights file)": self.filled,
            "Layers skipped (not in the net)": self.skipped,
        }
        lines += [f"{title}: {_some(names)}" for title, names in parts.items() if names]
        return lines + self._twin_lines()

    def _twin_lines(self) -> list[str]:
        return [
            f'several layers are called "{name}": matched in their order; '
            "Caffe would fill the first alone"
            for name in self.twins
        ]


def _some(names: Sequence[str], most: int = 8) -> str:
    """The names, or the first of them and how many there are more."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def load_files(
    plan: NetPlan, store: BlobStore, files: Sequence[str | Path], strict: bool, given: bool
) -> LoadReport:
    """Copy the files' blobs into the net's by layer name.

    Layers that the net lacks are skipped; a later file wins over an earlier one, and any file over
    the blobs that a layer of the prototxt holds itself, which are taken if `given`. Layers on
    another net's blobs alone are left as they are. Of several layers of one name the first in a
    file goes to the first in the net, and so on. A layer is found too where its blobs came with
    their owners: in HDF5 those alone have them.

    Raises:
        WeightsError: a damaged file, blobs of another number or shape, or, with `strict`, a layer
            that no file has.
    """
    report = LoadReport(tuple(map(str, files)))
    targets: dict[str, list[LayerPlan]] = {}
    for position in plan.layers:
        if position.blobs:
            targets.setdefault(position.name, []).append(position)
    own = [p for p in plan.layers if not store.shared.issuperset(p.owners)]
    for position in own:
        if given and position.layer.param.blobs:
            given_here = given_blobs(position.layer.param, plan.source)
            _copy(position, store, given_here, plan.source, plan, "its type")
            report.places.update(position.owners)
    for path in files if own else ():
        for stored, target in _matched(path, targets):
            if target is None:
                report.skipped.append(stored.name)
                continue
            if store.shared.issuperset(target.owners):
                continue
            _copy(target, store, stored, str(path), plan)
            report.loaded.append(target.key)
            report.places.update(target.owners[index] for index in stored.positions)
            if target.key != target.name and target.name not in report.twins:
                report.twins.append(target.name)
    known = report.places | store.shared
    report.filled = [position.key for position in own if not known.issuperset(position.owners)]
    if files and report.filled and strict:
        raise WeightsError(
            f"{', '.join(report.files)}: no blobs for layer{'s' * (len(report.filled) > 1)} "
            f"{_some(report.filled)} of {plan.source} (strict)"
        )
    return report


def _matched(
    path: str | Path, targets: dict[str, list[LayerPlan]]
) -> Iterator[tuple[StoredLayer, LayerPlan | None]]:
    """The file's layers that have blobs, each with the net's layer that takes them."""
    seen: Counter[str] = Counter()
    for stored in stored_layers(path):
        if not stored.blobs:
            continue
        fitting = targets.get(stored.name, [])
        number = seen[stored.name]
        seen[stored.name] += 1
        yield stored, fitting[number] if number < len(fitting) else None


def _copy(
    position: LayerPlan,
    store: BlobStore,
    stored: StoredLayer,
    path: str,
    plan: NetPlan,
    needs: str = "",
) -> None:
    source = needs or plan.source
    shapes = [spec.shape for spec in position.blobs]
    expected = len(shapes)
    absent = set(range(expected)).difference(stored.positions)
    if len(stored.blobs) > expected or not absent <= _may_be_absent(position, stored, plan):
        raise WeightsError(
            f'{path}: layer "{stored.name}" has {len(stored.blobs)} blobs, '
            f"{source} needs {expected}"
        )
    for place, (blob, index) in enumerate(zip(stored.blobs, stored.positions)):
        if index >= expected or not any(
            stored.fits(place, shape) for shape in (shapes[index], *position.blobs[index].also)
        ):
            needed = shapes[index] if index < expected else "no such blob"
            raise WeightsError(
                f'{path}: layer "{stored.name}" blob {index} has shape {tuple(blob.shape)}, '
                f"{source} needs {needed}"
            )
        if store.is_made(position.owners[index]):
            raise WeightsError(
                f'{path}: layer "{stored.name}" blob {index} has no place in {source}: a '
                "parametrization or pruning makes it there; load weights first"
            )
        target = store[position.owners[index]].detach()
        if target.device.type == "cpu" and target.dtype != torch.bfloat16:
            # The target may not lie as Caffe's blob does: it is the blob that takes another shape.
            np.copyto(target.numpy(), blob.reshape(target.shape))
        else:
            target.copy_(torch.tensor(blob).view(target.shape))


def _may_be_absent(position: LayerPlan, stored: StoredLayer, plan: NetPlan) -> set[int]:
    """The blobs that another one owns, which Caffe leaves out of HDF5 files (without types)."""
    owners = [plan.learnables[owner] for owner in position.owners]
    return {
        index
        for index, owner in enumerate(owners)
        if not stored.type and (owner.layer, owner.place) != (position.name, index)
    }


def fill_blobs(plan: NetPlan, store: BlobStore, done: Collection[int]) -> None:
    """Run the fillers of the net's own blobs but those at the places `done`.

    Raises:
        NetError: an unknown filler, or one that cannot fill its blob's shape.
    """
    for place, entry in enumerate(plan.learnables):
        if place in done or place in store.shared or 0 in entry.spec.shape:
            continue
        if entry.spec.values is None:
            fill(store[place], entry.spec.filler, f'{plan.source}: layer "{entry.layer}"')
        else:
            store[place].data.copy_(torch.from_numpy(entry.spec.values))
