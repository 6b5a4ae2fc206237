"""A detector in the shape of MobileNet-SSD's deploy net: 300×300, 21 classes, 1,917 prior boxes.

Its BatchNorm is folded, as in the published one; depthwise convolutions are convolutions of as many
groups as channels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from bench.nets.builder import NetBuilder
from converters.proto import caffe_pb2 as pb

CLASSES = 21
_MSRA = 'weight_filler { type: "msra" }'
_SURE = 'weight_filler { type: "gaussian" std: 0.4 }'
"""Scores far enough apart that some pass the threshold."""
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Outputs and stride of a depthwise and a pointwise convolution."""
_EXTRA = ((256, 512), (128, 256), (128, 256), (64, 128))
"""Outputs of a 1×1 convolution, and of the 3×3 with stride 2 behind it."""
_SIZES = (60, 105, 150, 195, 240, 285, 300)


class _Source(NamedTuple):
    """A blob with prior boxes, and how many stand at each of its places."""

    blob: str
    boxes: int


def mobilenet_ssd() -> pb.NetParameter:
    """(1, 3, 300, 300) → detections (1, 1, K, 7)."""
    net = NetBuilder("MobileNet-SSD")
    shape = "input_param { shape { dim: 1 dim: 3 dim: 300 dim: 300 } }"
    top = net.layer("Input", "data", settings=shape)
    top = _conv(net, "conv0", top, 32, 3, "stride: 2 pad: 1")
    channels = 32
    sources = []
    for number, (outputs, stride) in enumerate(_BLOCKS, 1):
        settings = f"stride: {stride} pad: 1 group: {channels}"
        top = _conv(net, f"conv{number}/dw", top, channels, 3, settings)
        top = _conv(net, f"conv{number}", top, outputs, 1)
        channels = outputs
        if number == 11:
            sources.append(_Source(top, 3))
    sources.append(_Source(top, 6))
    for number, (narrow, outputs) in enumerate(_EXTRA, 14):
        top = _conv(net, f"conv{number}_1", top, narrow, 1)
        top = _conv(net, f"conv{number}_2", top, outputs, 3, "stride: 2 pad: 1")
        sources.append(_Source(top, 6))
    _detect(net, sources)
    return net.net


def _conv(
    net: NetBuilder, name: str, bottom: str, outputs: int, kernel: int, settings: str = ""
) -> str:
    top = net.conv(name, bottom, outputs, kernel, f"{settings} {_MSRA}")
    return net.relu(f"{name}/relu", top)


def _detect(net: NetBuilder, sources: list[_Source]) -> None:
    parts: dict[str, list[str]] = {"loc": [], "conf": [], "priorbox": []}
    for (blob, boxes), (least, most) in zip(sources, pairwise(_SIZES), strict=True):
        for kind, values, filler in (("loc", 4, _MSRA), ("conf", CLASSES, _SURE)):
            name = f"{blob}_mbox_{kind}"
            top = net.conv(name, blob, boxes * values, 1, filler)
            order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
            top = net.layer("Permute", f"{name}_perm", top, settings=order)
            parts[kind].append(net.layer("Flatten", f"{name}_flat", top))
        ratios = "aspect_ratio: 2" if boxes == 3 else "aspect_ratio: 2 aspect_ratio: 3"
        sizes = f"min_size: {least}" + (f" max_size: {most}" if boxes == 6 else "")
        variances = "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2"
        settings = f"prior_box_param {{ {sizes} {ratios} flip: true clip: false {variances} }}"
        parts["priorbox"].append(
            net.layer("PriorBox", f"{blob}_mbox_priorbox", blob, "data", settings=settings)
        )
    tops = [
        net.layer("Concat", f"mbox_{kind}", *some, settings=f"concat_param {{ axis: {axis} }}")
        for (kind, some), axis in zip(parts.items(), (1, 1, 2), strict=True)
    ]
    shape = f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {CLASSES} }} }}"
    scores = net.layer("Reshape", "mbox_conf_reshape", tops[1], settings=shape)
    scores = net.layer("Softmax", "mbox_conf_softmax", scores, settings="softmax_param { axis: 2 }")
    scores = net.layer("Flatten", "mbox_conf_flatten", scores, settings="flatten_param { axis: 1 }")
    settings = (
        f"detection_output_param {{ num_classes: {CLASSES} share_location: true "
        "background_label_id: 0 code_type: CENTER_SIZE "
        "nms_param { nms_threshold: 0.45 top_k: 100 } keep_top_k: 100 confidence_threshold: 0.25 }"
    )
    net.layer("DetectionOutput", "detection_out", tops[0], scores, tops[2], settings=settings)
