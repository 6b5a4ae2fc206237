"""Products by oneDNN: F.linear's values and derivatives, whichever of its ways is taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from converters.layers import gradients, onednn

SHAPES = [(1, 5, 7), (4, 64, 32), (16, 40, 33), (17, 40, 33), (64, 40, 33), (65, 40, 33)]


@pytest.fixture(autouse=True)
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "LARGE", 0)


def drawn(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(shape, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "tops"), SHAPES)
def test_it_is_linear(rows: int, inputs: int, tops: int, bias: bool) -> None:
    x, weight, b = drawn(rows, inputs), drawn(tops, inputs), drawn(tops) if bias else None
    given = [one for one in (x, weight, b) if one is not None]
    y, top = onednn.linear(x, weight, b), drawn(rows, tops).detach()
    exact = [one.detach().double().requires_grad_() for one in given]
    expected = F.linear(*exact)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(y, given, top)
    for one, other in zip(found, torch.autograd.grad(expected, exact, top.double()), strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)


def test_more_axes_and_a_transposed_weight() -> None:
    x, weight = drawn(2, 3, 8), drawn(8, 5)
    found = onednn.linear(x, weight.t(), None)
    torch.testing.assert_close(found, F.linear(x, weight.t()))


def test_a_second_derivative() -> None:
    def penalty(linear: Callable[[Tensor, Tensor, None], Tensor]) -> list[Tensor]:
        x, weight = drawn(4, 6), drawn(3, 6)
        y = linear(x, weight, None).square().sum()
        (dx,) = torch.autograd.grad(y, x, create_graph=True)
        return list(torch.autograd.grad(dx.square().sum(), [x, weight]))

    torch.testing.assert_close(penalty(onednn.linear), penalty(F.linear))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torchs_own(dtype: torch.dtype) -> None:
    x, weight = drawn(8, 6).to(dtype), drawn(3, 6).to(dtype)
    assert torch.equal(onednn.linear(x, weight, None), F.linear(x, weight))


def test_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = drawn(8, 6), drawn(3, 6)
    y = onednn.linear(x, weight, None)
    assert ("Product" in str(y.grad_fn)) == onednn.takes(x)
    monkeypatch.setattr(onednn, "LARGE", weight.numel() + 1)
    assert "Product" not in str(onednn.linear(x, weight, None).grad_fn)


def test_the_gradient_of_what_is_flattened_comes_back_as_it_lay() -> None:
    x = drawn(2, 3, 4, 5).detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    kept = []
    seen = x * 1
    seen.register_hook(kept.append)
    (gradients.plain(seen).flatten(1) ** 2).sum().backward()
    assert kept[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x.grad, 2 * x.detach())
