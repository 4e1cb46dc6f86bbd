"""The fast product gives what torch's own gives, and keeps out where it would be wrong or slow."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from flagai.kernels.cpu import linear as products
from flagai.model.layer import CheckedEmbedding, Linear
from flagai.model.layer.activation import _ACTIVATIONS, activation
from flagai.model.layer.linear import linear_act


@pytest.fixture
def fast_products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The activations of all calls of the fast product."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("needs oneDNN")
    monkeypatch.setattr(products, "_HAS_ONEDNN", True)  # also where it would not be the fastest
    calls = []
    product = torch.ops.mkldnn._linear_pointwise

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[3])
        return product(*arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    return calls


@torch.no_grad()
@pytest.mark.parametrize("name", [None, *_ACTIVATIONS])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_torch(name: str | None, bias: bool, fast_products: list[str]) -> None:
    layer, hidden = Linear(256, 2048, bias=bias), 4 * torch.randn(2, 20, 256)
    expected = F.linear(hidden, layer.weight, layer.bias)
    expected = expected if name is None else activation(name)(expected)
    torch.testing.assert_close(layer(hidden, name), expected, atol=1e-5, rtol=1e-5)
    assert len(fast_products) == 1


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, 3, 4, 5])
@pytest.mark.parametrize("name", [None, "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_equal_torch(rows: int, name: str | None, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a decoder; torch's own product is not asked."""
    layer, hidden = Linear(64, 96, bias=bias), torch.randn(1, rows, 64)
    expected = F.linear(hidden, layer.weight, layer.bias)
    expected = expected if name is None else activation(name)(expected)
    monkeypatch.setattr(F, "linear", None)
    found = layer(hidden, name)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.is_contiguous()
    torch.testing.assert_close(layer(hidden.transpose(0, 1), name), expected.transpose(0, 1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_vocabulary_is_worth_preparing_for_few_rows(fast_products: list[str]) -> None:
    table, hidden = CheckedEmbedding(9000, 100, "token"), torch.randn(2, 3, 100)
    torch.testing.assert_close(table.score(hidden), F.linear(hidden, table.weight), atol=1e-4, rtol=1e-5)
    assert len(fast_products) == 1


def test_gradients_flow() -> None:
    layer, hidden = Linear(256, 2048), torch.randn(20, 256, requires_grad=True)
    for rows in (20, 4):
        layer.weight.grad = hidden.grad = None
        layer(hidden[:rows], "gelu").sum().backward()
        assert hidden.grad is not None
        assert layer.weight.grad is not None


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "hidden"),
    [
        (Linear(256, 2048), torch.randn(15, 256)),
        (Linear(256, 2048), torch.randn(256, 20).t()),
        (Linear(256, 2048).to(torch.bfloat16), torch.randn(20, 256, dtype=torch.bfloat16)),
        (Linear(256, 2048).double(), torch.randn(20, 256, dtype=torch.float64)),
        (Linear(32, 32), torch.randn(20, 32)),
    ],
    ids=["few rows", "strided input", "bfloat16", "float64", "little work"],
)
def test_torch_computes_the_rest(layer: Linear, hidden: torch.Tensor, fast_products: list[str]) -> None:
    torch.testing.assert_close(layer(hidden), F.linear(hidden, layer.weight, layer.bias))
    assert not fast_products


@torch.no_grad()
def test_a_transposed_weight_is_left_to_torch(fast_products: list[str]) -> None:
    layer, hidden = Linear(256, 2048), torch.randn(20, 256)
    layer.weight = torch.nn.Parameter(torch.randn(256, 2048).t())
    torch.testing.assert_close(layer(hidden), F.linear(hidden, layer.weight, layer.bias))
    assert not fast_products


@torch.no_grad()
def test_a_layer_put_in_place_of_ours_is_activated_too() -> None:
    foreign, hidden = torch.nn.Sequential(torch.nn.Linear(256, 2048)), torch.randn(20, 256)
    torch.testing.assert_close(linear_act(foreign, hidden, "relu"), foreign(hidden).relu())
