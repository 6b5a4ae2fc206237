"""Every layer against real Caffe: forward in both phases, gradients, BatchNorm's blobs."""

from __future__ import annotations

import json

import pytest
from golden_case import GOLDEN, GoldenCase

CASES = sorted(path.name for path in (GOLDEN / "layers").iterdir())
PHASES = [
    (name, phase)
    for name in CASES
    for phase in json.loads((GOLDEN / "layers" / name / "case.json").read_text())["phases"]
]


def test_all_cases_are_here() -> None:
    assert len(CASES) == 160
    assert sum(name.startswith("net_") for name in CASES) == 7


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_golden(name: str, phase: str) -> None:
    assert GoldenCase(name).check(phase) > 0
