"""The kernels of T5's decoding step give what torch gives, also in pieces that do not fit the sizes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from flagai.model.layer.decoding import Slots
from flagai.model.layer.decoding_t5 import (
    Tiles,
    t5_attend,
    t5_attend_reference,
    t5_product,
    t5_product_reference,
    t5_project,
    t5_project_reference,
)
from flagai.model.layer.norm import RMSNorm
from tests.kernels.conftest import DEVICE

# Rows that are held, and rows in pieces; 48 features are no multiple of 64 or 32.
TILES = [Tiles(16, 4, 16), Tiles(16, 2, 16)]
FLOAT16, FLOAT = torch.float16, torch.float32
# The interpreter multiplies no matrices of bfloat16; float32 goes the same way.
BFLOAT = torch.bfloat16 if DEVICE == "cuda" else FLOAT


def layer(inputs: int, outputs: int, dtype: torch.dtype) -> Any:
    return nn.Linear(inputs, outputs, bias=False, dtype=dtype).requires_grad_(False)


def norm(size: int, dtype: torch.dtype) -> Any:
    made = RMSNorm(size).to(dtype).requires_grad_(False)
    made.weight.normal_(1, 0.3)
    return made


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.dtype == wanted.dtype
    # A rounding more or less.
    torch.testing.assert_close(got.float(), wanted.float(), atol=0.02, rtol=0.02)


@pytest.fixture(autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with device:
        yield


@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("tiles", TILES, ids=str)
@pytest.mark.parametrize(("dtype", "stream"), [(BFLOAT, BFLOAT), (FLOAT16, FLOAT), (FLOAT16, FLOAT16)], ids=str)
def test_products(rows: int, tiles: Tiles, dtype: torch.dtype, stream: torch.dtype) -> None:
    first, second = (layer(48, 40, dtype) for _ in range(2))
    tokens, residual = (torch.randn(rows, size).to(stream) for size in (48, 40))
    ways: list[dict[str, Any]] = [
        {"norm": norm(48, dtype)},
        {"norm": norm(48, dtype), "activation_name": "relu"},
        {"norm": norm(48, dtype), "activation_name": "gelu_new", "gated": second},
    ]
    for given in ways:
        close(t5_product(tokens, first, **given, tiles=tiles), t5_product_reference(tokens, first, **given))
    given = {"residual": residual}
    tokens = tokens.to(dtype)
    close(t5_product(tokens, first, **given, tiles=tiles), t5_product_reference(tokens, first, **given))


def test_a_wide_result() -> None:
    """What goes to a last layer in float32 is multiplied there: it would overflow float16."""
    first, second = (layer(32, 16, FLOAT16) for _ in range(2))
    for each in (first, second):
        each.weight.fill_(12)
    given: dict[str, Any] = {"activation_name": "gelu_new", "gated": second, "dtype": FLOAT}
    tokens = torch.ones(2, 32, dtype=FLOAT16)
    got = t5_product(tokens, first, **given)
    close(got, t5_product_reference(tokens, first, **given))
    assert got.min() > 1e5


@pytest.mark.parametrize(("batch", "lanes"), [(1, 1), (2, 9)])
@pytest.mark.parametrize("tiles", TILES, ids=str)
@pytest.mark.parametrize("dtype", [BFLOAT, FLOAT16], ids=str)
def test_projection(batch: int, lanes: int, tiles: Tiles, dtype: torch.dtype) -> None:
    heads, width, size, capacity = 3, 8, 48, 20
    layers = [layer(size, heads * width, dtype) for _ in range(3)]
    tokens = torch.randn(batch * lanes, size).to(dtype)
    buffers, now = torch.randn(2, batch, heads, capacity, width).to(dtype), torch.arange(lanes) + 7
    ours, theirs = (Slots(*buffers.clone(), now) for _ in range(2))
    before = norm(size, dtype)
    close(t5_project(tokens, before, *layers, ours, tiles), t5_project_reference(tokens, before, *layers, theirs))
    close(ours.keys, theirs.keys)
    close(ours.values, theirs.values)


@pytest.mark.parametrize(("batch", "lanes", "width"), [(1, 1, 8), (3, 2, 20), (1, 17, 8)])
@pytest.mark.parametrize("scored", [True, False])
def test_attention(batch: int, lanes: int, width: int, scored: bool) -> None:
    heads, capacity = 2, 150
    query = torch.randn(batch * lanes, heads * width).to(BFLOAT)
    keys, values = torch.randn(2, batch, heads, capacity, width).to(BFLOAT)
    seen = torch.rand(batch, 1, lanes if scored else 1, capacity) > 0.3
    seen[..., 70 + lanes :] = not scored
    seen[..., 3] = True
    mask = torch.randn(1, heads, lanes, capacity).masked_fill(~seen, -torch.inf).to(BFLOAT) if scored else seen
    # Nothing is written beyond the lanes' slots: whatever is there must not count.
    now = torch.arange(lanes) + 70 if scored else None
    if scored:
        keys[:, :, 70 + lanes :] = torch.nan
    got = t5_attend(query, keys, values, mask, 1.0, now)
    close(got, t5_attend_reference(query, keys.nan_to_num(), values, mask, 1.0))
