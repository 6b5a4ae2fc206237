"""Results of trainings that never happened, and reports of them."""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmnet_pt.reproduce.budgets import find_budget
from gmnet_pt.reproduce.exhibits import show
from gmnet_pt.reproduce.experiments import DATASETS, EXHIBITS, TABLE_2, Exhibit, Net
from gmnet_pt.reproduce.report import Picture, Report
from gmnet_pt.reproduce.results import MapNumbers, Result, Test, options_of
from gmnet_pt.reproduce.runs import Run, RunFolder, Selection
from gmnet_pt.reproduce.work import Status

REASONS = {
    "missing": "give --source svhn=PATH, or make lmdb DATASET=svhn",
    "failed": "the loss is nan; --retry tries again",
}


def made(run: Run, errors: Sequence[float], **changes: Any) -> Result:
    """The result of a run that tested `errors`, one an epoch."""
    tests = tuple(Test(float(n), 100 * n, error, 1.0, 1.1) for n, error in enumerate(errors, 1))
    result = Result(
        id=f"{run.name}_1",
        budget=run.budget.name,
        variant=run.net.variant,
        reading=run.net.reading,
        bu_s=run.net.bu_s,
        dataset=run.dataset,
        seed=run.seed,
        precision=run.precision,
        options=options_of(run),
        epochs=len(errors),
        iterations=100 * len(errors),
        parameters=1_737_290,
        depth=27,
        multiply_adds=415_000_000,
        tests=tests,
        started="2026-01-31T10:20:30Z",
        finished="2026-02-01T11:21:31Z",
        seconds=4.2 * 86400,
        sessions=2,
        commands=(
            f"python -m prototxt_gen {run.net.variant} --dataset {run.dataset}",
            f"python -m gmnet_pt.train runs/reproduce/full/{run.name}/solver.prototxt",
        ),
        hardware={"device": "NVIDIA H100 80GB HBM3", "processor": "AMD EPYC 9654", "threads": 16},
        versions={"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6"},
        commits=("af5db80ae57b302a6a5a6ce3e7a40f9f335e0232",),
    )
    return replace(result, **changes)


def result(
    budget: str,
    net: Net,
    dataset: str,
    errors: Sequence[float],
    seed: int = 1,
    commits: tuple[str, ...] = ("c" * 40,),
) -> Result:
    """The result of such a run, which took an hour."""
    run = Run(find_budget(budget), net, dataset, seed)
    changes: dict[str, Any] = {
        "id": f"{budget}_{run.name}_20260101T000000Z",
        "seconds": 3600.0,
        "hardware": {"device": "cpu", "processor": "a | processor", "threads": 1},
        "commits": commits,
    }
    return made(run, errors, **changes)


def paper_like(run: Run, epochs: int = 300) -> list[float]:
    """A curve with the two drops of the rate, which ends near the paper's error."""
    paper = {row.net: row.reported for row in TABLE_2.rows}
    known = paper.get(run.net, {}).get(run.dataset) if run.dataset in DATASETS else None
    chance = random.Random(run.name)
    end = known if known is not None else {"mnist": 0.26, "svhn": 2.1}.get(run.dataset, 7.3)
    end = max(0.05, (25.5 if "100" in run.dataset and known is None else end) * 1.01)
    end += chance.gauss(0, 0.04 * math.sqrt(end))
    found = []
    for epoch in range(1, epochs + 1):
        phase = 0 if epoch <= epochs / 2 else 1 if epoch <= 0.75 * epochs else 2
        level = (2.1, 1.12, 1.0)[phase] * end
        level += 70 * math.exp(-epoch / (epochs * 0.02)) + end * 0.8 * math.exp(-epoch / 40)
        found.append(round(min(90.0, level + chance.gauss(0, (0.12, 0.02, 0.006)[phase] * end)), 2))
    return found


def report_of(
    selection: Selection,
    folder: Path,
    state: Callable[[Run], str] = lambda run: "done",
    errors: Callable[[Run], Sequence[float]] = paper_like,
    pictures: tuple[Picture, ...] = (),
    results: Sequence[Result] | None = None,
    exhibits: Sequence[Exhibit] | None = None,
    reasons: Mapping[str, str] = REASONS,
) -> Report:
    """A report of the selection; runs in the `state` done have a result."""
    runs = selection.runs()
    if results is None:
        results = [made(run, errors(run)) for run in runs if state(run) == "done"]
    statuses = []
    for run in runs:
        word = state(run)
        is_open = word in ("to do", "stopped", "running")
        left = 5400.0 if is_open and run.seed == 1 else None
        reason = reasons.get(word, "")
        statuses.append(Status(RunFolder(folder, run), word, reason, left, is_open))
    words = {
        status.folder.run: f"{status.state}: {status.reason}" if status.reason else status.state
        for status in statuses
    }
    shown = tuple(
        show(selection, exhibit, results, words) for exhibit in exhibits or selection.exhibits
    )
    return Report(
        selection.budget,
        shown,
        True,
        tuple(statuses),
        tuple(results),
        pictures,
        "2026-03-04T05:06:07Z",
        "0123456789abcdef0123456789abcdef01234567",
        selection.substitutes,
    )


def png(path: Path, width: int, height: int) -> Path:
    """A grey picture with stripes."""
    rows = b"".join(
        b"\0" + bytes((16 * (x // 8) + 8 * (y // 8)) % 256 for x in range(width))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def maps(figure: int) -> tuple[MapNumbers, ...]:
    """Rows of feature maps."""
    return tuple(
        MapNumbers(
            figure, "test image 7", f"unit {n} of BU_i", f"bu_i/unit{n}/conv", 0.125 * n, 0.5 / n
        )
        for n in range(1, 5)
    )


def full_report(folder: Path, epochs: int = 100) -> Report:
    """Everything: three seeds, a missing data set, a failed run, some to do, pictures."""

    def state(run: Run) -> str:
        if run.dataset == "svhn":
            return "missing"
        if run.net == Net("bua_groups_block3"):
            return "failed"
        if run.dataset == "cifar100_plus" and (run.seed > 1 or run.net.bu_s == "units"):
            return "to do"
        return "done"

    selection = Selection(find_budget("full"), EXHIBITS, seeds=(1, 2, 3))
    pictures = (
        Picture(
            "BU_A: what each unit sees (Figure 3)", png(folder / "figure3.png", 900, 300), maps(3)
        ),
        Picture("Sums and their parts (Figure 4)", png(folder / "figure4.png", 420, 300), maps(4)),
    )
    return report_of(
        selection, folder, state, lambda run: paper_like(run, epochs), pictures=pictures
    )


def short_report(folder: Path) -> Report:
    """A budget that is not the paper's, and a data set that stands for another."""
    selection = Selection(
        find_budget("short"), EXHIBITS, substitutes={"cifar10": "cifar10_jpeg"}, seeds=(1, 2)
    )
    return report_of(
        selection,
        folder,
        lambda run: "done" if run.dataset in ("cifar10_jpeg", "mnist") else "missing",
        lambda run: paper_like(run, 10),
    )


def smoke_report(folder: Path) -> Report:
    """One column for all six data sets, three epochs."""
    return report_of(
        Selection(find_budget("smoke"), EXHIBITS), folder, errors=lambda run: (85.28, 64.72, 41.67)
    )
