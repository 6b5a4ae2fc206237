"""Fields of PriorBox, DetectionOutput, MultiBoxLoss and DetectionEvaluate, by `naive_boxes`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import naive_boxes as naive
import numpy as np
import torch
from field_checks import shows
from field_rows import Row, net_text
from oracle import Array

from converters.errors import CaffeError
from converters.layers.fields import honoured
from converters.layers.registry import LAYERS
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice
from converters.prototxt.text import parse_net
from fork_fields import Refused

MAP, IMAGE = (1, 2, 3, 4), (1, 3, 30, 50)


def prior_row(fields: str, settings: str, sizes: list[tuple[float, float]], **given: object) -> Row:
    return Row(
        "PriorBox",
        fields,
        f"prior_box_param {{ {settings} }}",
        (MAP, IMAGE),
        lambda b, w: [naive.priors(3, 4, sizes, **given)],  # type: ignore[arg-type]
    )


ROOT = np.sqrt
ROWS = [
    prior_row("min_size variance offset", "min_size: 8.7 variance: 0.3 offset: 0.25", [(8, 8)],
              variance=[0.3], offset=0.25),
    prior_row("max_size", "min_size: 8 max_size: 12.9", [(8, 8), (ROOT(96), ROOT(96))]),
    prior_row("aspect_ratio flip", "min_size: 8 aspect_ratio: 4 aspect_ratio: 1 flip: false",
              [(8, 8), (16, 4)]),
    prior_row("aspect_ratio", "min_size: 8 aspect_ratio: 4 aspect_ratio: 0.25",
              [(8, 8), (16, 4), (4, 16)]),
    prior_row("clip", "min_size: 24 clip: true", [(24, 24)], clip=True),
    prior_row("img_size", "min_size: 8 img_size: 60", [(8, 8)], image=(60, 60)),
    prior_row("img_h img_w", "min_size: 8 img_h: 60 img_w: 80", [(8, 8)], image=(60, 80)),
    prior_row("step", "min_size: 8 step: 9", [(8, 8)], step=(9, 9)),
    prior_row("step_h step_w", "min_size: 8 step_h: 9 step_w: 7", [(8, 8)], step=(9, 7)),
]  # fmt: skip
_OUT = "detection_output_param"
_LOSS = "multibox_loss_param"
_SHAPES = ((1, 8), (1, 4), (1, 2, 8))
REFUSED = {
    ("DetectionOutput", f"{_OUT}.objectness_score"): Refused(
        f"{_OUT} {{ num_classes: 2 objectness_score: 0.1 }}", _SHAPES, "RefineDet"
    ),
    ("MultiBoxLoss", f"{_LOSS}.objectness_score"): Refused(
        f"{_LOSS} {{ num_classes: 2 objectness_score: 0.1 }}",
        (*_SHAPES, (1, 1, 1, 8)),
        "RefineDet",
    ),
}


# Nets of boxes -----------------------------------------------------------------------------------


def net_of(kind: str, settings: str, inputs: list[Array], phase: str = "TRAIN") -> CaffeNet:
    text = net_text(kind, settings, [x.shape for x in inputs])
    return build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"), phase)).double()


def run(kind: str, settings: str, inputs: list[Array]) -> Array:
    feed = {f"b{index}": torch.from_numpy(x) for index, x in enumerate(inputs)}
    with torch.no_grad():
        top: torch.Tensor = net_of(kind, settings, inputs)(feed, blobs=["t0"])["t0"]
    return top.numpy()


# DetectionOutput ---------------------------------------------------------------------------------

Given = dict[str, object]
SUPPRESSION = ("nms_threshold", "eta", "top_k")
DETECTIONS: list[Given] = [
    {},
    {"keep_top_k": 6},
    {"keep_top_k": 0},
    {"keep_top_k": 6, "top_k": 1, "confidence_threshold": 0.3},
    {"top_k": 3, "nms_threshold": 0.7},
    {"eta": 0.8, "nms_threshold": 0.9},
    {"share_location": False, "code_type": "CENTER_SIZE", "background_label_id": 2},
    {"code_type": "CORNER_SIZE", "variance_encoded_in_target": True},
    {"code_type": "CENTER_SIZE", "variance_encoded_in_target": True, "keep_top_k": 9},
    {"background_label_id": -1, "confidence_threshold": 0.8},
    {"confidence_threshold": 2.0},
]


def detection_settings(given: Given) -> str:
    inner = " ".join(f"{name}: {given[name]}" for name in SUPPRESSION if name in given)
    rest = " ".join(
        f"{name}: {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in given.items()
        if name not in SUPPRESSION
    )
    return f"{_OUT} {{ num_classes: 4 nms_param {{ {inner} }} {rest} }}"


def needed(cases: list[Given], run_case: Callable[[Given], Array]) -> set[str]:
    """The fields without which some case gives something else, or an error."""
    found = set()
    for given in cases:
        for name in given:
            try:
                other = run_case({key: value for key, value in given.items() if key != name})
            except CaffeError:
                found.add(name)
            else:
                if not np.array_equal(other, run_case(given)):
                    found.add(name)
    return found


def run_detections(given: Given) -> Array:
    inputs = naive.predictions(2, 60, 4, bool(given.get("share_location", True)), seed=3)
    return run("DetectionOutput", detection_settings(given), inputs)


@shows(
    "DetectionOutput",
    *(
        f"{_OUT}.{name}"
        for name in ("num_classes", "nms_param", *SUPPRESSION, *(n for g in DETECTIONS for n in g))
        if name not in SUPPRESSION
    ),
)
def detections_by_loops(folder: Path) -> None:
    for given in DETECTIONS:
        inputs = naive.predictions(2, 60, 4, bool(given.get("share_location", True)), seed=3)
        wanted = naive.detections(inputs, 4, **given)  # type: ignore[arg-type]
        np.testing.assert_allclose(run_detections(given), wanted, rtol=1e-9)
    assert needed(DETECTIONS, run_detections) == {name for given in DETECTIONS for name in given}


# MultiBoxLoss ------------------------------------------------------------------------------------

LOSSES: list[Given] = [
    {},
    {"mining_type": "NONE", "loc_weight": 2.5},
    {"neg_pos_ratio": 1.4, "neg_overlap": 0.3, "do_neg_mining": True},
    {"match_type": "BIPARTITE", "loc_loss_type": "L2", "overlap_threshold": 0.3},
    {"conf_loss_type": "LOGISTIC"},
    {"conf_loss_type": "LOGISTIC", "mining_type": "NONE"},
    {"conf_loss_type": "LOGISTIC", "background_label_id": 3},
    {"overlap_threshold": 0.3, "code_type": "CENTER_SIZE"},
    {"code_type": "CORNER_SIZE", "encode_variance_in_target": True},
    {"use_prior_for_matching": False, "code_type": "CENTER_SIZE"},
    {"use_difficult_gt": False},
    {"share_location": False, "mining_type": "NONE"},
    {"share_location": False, "mining_type": "NONE", "use_prior_for_matching": False},
    {
        "share_location": False,
        "mining_type": "NONE",
        "use_prior_for_matching": False,
        "conf_loss_type": "LOGISTIC",
    },
    {"mining_type": "HARD_EXAMPLE", "sample_size": 7},
    {"mining_type": "HARD_EXAMPLE", "loc_loss_type": "L2", "sample_size": 12},
    {"mining_type": "HARD_EXAMPLE", "nms_threshold": 0.4, "top_k": 20},
    {
        "mining_type": "HARD_EXAMPLE",
        "nms_threshold": 0.4,
        "top_k": 20,
        "use_prior_for_nms": True,
        "sample_size": 9,
    },
    {"nms_threshold": 0.3, "top_k": 30, "code_type": "CENTER_SIZE"},
    {"nms_threshold": 0.3},
    {"bp_inside": True, "overlap_threshold": 0.15},
    {"bp_inside": True, "use_prior_for_matching": False},
    {"ignore_cross_boundary_bbox": True},
    {"map_object_to_agnostic": True, "num_classes": 2},
    {"normalization": "FULL"},
    {"normalization": "NONE"},
    {"normalize": False},
]


def loss_settings(given: Given) -> str:
    def written(names: list[str]) -> str:
        return " ".join(
            f"{name}: {str(value).lower() if isinstance(value, bool) else value}"
            for name, value in given.items()
            if name in names
        )

    apart = ["nms_threshold", "top_k", "normalization", "normalize"]
    rest = written([name for name in given if name not in apart])
    nms = written(apart[:2])
    nms = f"nms_param {{ {nms} }}" if nms else ""
    classes = "" if "num_classes" in given else "num_classes: 4"
    return f"{_LOSS} {{ {classes} {rest} {nms} }} loss_param {{ {written(apart[2:])} }}"


def loss_inputs(given: Given) -> list[Array]:
    shared, classes = bool(given.get("share_location", True)), int(str(given.get("num_classes", 4)))
    inputs = naive.predictions(3, 40, classes, shared, seed=5, logits=True)
    background = int(str(given.get("background_label_id", 0)))
    labels = 4 if "map_object_to_agnostic" in given else classes
    return [*inputs, naive.truth(labels, background, seed=7)]


def run_loss(given: Given) -> Array:
    return run("MultiBoxLoss", loss_settings(given), loss_inputs(given))


@shows(
    "MultiBoxLoss",
    *(path for path in honoured(LAYERS["MultiBoxLoss"]) if path.startswith(_LOSS)),
    "loss_param.normalization",
    "loss_param.normalize",
)
def losses_by_loops(folder: Path) -> None:
    for given in LOSSES:
        wanted = naive.loss(loss_inputs(given), **{"num_classes": 4} | given)  # type: ignore[arg-type]
        np.testing.assert_allclose(run_loss(given), wanted, rtol=1e-9, err_msg=str(given))
    # The deprecated field may only agree with the other one: `test_ssd` has the error.
    wanted_names = {name for given in LOSSES for name in given} - {"do_neg_mining"}
    assert needed(LOSSES, run_loss) == wanted_names


# DetectionEvaluate -------------------------------------------------------------------------------

_EVALUATE = "detection_evaluate_param"
EVALUATIONS: list[tuple[str, Given]] = [
    ("", {}),
    ("overlap_threshold: 0.2", {"threshold": 0.2}),
    ("evaluate_difficult_gt: false", {"difficult": False}),
    ("background_label_id: 3", {"background": 3}),
    ('name_size_file: "SIZES"', {"sizes": True}),
    ('name_size_file: "SIZES" resize_param { height: 30 width: 30 }', {"sizes": True}),
    (
        'name_size_file: "SIZES" resize_param { height: 30 width: 20 '
        "resize_mode: FIT_LARGE_SIZE_AND_PAD }",
        {"sizes": True, "pad": (30, 20)},
    ),
    (
        'name_size_file: "SIZES" resize_param { height: 30 width: 20 height_scale: 9 '
        "width_scale: 7 resize_mode: FIT_SMALL_SIZE }",
        {"sizes": True, "scale": (9, 7)},
    ),
]


@shows("DetectionOutput", f"{_OUT}.save_output_param")
def results_are_written(folder: Path) -> None:
    """One image, one file; `test_ssd` has the forms."""
    (folder / "map").write_text('item { name: "thing" label: 1 }')
    (folder / "sizes").write_text("image 10 20\n")
    saved = (
        f'output_directory: "{folder}/out" output_format: "ILSVRC" label_map_file: "{folder}/map" '
        f'name_size_file: "{folder}/sizes" output_name_prefix: "all"'
    )
    settings = f"{_OUT} {{ num_classes: 2 save_output_param {{ {saved} }} }}"
    priors = np.array([[[0.5, 0.5, 1, 1], [1, 1, 1, 1]]])
    run("DetectionOutput", settings, [np.zeros((1, 4)), np.array([[0, 0.5]]), priors])
    assert (folder / "out" / "all.txt").read_text() == "image 1 0.5 10 5 20 10\n"


@shows("DetectionEvaluate", *honoured(LAYERS["DetectionEvaluate"]))
def evaluations_by_loops(folder: Path) -> None:
    sizes = [(12, 30), (40, 10), (25, 25), (9, 9), (31, 17)]
    lines = "".join(f"image{n} {h} {w}\n" for n, (h, w) in enumerate(sizes))
    (folder / "sizes.txt").write_text(lines)
    for settings, given in EVALUATIONS:
        background = int(str(given.get("background", 0)))
        det, truth = naive.found_and_true(4, background, seed=11)
        settings = settings.replace("SIZES", str(folder / "sizes.txt"))
        settings = f"{_EVALUATE} {{ num_classes: 4 {settings} }}"
        net = net_of("DetectionEvaluate", settings, [det, truth])
        known = dict(given)
        if known.pop("sizes", False):
            known["sizes"] = list(sizes)
        images = len({int(image) for image in det[0, 0, :, 0]} - {-1})
        for turn in range(3):
            if "sizes" in known:
                known["first_line"] = turn * images
            found = net({"b0": torch.from_numpy(det), "b1": torch.from_numpy(truth)})["t0"]
            wanted = naive.evaluation(det, truth, 4, **known)  # type: ignore[arg-type]
            np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, err_msg=settings)
