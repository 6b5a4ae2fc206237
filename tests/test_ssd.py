"""SSD: boxes by loops over them, gradients, what a detector's tests come to, files, plateau."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import naive_boxes as naive
import numpy as np
import pytest
import torch
from field_rows import net_text
from fork_fields.detection import net_of
from oracle import Array
from test_bad_input import write_database

from converters.errors import CaffeError
from converters.formats.solverstate import read_solverstate
from converters.layers.forks.arithmetic import boxes
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_net
from gmnet_pt import Solver
from gmnet_pt.log.events import Message, Scores
from gmnet_pt.solver.detection import CURVES, Precisions, average_precision
from gmnet_pt.solver.lr_policy import FLT_MAX, Plateau
from gmnet_pt.solver.solver_file import AVERAGE_PRECISIONS


def drawn(number: int, seed: int = 1) -> Array:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 0.7, (number, 2))
    return np.concatenate([corner, corner + random.uniform(0, 0.3, (number, 2))], 1)


# Boxes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "eta"), [(0.3, 1.0), (0.0, 1.0), (0.9, 0.8), (0.6, 0.95)])
@pytest.mark.parametrize("number", [0, 1, 2, 40, 300])
def test_suppression_by_groups(
    number: int, threshold: float, eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "PAIRS", 5000)
    monkeypatch.setattr(boxes, "BLOCK", 29)
    every = drawn(number)
    every[::7, 2:] = every[::7, :2]  # boxes without area suppress nothing
    groups = np.random.default_rng(2).integers(0, 4, number) ** 2
    wanted = np.zeros(number, bool)
    single = (float(np.float32(value)) for value in (threshold, eta))
    bound, shrink = single
    for group in set(groups.tolist()):
        place = np.flatnonzero(groups == group)
        wanted[place[naive.suppressed(every[place].tolist(), bound, shrink)]] = True
    found = boxes.suppress(torch.from_numpy(every), torch.from_numpy(groups), threshold, eta)
    np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("seed", range(6))
def test_matching_takes_the_first_of_equals(seed: int) -> None:
    random = np.random.default_rng(seed)
    # Corners on a coarse grid: many overlaps are equal.
    low = random.integers(0, 4, (30, 2)) / 8
    candidates = np.concatenate([low, low + random.integers(1, 4, (30, 2)) / 8], 1)
    truth = candidates[random.integers(0, 30, 9)]
    images = np.array([2, 0, 0, 2, 2, 0, 2, 0, 2])
    for threshold in (None, 0.4):
        found = boxes.match(
            *map(torch.from_numpy, (candidates, truth, images)), number=3, threshold=threshold
        )
        for image in range(3):
            mine = np.flatnonzero(images == image)
            matched, near = naive.matches(candidates, truth[mine], threshold)
            wanted = [mine[m] if m >= 0 else m for m in matched]
            assert found.boxes[image].tolist() == wanted
            np.testing.assert_allclose(found.overlaps[image], near, rtol=1e-12)


@pytest.mark.parametrize("code", [boxes.CORNER, boxes.CENTER_SIZE, boxes.CORNER_SIZE])
def test_a_code_and_its_inverse(code: int) -> None:
    name = pb.PriorBoxParameter.CodeType.Name(code)  # type: ignore[arg-type]
    priors, wanted = (drawn(20, seed) + np.array([0, 0, 0.1, 0.1]) for seed in (3, 4))
    values = boxes.encode(torch.from_numpy(wanted), torch.from_numpy(priors), code)
    each = [naive.encode(box, prior, name) for box, prior in zip(wanted, priors)]
    np.testing.assert_allclose(values.numpy(), each, rtol=1e-12, atol=1e-12)
    back = boxes.decode(values, torch.from_numpy(priors), code)
    np.testing.assert_allclose(back.numpy(), wanted, rtol=1e-12, atol=1e-12)


# DetectionOutput ---------------------------------------------------------------------------------


def test_the_best_few_are_enough_only_where_they_are() -> None:
    """One place has all good scores, and what is not suppressed there comes far behind."""
    inputs = naive.predictions(1, 400, 3, True, seed=1)
    inputs[0][:] = 0
    inputs[2][0, 0] = np.tile([0.2, 0.2, 0.4, 0.4], 400)
    inputs[2][0, 0, 4 * 390 :] = np.tile([0.6, 0.6, 0.8, 0.8], 10)
    scores = inputs[1].reshape(400, 3)
    scores[390:] *= 1e-3
    settings = "detection_output_param { num_classes: 3 keep_top_k: 4 confidence_threshold: 1e-9 }"
    net = net_of("DetectionOutput", settings, inputs, "TEST")
    found = net({f"b{n}": torch.from_numpy(x) for n, x in enumerate(inputs)})["t0"]
    assert found.shape == (1, 1, 4, 7)
    wanted = naive.detections(inputs, 3, keep_top_k=4, confidence_threshold=1e-9)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)


def test_equal_scores_are_by_label_and_prior() -> None:
    inputs = [np.zeros((1, 16)), np.full((1, 12), 0.5), np.zeros((1, 2, 16))]
    inputs[2][0, 0] = [0, 0, 0.2, 0.2, 0.3, 0.3, 0.5, 0.5, 0.6, 0.6, 0.8, 0.8, 0.8, 0.8, 1, 1]
    net = net_of(
        "DetectionOutput", "detection_output_param { num_classes: 3 keep_top_k: 5 }", inputs
    )
    rows = net({f"b{n}": torch.from_numpy(x) for n, x in enumerate(inputs)})["t0"][0, 0]
    assert rows[:, 1].tolist() == [1, 1, 1, 1, 2]
    np.testing.assert_allclose(rows[:, 3].tolist(), [0, 0.3, 0.6, 0.8, 0])


SAVED = """save_output_param { output_directory: "out" output_name_prefix: "p_" output_format: "%s"
  label_map_file: "map.prototxt" name_size_file: "sizes.txt" num_test_image: 3 }"""
LABELS = "".join(
    f'item {{ name: "{name}" label: {label} }} '
    for label, name in enumerate(("background", "cat", "12"))
)


@pytest.mark.parametrize("form", ["VOC", "COCO", "ILSVRC"])
def test_detections_are_written(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.prototxt").write_text(LABELS)
    (tmp_path / "sizes.txt").write_text("a 100 200\nb 50 40\nc 80 80\n")
    inputs = [np.zeros((2, 8)), np.zeros((2, 6)), np.zeros((1, 2, 8))]
    inputs[2][0, 0] = [-0.1, 0.1, 0.5, 0.5, 0.6, 0.25, 0.9, 0.7509]
    inputs[1][:] = [[0, 0.75, 0, 0, 0, 0.5], [0, 0, 0.25, 0, 0, 0]]
    settings = f"num_classes: 3 confidence_threshold: 0.1 {SAVED % form}"
    net = net_of("DetectionOutput", f"detection_output_param {{ {settings} }}", inputs, "TEST")
    feed = {f"b{n}": torch.from_numpy(x) for n, x in enumerate(inputs)}
    out = tmp_path / "out"
    net(feed)
    assert not out.exists()
    net(feed)  # image c, and a of the next turn
    # Of a: cat at (0, 10, 100, 50), 12 at (120, 25, 180, 75.09); of b: 12 at (0, 5, 20, 25).
    if form == "VOC":
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "p_12.txt",
            "p_cat.txt",
        ]
        assert (
            tmp_path / "out" / "p_cat.txt"
        ).read_text() == "a 0.75 0 10 100 50\nc 0.75 0 8 40 40\n"
        lines = (tmp_path / "out" / "p_12.txt").read_text()
        assert lines == "a 0.5 120 25 180 75\nb 0.25 0 5 20 25\nc 0.5 48 20 72 60\n"
    elif form == "ILSVRC":
        lines = (out / "p_.txt").read_text().splitlines()
        assert lines[:3] == ["a 1 0.75 0 10 100 50", "a 2 0.5 120 25 180 75", "b 2 0.25 0 5 20 25"]
        assert len(lines) == 5
    else:
        found = json.loads((tmp_path / "out" / "p_.json").read_text())
        assert [(one["image_id"], one["category_id"]) for one in found[:2]] == [
            ("a", "cat"),
            ("a", 12),
        ]
        assert found[1]["bbox"] == [120, 25, 60, 50.09]
        assert found[1]["score"] == 0.5


def test_nothing_is_written_where_a_net_may_not_write(tmp_path: Path) -> None:
    """Nor read: published nets name files of their authors' machines."""
    text = net_text(
        "DetectionOutput",
        f"detection_output_param {{ num_classes: 3 {SAVED % 'VOC'} }}",
        ((1, 8), (1, 6), (1, 2, 8)),
    )
    choice = NetChoice("net.prototxt", parse_net(text, "net.prototxt"), "TEST", may_write=False)
    feed = {"b0": torch.zeros(1, 8), "b1": torch.zeros(1, 6), "b2": torch.rand(1, 2, 8)}
    feed["b2"][0, 0, 2::4] += 1
    feed["b2"][0, 0, 3::4] += 1
    assert build_net(choice)(feed)["t0"].shape[3] == 7
    with pytest.raises(CaffeError, match=r"map\.prototxt: cannot be read"):
        build_net(dataclasses.replace(choice, may_write=True))(feed)


# MultiBoxLoss ------------------------------------------------------------------------------------


def loss_net(settings: str, inputs: list[Array], more: str = "") -> CaffeNet:
    shapes = [x.shape for x in inputs]
    text = net_text(
        "MultiBoxLoss", f"multibox_loss_param {{ num_classes: 4 {settings} }} {more}", shapes
    )
    text = f"force_backward: true {text}"
    return build_net(NetChoice("net.prototxt", parse_net(text, "net.prototxt"), "TRAIN")).double()


def gradients(net: CaffeNet, inputs: list[Array]) -> tuple[float, Array, Array]:
    feed = {
        f"b{n}": torch.from_numpy(x).clone().requires_grad_(n < 2) for n, x in enumerate(inputs)
    }
    total, _ = net.loss(feed)
    if total.requires_grad:
        total.backward()
    both = (feed[name].grad for name in ("b0", "b1"))
    where, scores = (np.zeros(x.shape) if g is None else g.numpy() for x, g in zip(inputs, both))
    return float(total.detach()), where, scores


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"code_type": "CENTER_SIZE", "loc_weight": 2.0, "conf_loss_type": "LOGISTIC"},
        {"mining_type": "HARD_EXAMPLE", "sample_size": 9, "loc_loss_type": "L2"},
        {"mining_type": "NONE", "share_location": False},
        {"bp_inside": True, "overlap_threshold": 0.2},
    ],
    ids=str,
)
def test_gradients_are_differences_of_the_loss(given: dict[str, object]) -> None:
    """Central differences of the loss by loops."""
    shared = bool(given.get("share_location", True))
    inputs = naive.predictions(3, 12, 4, shared, seed=8, logits=True)
    inputs.append(naive.truth(4, 0, seed=7))
    settings = " ".join(
        f"{k}: {str(v).lower() if v in (True, False) else v}" for k, v in given.items()
    )
    _, *found = gradients(loss_net(settings, inputs), inputs)
    for which, gradient in enumerate(found):
        for place in np.random.default_rng(1).choice(gradient.size, 60, replace=False):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [x.copy() for x in inputs]
                moved[which].flat[place] += step
                ends.append(naive.loss(moved, num_classes=4, **given))  # type: ignore[arg-type]
            assert gradient.flat[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)
        assert abs(gradient).max() > 0


def test_the_variance_in_the_target_does_not_divide_the_gradient() -> None:
    """As in the fork, whose loss it divides."""
    inputs = naive.predictions(3, 12, 4, True, seed=8, logits=True)
    inputs.append(naive.truth(4, 0, seed=7))
    small = [inputs[0] * 0.01, *inputs[1:]]
    variances = np.tile(inputs[2][0, 1], (3, 1))
    net = loss_net("loc_loss_type: L2 encode_variance_in_target: true", small)
    _, found, _ = gradients(net, small)
    step, place = 1e-6, np.flatnonzero(found)[0]
    ends = []
    for sign in (1, -1):
        moved = [x.copy() for x in small]
        moved[0].flat[place] += sign * step
        ends.append(
            naive.loss(moved, num_classes=4, loc_loss_type="L2", encode_variance_in_target=True)
        )
    true = (ends[0] - ends[1]) / (2 * step)
    assert found.flat[place] == pytest.approx(true * variances.flat[place], rel=1e-5)


@pytest.mark.parametrize("mining", ["MAX_NEGATIVE", "HARD_EXAMPLE", "NONE"])
def test_a_batch_without_boxes(mining: str) -> None:
    """No negatives are mined from it; without mining all scores count as background."""
    inputs = naive.predictions(2, 10, 4, True, seed=2, logits=True)
    inputs.append(np.full((1, 1, 1, 8), -1.0))
    value, where, scores = gradients(loss_net(f"mining_type: {mining}", inputs), inputs)
    assert not where.any()
    assert (value > 0) == scores.any() == (mining == "NONE")
    assert value == pytest.approx(naive.loss(inputs, num_classes=4, mining_type=mining))


def test_a_part_that_is_not_propagated_is_no_part_of_the_loss() -> None:
    inputs = naive.predictions(3, 12, 4, True, seed=8, logits=True)
    inputs.append(naive.truth(4, 0, seed=7))
    whole, *_ = gradients(loss_net("", inputs), inputs)
    values = []
    for first, second in (("true", "false"), ("false", "true")):
        downs = f"propagate_down: {first} propagate_down: {second} " + "propagate_down: false " * 2
        value, where, scores = gradients(loss_net("", inputs, downs), inputs)
        assert (where.any(), scores.any()) == (first == "true", second == "true")
        values.append(value)
    assert min(values) > 0
    assert sum(values) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("settings", "label", "says"),
    [
        ("do_neg_mining: false", 1, "do_neg_mining false contradicts mining_type MAX_NEGATIVE"),
        ("share_location: false", 1, "mining needs share_location: true"),
        ("background_label_id: 4", 1, "background_label_id 4 must be one of the 4 classes"),
        ("map_object_to_agnostic: true", 1, "map_object_to_agnostic needs num_classes 2, not 4"),
        ("mining_type: HARD_EXAMPLE sample_size: 0", 1, "sample_size 0 must be positive"),
        ("", 0, "has a box with label 0, which is the background"),
        ("", 4, "label 4 .* is not among the 4 classes: 0 to 3"),
    ],
)
def test_what_a_loss_refuses(settings: str, label: int, says: str) -> None:
    shared = "share_location: false" not in settings
    inputs = naive.predictions(1, 6, 4, shared, seed=2, logits=True)
    inputs.append(np.array([[[[0, label, 0, 0.2, 0.2, 0.5, 0.5, 0]]]], float))
    with pytest.raises(CaffeError, match=says) as raised:
        gradients(loss_net(settings, inputs), inputs)
    assert str(raised.value).startswith('net.prototxt: layer "layer" (MultiBoxLoss): ')


# Average precision -------------------------------------------------------------------------------


def naive_precision(scores: Array, true: Array, count: int, version: str) -> float:
    order = sorted(range(len(scores)), key=lambda n: -scores[n])
    hits, precision, recall = 0, [], []
    for place, n in enumerate(order):
        hits += int(true[n])
        precision.append(hits / (place + 1))
        recall.append(float(np.float32(hits / count)))
    if version == "11point":
        return (
            sum(
                max([p for p, r in zip(precision, recall) if r >= tenth / 10], default=0)
                for tenth in range(11)
            )
            / 11
        )
    total, before = 0.0, 0.0
    for place, value in enumerate(recall):
        at = max(0, place - 1) if version == "MaxIntegral" else place
        best = max(precision[at:]) if version == "MaxIntegral" else precision[place]
        total += best * (value - before)
        before = value
    return total


@pytest.mark.parametrize("version", AVERAGE_PRECISIONS)
def test_average_precision(version: str) -> None:
    assert list(CURVES) == list(AVERAGE_PRECISIONS)
    random = np.random.default_rng(1)
    for number in (1, 2, 5, 40):
        for share in (0.0, 0.3, 0.7, 1.0):
            scores = random.integers(0, 9, number) / 10  # ties too
            true = (random.random(number) < share).astype(float)
            count = int(true.sum()) + 3
            found = average_precision(scores, true, count, version)
            assert found == pytest.approx(naive_precision(scores, true, count, version), abs=1e-6)
    assert average_precision(np.zeros(0), np.zeros(0), 3, version) == 0
    assert average_precision(np.ones(2), np.zeros(2), 0, version) == 0
    with pytest.raises(ValueError, match="2 detections are true of 1 boxes"):
        average_precision(np.ones(2), np.ones(2), 1, version)


TRAINED = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.01 } data_param { source: "db" batch_size: 4 backend: LMDB } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" include { phase: TRAIN }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss"
  include { phase: TRAIN } }
"""
EVALUATED = """
layer { name: "det" type: "DummyData" top: "det" include { phase: TEST }
  dummy_data_param { shape { dim: 1 dim: 1 dim: 30 dim: 7 }
    data_filler { type: "uniform" max: 2 } } }
layer { name: "gt" type: "DummyData" top: "gt" include { phase: TEST }
  dummy_data_param { shape { dim: 1 dim: 1 dim: 9 dim: 8 }
    data_filler { type: "uniform" max: 2 } } }
layer { name: "eval" type: "DetectionEvaluate" bottom: "det" bottom: "gt" top: "eval"
  include { phase: TEST }
  detection_evaluate_param { num_classes: 2 background_label_id: 5 overlap_threshold: 0.1 } }
"""
SOLVER = (
    'net: "net.prototxt" base_lr: 0.5 lr_policy: "fixed" random_seed: 1 solver_mode: CPU '
    "test_iter: 3 test_interval: 2 max_iter: 2 "
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_database(tmp_path / "db", [(1, 6, 6)] * 16)
    (tmp_path / "net.prototxt").write_text(TRAINED + EVALUATED)
    return tmp_path


def solver_of(folder: Path, text: str) -> tuple[Solver, list[object]]:
    (folder / "solver.prototxt").write_text(text)
    seen: list[object] = []
    return Solver("solver.prototxt", show=seen.append), seen


@pytest.mark.parametrize("version", AVERAGE_PRECISIONS)
def test_a_test_of_a_detector_is_its_mean_average_precision(
    version: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'{SOLVER} eval_type: "detection" ap_version: "{version}" show_per_class_result: true'
    solver, seen = solver_of(folder, text)
    rows: list[Array] = []
    add = Precisions.add

    def seen_too(self: Precisions, loss: torch.Tensor, outputs: dict[str, torch.Tensor]) -> None:
        rows.append(outputs["eval"][0, 0].numpy().copy())
        add(self, loss, outputs)

    monkeypatch.setattr(Precisions, "add", seen_too)
    with solver:
        (found,) = solver.test()
    assert len(rows) == 3
    every = np.concatenate(rows)
    precisions = {}
    for label in (0, 1):
        count = every[(every[:, 0] == -1) & (every[:, 1] == label), 2].sum()
        own = every[(every[:, 0] != -1) & (every[:, 1] == label)]
        precisions[label] = naive_precision(own[:, 2], own[:, 3], int(count), version)
    assert float(found["eval"]) == pytest.approx(np.mean(list(precisions.values())), abs=1e-6)
    assert 0 < float(found["eval"]) < 1
    lines = [event.text for event in seen if isinstance(event, Message) and "class" in event.text]
    assert lines == [f"class{label}: {value:g}" for label, value in precisions.items()]
    (scores,) = (event for event in seen if isinstance(event, Scores))
    assert [(one.name, one.loss_weight) for one in scores.outputs] == [("eval", 0)]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            'eval_type: "segmentation"',
            'eval_type "segmentation" is not one of ',
        ),
        ('ap_version: "voc"', 'ap_version "voc" is not one of 11point, MaxIntegral, Integral'),
    ],
)
def test_what_a_solver_refuses(setting: str, says: str, folder: Path) -> None:
    with pytest.raises(CaffeError, match=f"^solver.prototxt: {says}"):
        solver_of(folder, SOLVER + setting)


def test_other_outputs_have_no_average_precision(folder: Path) -> None:
    (folder / "net.prototxt").write_text(
        TRAINED + EVALUATED + 'layer { name: "s" type: "Reduction" bottom: "det" top: "sum" '
        "include { phase: TEST } }"
    )
    solver, _ = solver_of(folder, SOLVER + 'eval_type: "detection"')
    with solver, pytest.raises(CaffeError, match=r'output "sum" has shape \(\); eval_type'):
        solver.test()


# Plateau -----------------------------------------------------------------------------------------


def test_plateau_by_a_loop() -> None:
    solver = pb.SolverParameter(plateau_winsize=[3, 2, 4])
    losses = np.random.default_rng(3).random(60).tolist()
    state, step = Plateau(), 0
    smallest, event, wanted = FLT_MAX, 0, 0
    for iteration, loss in enumerate(losses):
        state, step = state.after(solver, iteration, step, loss)
        if loss < smallest:
            smallest, event = loss, iteration
        if wanted < 3 and iteration >= event + [3, 2, 4][wanted]:
            wanted, event = wanted + 1, iteration
        assert (state, step) == (Plateau(smallest, event), wanted)
    assert step == 3


PLATEAU = SOLVER.replace('"fixed"', '"plateau"').replace("max_iter: 2", "max_iter: 24") + (
    "gamma: 0.5 plateau_winsize: 2 plateau_winsize: 3 plateau_winsize: 2 average_loss: 3 "
    "display: 1 test_initialization: false snapshot: 7 momentum: 0.9 "
).replace("test_interval: 2", "")


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_plateau_is_resumed_bit_for_bit(form: str, folder: Path) -> None:
    text = f'{PLATEAU} snapshot_format: {form} snapshot_prefix: "s"'
    solver, _ = solver_of(folder, text)
    with solver:
        solver.solve()
    assert solver.current_step >= 2, "the rate has fallen"
    suffix = ".h5" if form == "HDF5" else ""
    state = read_solverstate(folder / f"s_iter_14.solverstate{suffix}")
    assert state.minimum_loss is not None and 0 < state.minimum_loss < FLT_MAX
    assert state.iter_last_event is not None and 0 < state.iter_last_event <= 14
    with Solver("solver.prototxt", snapshot=f"s_iter_14.solverstate{suffix}") as again:
        assert again.plateau == Plateau(state.minimum_loss, state.iter_last_event)
        again.solve()
    assert (again.current_step, again.plateau) == (solver.current_step, solver.plateau)
    for one, other in zip(again.net.learnable, solver.net.learnable, strict=True):
        assert torch.equal(one, other)


def test_a_plateau_falls_by_gamma_and_steps_by_hand_follow_it(folder: Path) -> None:
    solver, _ = solver_of(folder, PLATEAU)
    whole, seen = solver_of(folder, PLATEAU)
    with solver, whole:
        solver.step(24)
        whole.solve()
    assert (solver.current_step, solver.plateau) == (whole.current_step, whole.plateau)
    assert any(type(event).__name__ == "MultiStep" for event in seen)
    assert float(whole._rate_now) == pytest.approx(0.5 * 0.5**whole.current_step)


def test_other_runs_have_nothing_of_it(folder: Path) -> None:
    solver, _ = solver_of(folder, f'{SOLVER} snapshot_prefix: "s"')
    with solver:
        solver.solve()
    state = read_solverstate(folder / "s_iter_2.solverstate")
    assert (state.minimum_loss, state.iter_last_event) == (None, None)
