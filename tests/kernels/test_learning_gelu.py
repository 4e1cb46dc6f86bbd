"""GELU of a product and its bias gives torch's values and gradients."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from flagai.kernels import hardware
from flagai.kernels.compiled import bias_gelu as module
from flagai.kernels.compiled.bias_gelu import features_with_residual
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.linear import linear_act
from tests.kernels.operators import Operators

bias_gelu = torch.ops.flagai.bias_gelu


@pytest.fixture(autouse=True)
def there(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Few programs: each has several strides over the rows, the last of them not full.
    monkeypatch.setattr(module, "MOST_PROGRAMS", 4)
    with device:
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "size"), [(1, 48), (37, 24), (20, 300), (50, 512)])
def test_values_and_gradients(rows: int, size: int, half: torch.dtype) -> None:
    product, bias = (3 * torch.randn(1, rows, size)).to(half).requires_grad_(), torch.randn(size).requires_grad_()
    exact, exact_bias = product.detach().float().requires_grad_(), bias.detach().clone().requires_grad_()
    got, wanted = bias_gelu(product, bias), F.gelu(exact + exact_bias)
    assert got.dtype == half
    near = 4 * torch.finfo(half).eps
    torch.testing.assert_close(got.float(), wanted, atol=1e-6, rtol=near)
    weights = torch.randn(1, rows, size).to(half)
    found = torch.autograd.grad(got, (product, bias), weights)
    expected = torch.autograd.grad(wanted, (exact, exact_bias), weights.float())
    torch.testing.assert_close(found[0].float(), expected[0], atol=1e-6, rtol=near)
    # What is added up was not rounded.
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-5)


def test_far_from_zero_it_is_zero_or_the_number() -> None:
    product = torch.tensor([[-300.0, -20.0, 20.0, 300.0]]).half().requires_grad_()
    got = bias_gelu(product, torch.zeros(4))
    assert got.tolist() == [[0.0, 0.0, 20.0, 300.0]]
    (found,) = torch.autograd.grad(got.sum(), product)
    assert found.tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_operators_hold_what_the_compiler_expects() -> None:
    product, bias = torch.randn(3, 16).half().requires_grad_(), torch.randn(16).requires_grad_()
    torch.library.opcheck(bias_gelu.default, (product, bias))
    # Rows that do not lie in one piece.
    torch.library.opcheck(bias_gelu.default, (torch.randn(16, 3).half().t().requires_grad_(), bias))


@pytest.mark.parametrize("name", ["gelu", "gelu_new"])
def test_exact_gelu_only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(hardware, "has_triton_half", lambda *_: True)
    layer, hidden = FeedForward(16, 32, name), torch.randn(1, 5, 16)
    kind = hidden.device.type
    with Operators() as called:
        features_with_residual(layer, hidden)
    assert bias_gelu.default not in called, "without autocast"
    with torch.autocast(kind, torch.bfloat16):
        with Operators() as called:
            found = features_with_residual(layer, hidden)[1]
        wanted = linear_act(layer.up, hidden, name)
        torch.testing.assert_close(found.float(), wanted.float(), atol=2e-2, rtol=2e-2)
        assert (bias_gelu.default in called) == (name == "gelu")
        layer.up.register_forward_hook(lambda *_: None)
        with Operators() as called:
            features_with_residual(layer, hidden)
    assert bias_gelu.default not in called, "hooks are called"
