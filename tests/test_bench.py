"""The bench's yardstick is the same net as the converted one, and its table says what broke."""

from __future__ import annotations

import pytest

from bench.rows import Measure, Row, alternate, summarize, table
from converters.errors import NetError


def test_hand_written_net_agrees_with_the_converted_one() -> None:
    import torch

    from bench import train_step

    torch.manual_seed(1)
    ours = train_step.converted()
    theirs = train_step.hand_written(ours.weights)
    assert sum(weight.numel() for weight in theirs.weights) == 1_737_290
    data = torch.randn(8, 3, 32, 32)
    label = torch.arange(8).float()
    train_step.check(ours, theirs, data, label)
    # The check can fail: one weight off by a tenth of its tensor's largest is seen.
    with torch.no_grad():
        theirs.weights[-2][0, 0] += 0.1 * theirs.weights[-2].abs().max()
    with pytest.raises(NetError, match="gradients differ"):
        train_step.check(ours, theirs, data, label)


def test_row_fails_above_its_bound() -> None:
    fast, slow = Measure(1.0, 0.0), Measure(1.1, 0.0)
    assert Row("equal", fast, fast, bound=1.0).ok
    assert not Row("slower", slow, fast, bound=1.05).ok
    assert "| 1.100 | 1.05  | NO |" in table([Row("slower", slow, fast, bound=1.05)])


def test_disturbed_row_is_marked() -> None:
    calm, shaken = Measure(1.0, 0.01), Measure(1.0, 0.3)
    assert "| yes? |" in table([Row("shaken", calm, shaken, bound=1.05)])
    assert "| yes |" in table([Row("calm", calm, calm, bound=1.05)])


def test_alternation_changes_who_goes_first() -> None:
    calls: list[str] = []
    alternate(lambda: calls.append("ours"), lambda: calls.append("other"), repeats=2, warmup=0)
    assert calls == ["ours", "other", "other", "ours"]


def test_summary_is_median_and_half_the_quartiles_distance() -> None:
    assert summarize([5.0, 1.0, 2.0, 4.0, 3.0]) == Measure(3.0, 1.0)
    assert summarize([7.0]) == Measure(7.0, 0.0)
