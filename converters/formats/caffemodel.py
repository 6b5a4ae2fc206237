"""Caffe's weight files, binary and HDF5, read into arrays and written as Caffe writes them.

`read_caffemodel` takes V0, V1 and V2 files; whom they fit is for `converters.net.weights` to say,
and what stands beside the blobs for `converters.net.written`. Source: Caffe net.cpp
(CopyTrainedLayersFrom, ToProto, ToHDF5).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import OutputError, WeightsError
from converters.formats.blob import Blob, FloatArray, decode_blob, encode_blob, given_blob
from converters.formats.hdf5 import (
    filled_hdf5,
    is_group,
    is_hdf5,
    member,
    numbers,
    opened_hdf5,
)
from converters.formats.whole_files import written_beside
from converters.formats.wire import (
    BYTES,
    VARINT,
    Chunk,
    Field,
    WireFile,
    message_field,
    opened_wire,
    serialized,
    write_chunks,
)
from converters.proto import caffe_pb2 as pb
from converters.proto.legacy import PADDING, v0_type, v1_type
from converters.raw_text import is_utf8

log = logging.getLogger(__name__)

Blobs = Mapping[str, Sequence[npt.NDArray[Any]]]

# protobuf cannot read or write a longer message.
PROTOBUF_LIMIT = 2**31 - 1
_NET_NAME, _NET_LAYERS, _NET_LAYER = (
    pb.NetParameter.DESCRIPTOR.fields_by_name[field].number for field in ("name", "layers", "layer")
)
_V1_LAYER = pb.V1LayerParameter.DESCRIPTOR.fields_by_name["layer"].number
_LAYER_BLOBS = pb.LayerParameter.DESCRIPTOR.fields_by_name["blobs"].number


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer of a weight file.

    `positions` are the blobs' indices in the layer: all of them, except in an HDF5 file, where
    Caffe leaves out the blobs that another layer owns. `legacy` is true where the shapes were given
    as num, channels, height and width. `type` is "" in an HDF5 file.
    """

    name: str
    type: str
    blobs: tuple[FloatArray, ...]
    legacy: bool
    positions: tuple[int, ...]

    def fits(self, index: int, shape: Sequence[int]) -> bool:
        """Whether `blobs[index]` can fill `shape` (Caffe Blob::ShapeEquals).

        A legacy blob fits a shape that has the same four numbers once ones stand in front.
        """
        ones = (1,) * (4 - len(shape)) if self.legacy else ()
        return self.blobs[index].shape == (*ones, *shape)


@dataclass(frozen=True, eq=False)
class Caffemodel:
    """The layers of a weight file in its order, those without blobs included."""

    name: str
    layers: tuple[StoredLayer, ...]


def read_caffemodel(path: str | Path, layer_names: Collection[str] = ()) -> Caffemodel:
    """Read a weight file whole; arguments and errors are those of `stored_layers`."""
    layers = tuple(stored_layers(path, layer_names))
    if is_hdf5(path):
        return Caffemodel("", layers)
    with opened_wire(path, "caffemodel", WeightsError) as file:
        names = [file.text(field) for field in file.fields() if field.number == _NET_NAME]
    return Caffemodel("".join(names[-1:]), layers)


def stored_layers(path: str | Path, layer_names: Collection[str] = ()) -> Iterator[StoredLayer]:
    """Read a weight file layer by layer, so that one layer's blobs are in memory at a time.

    Its first bytes tell whether it is binary or HDF5. In HDF5 a layer name with slashes is a path
    of groups: a group that holds only groups is taken for a part of such a name, unless it is among
    `layer_names` (a layer without blobs).

    Raises:
        WeightsError: an empty or foreign file, one cut inside a field (with the byte), a blob whose
            values do not fill its shape (with the layer); after the layers before it.
    """
    if is_hdf5(path):
        yield from _read_hdf5(path, layer_names)
        return
    generation = 0
    with opened_wire(path, "caffemodel", WeightsError) as file:
        if what := _stranger(bytes(file.content[:_HEAD])):
            raise file.fail(f"not a caffemodel but {what}")
        for field in file.fields():
            if field.number in (_NET_NAME, *_READERS) and field.wire != BYTES:
                raise file.fail(
                    f"not a caffemodel: byte {field.start} holds a number where a net has its name "
                    "or a layer (is it a .solverstate?)"
                )
            if field.number not in _READERS:
                continue
            if generation not in (0, field.number):
                raise file.fail("has both 'layer' and 'layers' fields; Caffe refuses it too")
            generation = field.number
            yield from _READERS[field.number].read(file, field)


_HEAD = 4096
_TORCH = "as torch.save writes; net.load_state_dict(torch.load(…)) reads a state_dict"
_STRANGERS = (
    (b"PK\x03\x04", f"a zip archive, {_TORCH}"),
    (b"\x80\x02", f"a pickle, {_TORCH}"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x93NUMPY", "an array of NumPy's"),
)


def _stranger(head: bytes) -> str:
    """What a file is that begins so, if it is a well-known kind and no caffemodel."""
    for mark, what in _STRANGERS:
        if head.startswith(mark):
            return what
    # A caffemodel cut short may be all ASCII, but for its first byte: the tag of the name, "\n".
    is_text = head.isascii() and not re.search(rb"\A\n|[\x00-\x08\x0b\x0e-\x1f\x7f]", head)
    return "a text (weights are a binary file)" if head.strip() and is_text else ""


def given_blobs(layer: pb.LayerParameter, source: str) -> StoredLayer:
    """The blobs that a layer of a prototxt holds itself; `source` names the file.

    Raises:
        WeightsError: values that do not fill their blob's shape.
    """
    blobs = [
        given_blob(blob, source, f'layer "{layer.name}": blob {index}')
        for index, blob in enumerate(layer.blobs)
    ]
    return _stored_layer(layer.name, layer.type, dict(enumerate(blobs)))


def write_caffemodel(
    path: str | Path,
    net: pb.NetParameter,
    blobs: Blobs,
    diffs: Blobs | None = None,
    keys: Sequence[str] | None = None,
) -> None:
    """Write a weight file; HDF5 if `path` ends in .h5, else binary. It is whole or absent.

    `net` is what `converters.net.written` gives; `blobs` (and `diffs`, for `snapshot_diff`) are
    each layer's arrays in Caffe's order, of any float type, by layer name, or by the `keys` of the
    layers of `net` where names do not tell them apart.

    Raises:
        WeightsError: blobs for a layer that `net` lacks, a name that HDF5 cannot hold.
        OutputError: the file cannot be written, or is too long for protobuf.
    """
    with written_beside(path) as partial:
        fill_caffemodel(partial, path, net, blobs, diffs, keys)


def fill_caffemodel(
    partial: Path,
    path: str | Path,
    net: pb.NetParameter,
    blobs: Blobs,
    diffs: Blobs | None = None,
    keys: Sequence[str] | None = None,
) -> None:
    """As `write_caffemodel`, at `partial`: for who moves it to `path` himself.

    Raises:
        WeightsError, OutputError: as there, with the name `path`.
        OSError: the file cannot be written.
    """
    keys = [layer.name for layer in net.layer] if keys is None else keys
    if unknown := sorted(set(blobs) - set(keys)):
        raise WeightsError(f"{path}: blobs for layers that the net lacks: {', '.join(unknown)}")
    if partial.suffix == ".h5":
        _write_hdf5(partial, path, net, blobs, diffs, keys)
        return
    with open(partial, "wb") as file:
        header = pb.NetParameter()
        header.CopyFrom(net)
        header.ClearField("layer")
        file.write(serialized(header))
        for layer, key in zip(net.layer, keys, strict=True):
            layer_diffs = None if diffs is None else diffs.get(key)
            chunks = _encode_layer(layer, blobs.get(key, ()), layer_diffs)
            write_chunks(file, message_field(_NET_LAYER, chunks))
        if file.tell() > PROTOBUF_LIMIT:
            raise OutputError(
                f"{path}: {file.tell()} bytes are more than protobuf's {PROTOBUF_LIMIT}; "
                "write a .caffemodel.h5 (snapshot_format: HDF5)"
            )


@dataclass(frozen=True)
class _LayerReader:
    """The field numbers of one generation's layer message, and how its `type` is read."""

    message: Any
    type_of: Any

    def read(self, file: WireFile, within: Field) -> Iterator[StoredLayer]:
        numbers = self.message.DESCRIPTOR.fields_by_name
        name_at, type_at, blobs_at = (numbers[field].number for field in ("name", "type", "blobs"))
        name = kind = ""
        stored: list[Field] = []
        for field in file.fields(within):
            if field.number == name_at and field.wire == BYTES:
                name = file.text(field)
            elif field.number == type_at:
                kind = self.type_of(file, field)
            elif field.number == blobs_at and field.wire == BYTES:
                stored.append(field)
            elif field.number == _V1_LAYER and self.message is pb.V1LayerParameter:
                yield from _V0_READER.read(file, field)
                return
        blobs = [
            decode_blob(file, field, f'layer "{name}": blob {index}')
            for index, field in enumerate(stored)
        ]
        if kind != PADDING:
            yield _stored_layer(name, kind, dict(enumerate(blobs)))


def _v2_type_of(file: WireFile, field: Field) -> str:
    return file.text(field)


def _v1_type_of(file: WireFile, field: Field) -> str:
    kind = v1_type(field.value) if field.wire == VARINT else None
    if kind is None:
        raise file.fail(f"damaged or not a caffemodel: no V1 layer type {field.value}")
    return kind


def _v0_type_of(file: WireFile, field: Field) -> str:
    kind = file.text(field)
    known = kind if kind == PADDING else v0_type(kind)
    if known is None:
        raise file.fail(f"unknown V0 layer type {kind!r}")
    return known


_V0_READER = _LayerReader(pb.V0LayerParameter, _v0_type_of)
_READERS = {
    _NET_LAYERS: _LayerReader(pb.V1LayerParameter, _v1_type_of),
    _NET_LAYER: _LayerReader(pb.LayerParameter, _v2_type_of),
}


def _stored_layer(name: str, kind: str, blobs: Mapping[int, Blob]) -> StoredLayer:
    return StoredLayer(
        name,
        kind,
        tuple(blob.array for blob in blobs.values()),
        any(blob.legacy for blob in blobs.values()),
        tuple(blobs),
    )


def _encode_layer(
    layer: pb.LayerParameter,
    blobs: Sequence[npt.NDArray[Any]],
    diffs: Sequence[npt.NDArray[Any]] | None,
) -> list[Chunk]:
    # Caffe's serializer writes fields by number, so the blobs stand between these two.
    before, after = pb.LayerParameter(), pb.LayerParameter()
    before.CopyFrom(layer)
    after.CopyFrom(layer)
    for field, _ in layer.ListFields():
        (before if field.number >= _LAYER_BLOBS else after).ClearField(field.name)
    after.ClearField("blobs")
    chunks: list[Chunk] = [serialized(before)]
    beside = [None] * len(blobs) if diffs is None else diffs
    for blob, diff in zip(blobs, beside, strict=True):
        chunks += message_field(_LAYER_BLOBS, encode_blob(blob, diff))
    return [*chunks, serialized(after)]


def _read_hdf5(path: str | Path, names: Collection[str]) -> Iterator[StoredLayer]:
    with opened_hdf5(path, "caffemodel", WeightsError) as file:
        data = member(file, "data") if "data" in file else None
        if not is_group(data):
            raise WeightsError(
                f"{path}: no group /data, so not a caffemodel; it has: {', '.join(file) or 'none'}"
            )
        yield from _hdf5_layers(data, "", names, set())


def _hdf5_layers(
    group: Any, name: str, names: Collection[str], seen: set[Any]
) -> Iterator[StoredLayer]:
    """The layer that a group is, if it is one, and those below it; `seen` are groups so far."""
    if group.id in seen:
        raise ValueError(f"two ways lead to the group {group.name}; Caffe writes no such files")
    seen.add(group.id)
    members = {key: member(group, key) for key in group}
    below = {key: one for key, one in members.items() if is_group(one)}
    stored = {_position(group, key): one for key, one in members.items() if key not in below}
    if name and (stored or not below or name in names):
        blobs = {
            index: Blob(numbers(stored[index], WeightsError), legacy=False)
            for index in sorted(stored)
        }
        yield _stored_layer(name, "", blobs)
    for key, one in below.items():
        yield from _hdf5_layers(one, f"{name}/{key}" if name else key, names, seen)


def _position(group: Any, key: str) -> int:
    """The place of the blob that a dataset is, from its name."""
    if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise ValueError(f"{group.name} has a dataset {key!r}, which is no blob's number")
    return int(key)


def _write_hdf5(
    partial: Path,
    path: str | Path,
    net: pb.NetParameter,
    blobs: Blobs,
    diffs: Blobs | None,
    keys: Sequence[str],
) -> None:
    slashed = [layer.name for layer in net.layer if "/" in layer.name]
    if slashed:
        log.warning(
            "%s: layer names with '/' (%s …) become nested groups, which Caffe cannot read; "
            "snapshot_format: BINARYPROTO has no such limit",
            path,
            slashed[0],
        )
    shared = _shared_blobs(net)
    with filled_hdf5(partial, path) as file:
        data = file.create_group("data")
        diff = None if diffs is None else file.create_group("diff")
        for layer, key in zip(net.layer, keys, strict=True):
            own = {
                index: blob
                for index, blob in enumerate(blobs.get(key, ()))
                if (layer.name, index) not in shared
            }
            _write_group(path, data, layer.name, own)
            if diff is not None and diffs is not None:
                _write_group(path, diff, layer.name, dict(enumerate(diffs.get(key, ()))))


def _write_group(
    path: str | Path, parent: Any, name: str, blobs: Mapping[int, npt.NDArray[Any]]
) -> None:
    parts = name.split("/")
    if "" in parts or "." in parts or not is_utf8(name):
        raise WeightsError(f'{path}: HDF5 cannot hold a layer named "{name}"; write a .caffemodel')
    arrays = {str(index): np.asarray(blob, dtype="<f4") for index, blob in blobs.items()}
    try:
        group = parent.require_group(name)
        for key, array in arrays.items():
            group.create_dataset(key, data=array)
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f'{path}: the layer name "{name}" meets a blob or layer of the same name in HDF5; '
            "write a .caffemodel"
        ) from error


def _shared_blobs(net: pb.NetParameter) -> set[tuple[str, int]]:
    """The blobs, by layer and index, that an earlier layer owns under the same `param` name."""
    owned: set[str] = set()
    shared: set[tuple[str, int]] = set()
    for layer in net.layer:
        for index, param in enumerate(layer.param):
            if param.name and param.name in owned:
                shared.add((layer.name, index))
            elif param.name:
                owned.add(param.name)
    return shared
