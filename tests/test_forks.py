"""Layers of forks against what the forks' own code computed: forward in both phases, gradients."""

from __future__ import annotations

import json

import pytest
import torch
from golden_case import PENDING, READY, GoldenCase, case_folder

PHASES = [
    pytest.param(
        name,
        phase,
        marks=[pytest.mark.xfail(name in PENDING, reason="a layer type is missing", strict=True)],
    )
    for name in sorted([*READY, *PENDING])
    for phase in json.loads((case_folder(name) / "case.json").read_text())["phases"]
]


def test_all_cases_are_here() -> None:
    assert len(READY) + len(PENDING) == 53
    assert sum(name.startswith("net_") for name in READY + PENDING) == 4


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_golden(name: str, phase: str) -> None:
    assert GoldenCase(name).check(phase) > 0


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_golden_with_the_channels_last(name: str, phase: str) -> None:
    assert GoldenCase(name, layout=torch.channels_last).check(phase) > 0
