"""LRN's quick way on a CPU against its formula in torch's operations, which the goldens show."""

from __future__ import annotations

import pytest
import torch
from small_net import load_layer

from converters.layers import local_response
from converters.layers.local_response import OnCpu, Response

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
# Neighbours beyond all channels or the whole image, a power of its own, no shift.
RESPONSES = [
    Response(5, across=True, k=1, alpha=0.5, beta=0.75),
    Response(3, across=True, k=2, alpha=1.5, beta=0.6),
    Response(9, across=True, k=1, alpha=0.5, beta=0.75),
    Response(1, across=True, k=1, alpha=0.5, beta=0.75),
    Response(3, across=False, k=1, alpha=0.5, beta=0.75),
    Response(7, across=False, k=1, alpha=2, beta=1.25),
]


def blob(seed: int, kind: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(5, 4, 3, 6, generator=torch.Generator().manual_seed(seed)).to(kind)


@LAYOUTS
@pytest.mark.parametrize("response", RESPONSES, ids=str)
def test_value_and_gradient(
    response: Response, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_response, "PART", 150)  # two items at a time, then one
    x = blob(1).contiguous(memory_format=layout).requires_grad_()
    dy = blob(2)
    y, wanted = OnCpu.apply(x, response), response(x)
    torch.testing.assert_close(y, wanted, rtol=1e-13, atol=1e-15)
    (dx,), (right,) = (torch.autograd.grad(top, x, dy) for top in (y, wanted))
    torch.testing.assert_close(dx, right, rtol=1e-12, atol=1e-14)
    assert y.is_contiguous(memory_format=layout) and dx.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("response", RESPONSES[::4], ids=str)
def test_the_gradient_has_gradients(response: Response) -> None:
    x = blob(1)[:2].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: OnCpu.apply(x, response), x)


@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_half_precision_rounds_once(region: str) -> None:
    """Within half a step of bfloat16 (2^-8) of the true result."""
    settings = f"lrn_param {{ norm_region: {region} alpha: 2 local_size: 3 }}"
    x = blob(1, torch.bfloat16)
    net = load_layer("LRN", settings, x)
    y = net.bfloat16()({"b0": x})["t0"]
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.double(), net.double()({"b0": x})["t0"], rtol=2**-8, atol=0)
