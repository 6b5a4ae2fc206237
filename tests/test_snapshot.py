"""Snapshots when something goes wrong: the one before stays whole, and the words are clear."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from golden_case import GOLDEN
from test_bad_input import Folder

from converters.errors import CaffeError, OutputError, SolverError
from gmnet_pt import Solver

# Large enough that a limit lies between a log and a snapshot.
WIDE = "inner_product_param {{ num_output: 2000".replace("{{", "{")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def train(
    folder: Folder, kind: str = "SGD", extra: str = "", max_iter: int = 2, **options: object
) -> Solver:
    folder.write_solver(kind, "out/s", f"snapshot: 2 {extra}", max_iter)
    solver = Solver("solver.prototxt", device="cpu", **options)  # type: ignore[arg-type]
    solver.solve()
    return solver


def files(folder: Folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder.path / "out").iterdir()}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel ends every write behind this byte, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# The model has 74,000 values. SGD's state is as large, so the model does not fit; Adam's is twice
# that, so model and generators fit and the .solverstate, without which it is no snapshot, does not.
@pytest.mark.parametrize("suffix", ["", ".h5"])
@pytest.mark.parametrize(
    ("kind", "size", "fails"), [("SGD", 200_000, "caffemodel"), ("Adam", 400_000, "solverstate")]
)
def test_a_disk_that_fills_up_leaves_the_snapshot_before(
    kind: str, size: int, fails: str, suffix: str, folder: Folder
) -> None:
    folder.write_net("inner_product_param { num_output: 3", WIDE)
    extra = "snapshot_format: HDF5" if suffix else ""
    train(folder, kind, extra)
    before = files(folder)
    state = f"out/s_iter_2.solverstate{suffix}"
    with (
        files_of_at_most(size),
        pytest.raises(OutputError, match=rf"out/s_iter_4\.{fails}{suffix}: "),
    ):
        train(folder, kind, extra, 6, snapshot=state)
    after = files(folder)
    assert before.items() <= after.items()
    made = set(after) - set(before)
    assert f"s_iter_4.solverstate{suffix}" not in made
    assert not [name for name in made if "partial" in name]
    assert train(folder, kind, extra, 4, snapshot=state).iter == 4


def test_a_full_disk_is_called_so(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    train(folder)
    before = files(folder)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"s_iter_4\.caffemodel: the disk is full \(\d+ bytes"):
        train(folder, max_iter=4, snapshot="out/s_iter_2.solverstate")
    assert files(folder) == before


def test_a_snapshot_is_never_of_parameters_that_are_not_finite(folder: Folder) -> None:
    train(folder)
    before = files(folder)
    with pytest.raises(
        SolverError,
        match=r"after iteration 3 parameter blob 0 of layer \"fc\" is not finite; "
        r"the last good snapshot is out/s_iter_2\.solverstate",
    ):
        # Iteration 3 is the first whose rate is too large.
        train(
            folder,
            overrides=["base_lr=1", "lr_policy=step", "gamma=3e38", "stepsize=3"],
            max_iter=4,
            snapshot="out/s_iter_2.solverstate",
        )
    assert files(folder) == before


def test_a_nan_loss_names_iteration_and_layer_and_the_last_snapshot(folder: Folder) -> None:
    """log(9.5 - x) of the image 10: the third batch of four, iteration 2."""
    log = (
        'layer { name: "log" type: "Log" bottom: "data" top: "log" '
        "log_param { shift: 9.5 scale: -1 } }\n"
    )
    folder.write_net('layer { name: "fc"', log + 'layer { name: "fc"')
    text = (folder.path / "net.prototxt").read_text()
    (folder.path / "net.prototxt").write_text(
        text.replace('type: "InnerProduct" bottom: "data"', 'type: "InnerProduct" bottom: "log"')
    )
    with pytest.raises(
        SolverError,
        match=r"loss is nan at iteration 2; the first blob that is not finite is \"log\" of layer "
        r"\"log\"; the last good snapshot is out/s_iter_2\.solverstate",
    ):
        train(folder, max_iter=6)
    assert set(files(folder)) == {
        f"s_iter_2{end}" for end in (".caffemodel", ".state.npz", ".solverstate")
    }


def _golden_state(folder: Folder) -> str:
    shutil.copytree(GOLDEN / "solvers" / "sgd_plain", folder.path / "caffe")
    return "caffe/snap_iter_5.solverstate"


def _weights_as_state(folder: Folder) -> str:
    return "out/s_iter_2.caffemodel"


def _text_as_state(folder: Folder) -> str:
    return "net.prototxt"


def _without_weights(folder: Folder) -> str:
    (folder.path / "out" / "s_iter_2.caffemodel").unlink()
    return "out/s_iter_2.solverstate"


def _absent(folder: Folder) -> str:
    return "out/s_iter_9.solverstate"


def _other_size(folder: Folder) -> str:
    folder.write_net("num_output: 3", "num_output: 5")
    return "out/s_iter_2.solverstate"


def _one_more_layer(folder: Folder) -> str:
    more = 'layer { name: "more" type: "Scale" bottom: "data" top: "data" }\nlayer { name: "fc"'
    folder.write_net('layer { name: "fc"', more)
    return "out/s_iter_2.solverstate"


def _another_name(folder: Folder) -> str:
    folder.write_net('name: "fc"', 'name: "fc8"')
    return "out/s_iter_2.solverstate"


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (_golden_state, r"snap_iter_5\.solverstate: (history blob|holds \d+ history)"),
        (_weights_as_state, r"out/s_iter_2\.caffemodel: not a solverstate"),
        (_text_as_state, r"net\.prototxt: .*solverstate"),
        (_without_weights, r"its weights 'out/s_iter_2\.caffemodel' are neither there nor beside"),
        (_absent, r"s_iter_9\.solverstate: there is no such snapshot"),
        (_other_size, r"history blob 0 has shape \[3, 36\], this net needs \[5, 36\]"),
        (_one_more_layer, r"holds 2 history blobs, solver type \"SGD\" on this net needs 3"),
        (_another_name, r"s_iter_2\.caffemodel: no blobs for layer fc8 of net\.prototxt"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_foreign_snapshot_or_another_net_is_refused(
    choose: Callable[[Folder], str], says: str, folder: Folder
) -> None:
    train(folder)
    state = choose(folder)
    before = files(folder)
    with pytest.raises(CaffeError) as raised:
        train(folder, max_iter=4, snapshot=state)
    assert re.search(says, str(raised.value)), raised.value
    assert files(folder) == before


def test_weights_and_a_snapshot_contradict(folder: Folder) -> None:
    train(folder)
    with pytest.raises(SolverError, match=r"\(out/s_iter_2\.caffemodel\) or a snapshot .*not both"):
        train(folder, weights="out/s_iter_2.caffemodel", snapshot="out/s_iter_2.solverstate")
