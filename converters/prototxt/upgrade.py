"""Old nets and solvers brought to today's form, in the order and with the results of Caffe.

Three generations of nets exist: V0 (`layers { layer { type: "conv" … } }`), V1 (`layers { type:
CONVOLUTION … }`) and V2 (`layer { type: "Convolution" … }`). `converters.prototxt.text` upgrades
what it reads, `python -m converters upgrade` writes the result. Source: Caffe
util/upgrade_proto.cpp.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from google.protobuf.message import Message

from converters.errors import PrototxtError
from converters.layers import LAYERS
from converters.proto import caffe_pb2 as pb
from converters.proto.legacy import PADDING, V0_TYPES, V1_TYPES
from converters.prototxt.alignment import align_crops

log = logging.getLogger(__name__)


class V0Field(NamedTuple):
    """Where a V0 field went: its new name, and the V0 types whose settings take it."""

    name: str
    types: tuple[str, ...]


V0_FIELDS = {
    "num_output": V0Field("num_output", ("conv", "innerproduct")),
    "biasterm": V0Field("bias_term", ("conv", "innerproduct")),
    "weight_filler": V0Field("weight_filler", ("conv", "innerproduct")),
    "bias_filler": V0Field("bias_filler", ("conv", "innerproduct")),
    "pad": V0Field("pad", ("conv", "pool")),
    "kernelsize": V0Field("kernel_size", ("conv", "pool")),
    "group": V0Field("group", ("conv",)),
    "stride": V0Field("stride", ("conv", "pool")),
    "pool": V0Field("pool", ("pool",)),
    "dropout_ratio": V0Field("dropout_ratio", ("dropout",)),
    "local_size": V0Field("local_size", ("lrn",)),
    "alpha": V0Field("alpha", ("lrn",)),
    "beta": V0Field("beta", ("lrn",)),
    "k": V0Field("k", ("lrn",)),
    "source": V0Field("source", ("data", "hdf5_data", "images", "window_data", "infogain_loss")),
    "batchsize": V0Field("batch_size", ("data", "hdf5_data", "images", "window_data")),
    "rand_skip": V0Field("rand_skip", ("data", "images")),
    "shuffle_images": V0Field("shuffle", ("images",)),
    "new_height": V0Field("new_height", ("images",)),
    "new_width": V0Field("new_width", ("images",)),
    "concat_dim": V0Field("concat_dim", ("concat",)),
    "det_fg_threshold": V0Field("fg_threshold", ("window_data",)),
    "det_bg_threshold": V0Field("bg_threshold", ("window_data",)),
    "det_fg_fraction": V0Field("fg_fraction", ("window_data",)),
    "det_context_pad": V0Field("context_pad", ("window_data",)),
    "det_crop_mode": V0Field("crop_mode", ("window_data",)),
}
# These went to `transform_param`, whatever the layer's type.
V0_TRANSFORM_FIELDS = {
    "scale": "scale",
    "meanfile": "mean_file",
    "cropsize": "crop_size",
    "mirror": "mirror",
}
V0_COPIED = ("name", "blobs", "blobs_lr", "weight_decay")

# V1 data layers whose transformation once stood among their own settings.
TRANSFORMING = {
    pb.V1LayerParameter.DATA: "data_param",
    pb.V1LayerParameter.IMAGE_DATA: "image_data_param",
    pb.V1LayerParameter.WINDOW_DATA: "window_data_param",
}
TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")

# V1 per-blob lists -> the ParamSpec field that takes each entry, in the order Caffe applies them.
V1_PARAM_FIELDS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}
V1_COPIED = ("bottom", "top", "name", "include", "exclude", "blobs", "loss_weight")

SOLVER_TYPES = {
    pb.SolverParameter.SGD: "SGD",
    pb.SolverParameter.NESTEROV: "Nesterov",
    pb.SolverParameter.ADAGRAD: "AdaGrad",
    pb.SolverParameter.RMSPROP: "RMSProp",
    pb.SolverParameter.ADADELTA: "AdaDelta",
    pb.SolverParameter.ADAM: "Adam",
}


def upgrade_net(net: pb.NetParameter, source: str) -> pb.NetParameter:
    """A copy of `net` in today's form; `source` names the file in errors.

    Raises:
        PrototxtError: what Caffe refuses to upgrade (both `layer` and `layers`, an unknown old
            type, a misplaced padding layer, inputs without their shapes).
    """
    if net.layers and net.layer:
        raise PrototxtError(
            f"{source}: has both 'layer' ({net.layer[0].name!r}) and 'layers' "
            f"({_v1_name(net.layers[0])!r}); write all of them as 'layer'"
        )
    upgraded = pb.NetParameter()
    upgraded.CopyFrom(net)
    if any(layer.HasField("layer") for layer in net.layers):
        upgraded = _upgrade_v0(upgraded, source)
    _move_transforms(upgraded)
    _upgrade_v1(upgraded, source)
    _upgrade_inputs(upgraded, source)
    for layer in upgraded.layer:
        if layer.type in LAYERS:
            LAYERS[layer.type].upgrade(layer)
    return upgraded


def upgrade_solver(solver: pb.SolverParameter, source: str) -> pb.SolverParameter:
    """A copy of `solver` with the old `solver_type` enum written as `type`.

    Raises:
        PrototxtError: both are given.
    """
    upgraded = pb.SolverParameter()
    upgraded.CopyFrom(solver)
    if not solver.HasField("solver_type") or solver.solver_type not in SOLVER_TYPES:
        # A fork's type stays, for the solver to refuse.
        return upgraded
    old = SOLVER_TYPES[solver.solver_type]
    if solver.HasField("type"):
        raise PrototxtError(
            f"{source}: has both type: {solver.type!r} and the old solver_type: {old.upper()}; "
            "keep 'type' alone"
        )
    upgraded.type = old
    upgraded.ClearField("solver_type")
    return upgraded


def _upgrade_v0(net: pb.NetParameter, source: str) -> pb.NetParameter:
    upgraded = pb.NetParameter()
    # Caffe carries over these fields of a V0 net and no others.
    for field in ("name", "input", "input_dim", "force_backward"):
        _copy(net, upgraded, field)
    for layer in _fold_padding(net, source):
        _upgrade_v0_layer(layer, upgraded.layers.add(), source)
    return upgraded


def _fold_padding(net: pb.NetParameter, source: str) -> list[pb.V1LayerParameter]:
    """The layers without the V0 "padding" ones, whose pad goes to the layer that reads them."""
    kept: list[pb.V1LayerParameter] = []
    producer: dict[str, pb.V1LayerParameter | None] = dict.fromkeys(net.input)
    for layer in net.layers:
        changed = pb.V1LayerParameter()
        changed.CopyFrom(layer)
        if layer.layer.type != PADDING:
            kept.append(changed)
        for index, blob in enumerate(layer.bottom):
            place = f'{source}: layer "{_v1_name(layer)}": bottom "{blob}"'
            if blob not in producer:
                known = ", ".join(producer) or "none"
                raise PrototxtError(f"{place} is not a blob of an earlier layer ({known})")
            padding = producer[blob]
            if padding is None or padding.layer.type != PADDING:
                continue
            if layer.layer.type not in ("conv", "pool"):
                raise PrototxtError(
                    f"{place} comes from a padding layer; only conv and pool can read one, "
                    f"not {layer.layer.type!r}"
                )
            counts = (len(layer.bottom), len(padding.bottom), len(padding.top))
            if counts != (1, 1, 1):
                raise PrototxtError(
                    f'{place}: the layer and its padding layer "{_v1_name(padding)}" must have one '
                    f"bottom each and the padding layer one top, not {counts}"
                )
            changed.layer.pad = padding.layer.pad
            changed.bottom[index] = padding.bottom[0]
        producer.update(dict.fromkeys(layer.top, layer))
    return kept


def _upgrade_v0_layer(old: pb.V1LayerParameter, new: pb.V1LayerParameter, source: str) -> None:
    _copy(old, new, "bottom")
    _copy(old, new, "top")
    if not old.HasField("layer"):
        return
    layer = old.layer
    place = f'{source}: layer "{layer.name}"'
    settings = ""
    for field in V0_COPIED:
        _copy(layer, new, field)
    if layer.HasField("type"):
        if layer.type not in V0_TYPES:
            raise PrototxtError(
                f"{place}: unknown V0 type {layer.type!r}; known: {', '.join(sorted(V0_TYPES))}"
            )
        kind = pb.V1LayerParameter.LayerType.Value(V0_TYPES[layer.type].v1)
        new.type = kind  # type: ignore[assignment]
        settings = V0_TYPES[layer.type].settings
    for field, name in V0_TRANSFORM_FIELDS.items():
        _copy(layer, new.transform_param, field, name)
    for field, moved in V0_FIELDS.items():
        if not layer.HasField(field):
            continue
        if layer.type in moved.types:
            _copy(layer, getattr(new, settings), field, moved.name)
        else:
            # Caffe drops it too, and goes on.
            log.warning("%s: %s means nothing for type %r, ignored", place, field, layer.type)
    if layer.HasField("hdf5_output_param"):
        if layer.type == "hdf5_output":
            new.hdf5_output_param.CopyFrom(layer.hdf5_output_param)
        else:
            log.warning("%s: hdf5_output_param is not for type %r, ignored", place, layer.type)


def _move_transforms(net: pb.NetParameter) -> None:
    moving = [layer for layer in net.layers if layer.type in TRANSFORMING]
    settings: list[Any] = [getattr(layer, TRANSFORMING[layer.type]) for layer in moving]
    if not any(old.HasField(field) for old in settings for field in TRANSFORM_FIELDS):
        return
    for layer, old in zip(moving, settings, strict=True):
        # Once one layer needs it, Caffe leaves both messages present in every such layer.
        old.SetInParent()
        layer.transform_param.SetInParent()
        for field in TRANSFORM_FIELDS:
            _copy(old, layer.transform_param, field)
            old.ClearField(field)


def _upgrade_v1(net: pb.NetParameter, source: str) -> None:
    crops = [i for i, old in enumerate(net.layers) if old.type == pb.V1LayerParameter.CROP]
    for old in net.layers:
        new = net.layer.add()
        for field in V1_COPIED:
            _copy(old, new, field)
        if old.HasField("type"):
            new.type = V1_TYPES[pb.V1LayerParameter.LayerType.Name(old.type)]
        for field, name in V1_PARAM_FIELDS.items():
            for index, value in enumerate(getattr(old, field)):
                while len(new.param) <= index:
                    new.param.add()
                setattr(new.param[index], name, value)
        for descriptor, _ in old.ListFields():
            if descriptor.name.endswith("_param"):
                _copy(old, new, descriptor.name)
    del net.layers[:]
    align_crops(net.layer, crops, source)


def _upgrade_inputs(net: pb.NetParameter, source: str) -> None:
    if not net.input:
        return
    # A list of inputs without any shape is an old caffemodel's: only the names go.
    if net.input_shape or net.input_dim:
        inputs = pb.LayerParameter(name="input", type="Input", top=net.input)
        if net.input_shape:
            shapes = list(net.input_shape)
        else:
            dims = list(net.input_dim)
            shapes = [pb.BlobShape(dim=dims[at : at + 4]) for at in range(0, len(dims) - 3, 4)]
        if len(shapes) < len(net.input):
            raise PrototxtError(
                f"{source}: {len(net.input)} inputs ({', '.join(net.input)}) but "
                f"{len(net.input_shape)} input_shape and {len(net.input_dim)} input_dim; "
                "each input needs one input_shape or four input_dim"
            )
        inputs.input_param.shape.extend(shapes[: len(net.input)])
        layers = [inputs, *net.layer]
        net.ClearField("layer")
        net.layer.extend(layers)
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)


def _v1_name(layer: pb.V1LayerParameter) -> str:
    return layer.layer.name if layer.HasField("layer") else layer.name


def _copy(old: Message, new: Message, field: str, name: str = "") -> None:
    """Copy `field` of `old`, if set, to the field `name` of `new`, which may be repeated."""
    value: Any = getattr(old, field)
    name = name or field
    repeated = hasattr(getattr(new, name), "extend")
    if hasattr(value, "extend"):
        getattr(new, name).extend(value)
    elif not old.HasField(field):
        return
    elif repeated:
        getattr(new, name).append(value)
    elif isinstance(value, Message):
        getattr(new, name).CopyFrom(value)
    else:
        setattr(new, name, value)
