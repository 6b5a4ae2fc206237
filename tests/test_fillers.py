"""Fillers against Caffe's formulas: moments and ranges, fans with groups, exact bilinear values."""

from __future__ import annotations

import math

import pytest
import torch

from converters.errors import NetError
from converters.layers.fillers import FILLERS, fill
from converters.proto import caffe_pb2 as pb

SHAPE = (64, 16, 5, 5)
FAN_IN, FAN_OUT = 16 * 25, 64 * 25
NORMS = [("FAN_IN", FAN_IN), ("FAN_OUT", FAN_OUT), ("AVERAGE", (FAN_IN + FAN_OUT) / 2)]


def made(shape: tuple[int, ...] = SHAPE, **fields: object) -> torch.Tensor:
    torch.manual_seed(1)
    return fill(torch.empty(shape), pb.FillerParameter(**fields), "layer")  # type: ignore[arg-type]


def test_all_of_caffes_fillers_are_here() -> None:
    known = "constant uniform gaussian positive_unitball xavier msra bilinear"
    assert set(FILLERS) == set(known.split())


def test_constant_and_the_default() -> None:
    assert (made(type="constant", value=3) == 3).all()
    assert (made() == 0).all()


def test_uniform() -> None:
    x = made(type="uniform", min=-2, max=5)
    assert -2 <= x.min() < -1.99 and 4.99 < x.max() <= 5
    assert x.mean().item() == pytest.approx(1.5, abs=0.05)


def test_gaussian() -> None:
    x = made(type="gaussian", mean=2, std=3)
    assert x.mean().item() == pytest.approx(2, abs=0.06)
    assert x.std().item() == pytest.approx(3, rel=0.02)


def test_sparse_gaussian_keeps_sparse_inputs_an_output() -> None:
    x = made((200, 500), type="gaussian", std=1, sparse=15)
    assert (x != 0).float().mean().item() == pytest.approx(15 / 200, rel=0.05)
    assert x[x != 0].std().item() == pytest.approx(1, rel=0.05)


def test_sparse_0_keeps_nothing() -> None:
    """-1 stands for a gaussian that is not sparse, and 0 for one without inputs."""
    assert (made(type="gaussian", std=1, sparse=0) == 0).all()


def test_positive_unitball_rows_sum_to_one() -> None:
    x = made(type="positive_unitball")
    assert (x >= 0).all()
    torch.testing.assert_close(x.flatten(1).sum(1), torch.ones(64))


@pytest.mark.parametrize(("norm", "fan"), NORMS)
def test_xavier(norm: str, fan: float) -> None:
    limit = math.sqrt(3 / fan)
    x = made(type="xavier", variance_norm=norm)
    assert x.abs().max() <= limit and x.abs().max() > 0.99 * limit
    assert x.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)


def test_fan_out_of_one_axis_is_its_count() -> None:
    """With FAN_IN, one value a row, the limit would be √3."""
    x = made((1000,), type="xavier", variance_norm="FAN_OUT")
    limit = math.sqrt(3 / 1000)
    assert 0.99 * limit < x.abs().max() <= limit


@pytest.mark.parametrize(("norm", "fan"), NORMS)
def test_msra(norm: str, fan: float) -> None:
    x = made(type="msra", variance_norm=norm)
    assert x.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.02)
    assert x.mean().abs().item() < 0.05 * math.sqrt(2 / fan)


def test_bilinear_is_exact() -> None:
    x = made((2, 3, 4, 4), type="bilinear")
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(x, torch.outer(line, line).expand(2, 3, 4, 4))
    odd = made((1, 1, 3, 3), type="bilinear")[0, 0, 1]
    torch.testing.assert_close(odd, torch.tensor([0.5, 1.0, 0.5]))


@pytest.mark.parametrize(
    ("shape", "fields", "says"),
    [
        (SHAPE, {"type": "nonesuch"}, "unknown filler type"),
        ((3, 4), {"type": "bilinear"}, "4 axes"),
        (SHAPE, {"type": "uniform", "sparse": 3}, "sparse"),
    ],
)
def test_bad_fillers_are_refused(
    shape: tuple[int, ...], fields: dict[str, object], says: str
) -> None:
    with pytest.raises(NetError, match=says):
        made(shape, **fields)
