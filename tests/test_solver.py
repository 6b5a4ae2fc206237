"""The solver against real Caffe: 18 settings step by step, three whole runs, files both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import GOLDEN, relative_error

from converters.errors import OutputError
from converters.formats.caffemodel import read_caffemodel
from converters.formats.solverstate import read_solverstate
from converters.proto import caffe_pb2 as pb
from gmnet_pt import Solver
from gmnet_pt.log.events import Display, Event, Scores, Snapshot
from gmnet_pt.solver.solver_file import SolverChoice

SETTINGS = sorted(path.name for path in (GOLDEN / "solvers").iterdir())
RUNS = sorted(path.parent.name for path in (GOLDEN / "training").glob("*/solver.prototxt"))
# golden/README.md: weights and loss, and history; float32 sums in another order than Caffe's.
WEIGHTS, HISTORY = 5e-6, 3e-5


def test_all_goldens_are_here() -> None:
    assert (len(SETTINGS), len(RUNS)) == (18, 3)


class Setting:
    """One of golden/solvers, run from `folder` so that its snapshots land there.

    `slack` widens the bounds where another device sums in another order.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        device: str = "cpu",
        slack: float = 1,
    ) -> None:
        self.device, self.slack = device, slack
        self.golden = GOLDEN / "solvers" / name
        self.arrays = dict(np.load(self.golden / "golden.npz"))
        self.folder = folder
        monkeypatch.chdir(folder)

    def solver(self, **options: object) -> Solver:
        path = self.golden / "solver.prototxt"
        return Solver(path, device=self.device, layout="contiguous", **options)  # type: ignore[arg-type]

    def step(self, solver: Solver) -> float:
        index = solver.iter
        inputs = {name: torch.from_numpy(self.arrays[name][index]) for name in ("data", "label")}
        return float(solver.step(inputs))

    def check_weights(self, solver: Solver) -> None:
        prefix = f"iter{solver.iter}/"
        keys = [key for key in self.arrays if key.startswith(prefix)]
        assert len(keys) == 8
        for key in keys:
            layer, index = key.removeprefix(prefix).rsplit("/", 1)
            found = solver.net.params[layer][int(index)].detach().cpu().numpy()
            assert relative_error(found, self.arrays[key]) <= WEIGHTS * self.slack, key

    def check_steps(self) -> None:
        """Ten iterations from Caffe's initial weights."""
        solver = self.solver(weights=self.golden / "init.caffemodel")
        for wanted in self.arrays["loss"]:
            loss = self.step(solver)
            assert abs(loss - wanted) <= WEIGHTS * self.slack * wanted
            if solver.iter in (1, 5, 10):
                self.check_weights(solver)
        assert solver.iter == 10

    def check_resume(self) -> Solver:
        """Caffe's snapshot at iteration 5, continued to 10."""
        state = next(self.golden.glob("snap_iter_5.solverstate*"))
        solver = self.solver(snapshot=state)
        assert solver.iter == 5
        while solver.iter < 10:
            self.step(solver)
        self.check_weights(solver)
        written = solver.snapshot()
        theirs = next(self.golden.glob("snap_iter_10.solverstate*"))
        assert written.name == theirs.name
        compare_states(written, theirs, self.slack)
        model = next(self.golden.glob("snap_iter_10.caffemodel*"))
        compare_models(written.parent / model.name, model, self.slack)
        return solver


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_follow_caffe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Setting(name, tmp_path, monkeypatch).check_steps()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_of_caffe_is_finished_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Setting(name, tmp_path, monkeypatch).check_resume()


def compare_states(ours: Path, theirs: Path, slack: float = 1) -> None:
    a, b = read_solverstate(ours), read_solverstate(theirs)
    assert (a.iter, a.current_step, a.learned_net) == (b.iter, b.current_step, b.learned_net)
    assert len(a.history) == len(b.history)
    for one, other in zip(a.history, b.history):
        assert one.shape == other.shape
        assert relative_error(np.asarray(one), np.asarray(other)) <= HISTORY * slack


def compare_models(ours: Path, theirs: Path, slack: float = 1) -> None:
    a, b = read_caffemodel(ours), read_caffemodel(theirs)
    assert [layer.name for layer in a.layers] == [layer.name for layer in b.layers]
    for one, other in zip(a.layers, b.layers):
        assert one.type == other.type
        assert [x.shape for x in one.blobs] == [x.shape for x in other.blobs]
        for x, y in zip(one.blobs, other.blobs):
            assert relative_error(np.asarray(x), np.asarray(y)) <= WEIGHTS * slack
    if theirs.suffix != ".h5":
        messages = []
        for path in (ours, theirs):
            message = pb.NetParameter.FromString(path.read_bytes())
            for layer in message.layer:
                layer.ClearField("blobs")
            messages.append(message)
        assert messages[0] == messages[1]


# Loss to iteration 25, later, final weights: golden/README.md. For GM-Net it bounds the losses
# alone; its smallest biases are 1e-4 of a rate's step and carry the rounding of all layers.
BOUNDS = {
    "gmnet_nesterov_multistep": (5e-5, 5e-5, 2e-2),
    "lenet_adam": (1e-5, 3e-4, 3e-3),
    "lenet_sgd_inv": (1e-5, 3e-4, 3e-3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.long) if x == "lenet_adam" else x for x in RUNS]
)
def test_whole_runs_follow_caffe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_whole_run(name, tmp_path, "cpu")


def check_whole_run(name: str, folder: Path, device: str, slack: float = 1) -> None:
    """Train as Caffe did, from its initial weights, in the working directory `folder`."""
    golden = GOLDEN / "training" / name
    arrays = dict(np.load(golden / "golden.npz"))
    seen: list[Event] = []
    solver = Solver(
        golden / "solver.prototxt",
        weights=golden / "init.caffemodel",
        device=device,
        show=seen.append,
        layout="contiguous",
    )
    assert solver.solve()
    displays = [event for event in seen if isinstance(event, Display) and event.speed]
    early, late, weights = (bound * slack for bound in BOUNDS[name])
    assert len(displays) == len(arrays["train_loss"])
    for index, (event, loss, rate) in enumerate(zip(displays, arrays["train_loss"], arrays["lr"])):
        # The log gives six digits.
        bound = (early if index <= 25 else late) + 5e-6
        assert abs(event.loss - loss) <= bound * max(loss, 1e-2), (index, event.loss, loss)
        assert event.rate is not None
        assert abs(event.rate - rate) <= 5e-6 * rate
    scores = [event for event in seen if isinstance(event, Scores)]
    found = [(s.iteration, o.name, o.value) for s in scores for o in s.outputs]
    assert len(found) == len(arrays["test_value"]) > 0
    for (iteration, output, value), at, wanted, number in zip(
        found, arrays["test_iter"], arrays["test_name"], arrays["test_value"]
    ):
        assert (iteration, output) == (int(at), str(wanted))
        # Accuracy may flip on a near tie: one image of the test set at most.
        bound = 2.6e-3 if output == "accuracy" else 5e-4 * slack * max(1.0, abs(number))
        assert abs(value - number) <= bound, (iteration, output, value, number)
    final = next(golden.glob("snap_iter_*.caffemodel"))
    ours = read_caffemodel(folder / final.name)
    for one, other in zip(ours.layers, read_caffemodel(final).layers, strict=True):
        for x, y in zip(one.blobs, other.blobs, strict=True):
            assert relative_error(np.asarray(x), np.asarray(y)) <= weights


def test_a_sure_mistake_costs_what_caffe_says(tmp_path: Path) -> None:
    """-log(FLT_MIN) however wrong, and the gradient of the softmax all the same."""
    from converters import load_net

    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "i" type: "Input" top: "x" top: "t" '
        "input_param { shape { dim: 1 dim: 2 } shape { dim: 1 } } }"
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "loss" }'
    )
    for wrong in (100.0, 1e6, 1e30):
        x = torch.tensor([[0.0, wrong]], requires_grad=True)
        loss, _ = load_net(path, "TRAIN").loss({"x": x, "t": torch.zeros(1)})
        loss.backward()
        assert loss.item() == pytest.approx(87.33655, rel=1e-5)
        assert x.grad is not None and x.grad.tolist() == [[-1.0, 1.0]]


def losses(folder: Path, *overrides: str) -> list[float]:
    seen: list[Event] = []
    solver = Solver(
        GOLDEN / "training" / "lenet_sgd_inv" / "solver.prototxt",
        device="cpu",
        overrides=["max_iter=8", "test_interval=100", f"snapshot_prefix={folder}/s", *overrides],
        show=seen.append,
    )
    solver.solve()
    return [event.loss for event in seen if isinstance(event, Display)]


def test_the_displayed_loss_is_the_mean_of_the_last_average_loss(tmp_path: Path) -> None:
    plain, smooth = losses(tmp_path), losses(tmp_path, "average_loss=3")
    assert len(plain) == len(smooth) == 9
    for index, found in enumerate(smooth):
        assert found == pytest.approx(np.mean(plain[max(0, index - 2) : index + 1]), rel=1e-5)


def events(folder: Path, *overrides: str) -> list[Event]:
    seen: list[Event] = []
    common = [f"snapshot_prefix={folder}/s", "snapshot=0", "test_iter=1", "test_interval=100"]
    Solver(
        GOLDEN / "training" / "lenet_sgd_inv" / "solver.prototxt",
        device="cpu",
        overrides=[*common, *overrides],
        show=seen.append,
    ).solve()
    return seen


def iterations(seen: list[Event], kind: type[Display | Scores]) -> list[int]:
    return [event.iteration for event in seen if isinstance(event, kind)]


@pytest.mark.parametrize(("last", "due"), [(3, [0, 2]), (4, [0, 2, 4])])
def test_after_the_last_iteration_only_what_is_due(
    last: int, due: list[int], tmp_path: Path
) -> None:
    """Caffe tests and displays once more where max_iter is a multiple of the interval."""
    seen = events(tmp_path, f"max_iter={last}", "test_interval=2", "display=2")
    assert iterations(seen, Scores) == due
    assert iterations(seen, Display) == due


@pytest.mark.parametrize(("last", "saved"), [(3, [2, 3]), (4, [2, 4])])
def test_every_snapshot_is_written_once(last: int, saved: list[int], tmp_path: Path) -> None:
    seen = events(tmp_path, f"max_iter={last}", "snapshot=2")
    wanted = [f"{tmp_path}/s_iter_{number}.solverstate" for number in saved]
    assert [event.state for event in seen if isinstance(event, Snapshot)] == wanted


def test_each_test_net_has_its_own_test_iter(tmp_path: Path) -> None:
    solver = Solver(
        GOLDEN / "training" / "lenet_sgd_inv" / "solver.prototxt",
        device="cpu",
        overrides=["test_iter=1,3"],
    )
    one, three = solver.test()
    readers = [solver.batches(net)[0].state()["batch"] for net in solver.test_nets]
    assert readers == [1, 3]
    # The same data and weights: the first batch alone, and the mean of three.
    again = Solver(
        GOLDEN / "training" / "lenet_sgd_inv" / "solver.prototxt",
        device="cpu",
        overrides=["test_iter=1"],
    )
    for mine, other in zip(solver.net.learnable, again.net.learnable, strict=True):
        other.data.copy_(mine)
    losses = [float(again.test()[0]["loss"]) for _ in range(3)]
    assert float(one["loss"]) == losses[0]
    assert float(three["loss"]) == pytest.approx(np.mean(losses), rel=1e-6)
    assert len(set(losses)) == 3


def test_only_a_run_that_saves_makes_the_folder(tmp_path: Path) -> None:
    solver_file = GOLDEN / "training" / "lenet_sgd_inv" / "solver.prototxt"
    folder = tmp_path / "made"
    settings = [f"snapshot_prefix={folder}/s", "max_iter=1", "test_interval=5", "snapshot=0"]
    nothing = [*settings, "snapshot_after_train=false"]
    solver = Solver(solver_file, device="cpu", overrides=nothing)
    solver.step()
    assert Solver(solver_file, device="cpu", overrides=nothing).solve()
    assert not folder.exists()
    assert solver.snapshot().exists()


@pytest.mark.parametrize("due", ["snapshot=1", "snapshot_after_train=true"])
def test_a_folder_that_cannot_be_written_is_said_before_the_first_iteration(
    due: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    settings = ["snapshot=0", "snapshot_after_train=false", due]
    solver = Solver(
        GOLDEN / "training" / "lenet_sgd_inv" / "solver.prototxt",
        device="cpu",
        overrides=[f"snapshot_prefix={tmp_path}/file/s", *settings],
    )
    with pytest.raises(OutputError, match=r"snapshot_prefix .*file/s"):
        solver.solve()
    assert solver.iter == 0


def test_a_choice_says_all() -> None:
    choice = SolverChoice(GOLDEN / "solvers" / "sgd_plain" / "solver.prototxt", device="cpu")
    assert Solver(choice).param == Solver(choice.path, device="cpu").param
    with pytest.raises(TypeError, match="says all"):
        Solver(choice, device="cpu")
    with pytest.raises(TypeError, match="sede"):
        Solver(choice.path, sede=3)


def test_going_on_begins_a_new_window_of_average_loss(tmp_path: Path) -> None:
    """As a new call of Caffe's Step: 4 is not 0 mod 3."""
    seen: list[Event] = []
    settings = ["max_iter=4", "average_loss=3", "test_interval=100", "snapshot_after_train=false"]
    solver = Solver(
        GOLDEN / "training" / "lenet_sgd_inv" / "solver.prototxt",
        device="cpu",
        overrides=[*settings, "base_lr=0"],
        show=seen.append,
    )
    solver.solve()
    seen.clear()
    solver.param.max_iter = 9
    solver.solve()
    shows = [event for event in seen if isinstance(event, Display) and event.outputs]
    plain = [event.outputs[0].value for event in shows]
    assert len(plain) == 5
    for place, event in enumerate(shows):
        mean = np.mean(plain[max(0, place - 2) : place + 1])
        assert event.loss == pytest.approx(mean, rel=1e-5)


def test_snapshot_diff_holds_the_last_update(tmp_path: Path) -> None:
    settings = ("snapshot=1", "max_iter=2", "snapshot_diff=true", f"snapshot_prefix={tmp_path}/d")
    losses(tmp_path, *settings)
    before, after = (
        pb.NetParameter.FromString((tmp_path / f"d_iter_{n}.caffemodel").read_bytes())
        for n in (1, 2)
    )
    compared = 0
    for one, two in zip(before.layer, after.layer, strict=True):
        for old, new in zip(one.blobs, two.blobs, strict=True):
            data, diff = np.array(new.data, np.float32), np.array(new.diff, np.float32)
            assert np.abs(diff).max() > 0
            assert relative_error(np.array(old.data, np.float32) - data, diff) <= 1e-3
            compared += 1
    assert compared == 6
