"""The kernels of encoders give what torch gives."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.packed import add_norm as kernels
from flagai.kernels.packed.short_attention import short_attention, single_tile
from flagai.model.layer.norm import add_norm
from flagai.model.layer.packed_row import PackedRow


@pytest.fixture(autouse=True)
def there(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernels, "has_triton_half", lambda *_: True)
    monkeypatch.setattr(kernels, "_MIN_ROWS", 1)
    with device, torch.no_grad():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("rows", [1, 7, 65])
@pytest.mark.parametrize("size", [48, 64])
def test_norms_of_sums(rows: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = drawn_norm(size)
    hidden, added = (torch.randn(1, rows, size).half() for _ in range(2))
    wanted = norm(hidden + added)
    # Of the class: with a forward of its own, a norm is called.
    monkeypatch.setattr(nn.LayerNorm, "forward", lambda *_: pytest.fail("torch computes"))
    torch.testing.assert_close(add_norm(norm, hidden, added), wanted, atol=4e-3, rtol=4e-3)


def test_norms_that_are_replaced_or_listened_to_are_called() -> None:
    hidden, added = (torch.randn(1, 3, 48).half() for _ in range(2))
    replaced, heard = drawn_norm(48), drawn_norm(48)
    replaced.forward = lambda total: total + 1  # type: ignore[method-assign]
    assert torch.equal(add_norm(replaced, hidden, added), hidden + added + 1)
    heard.register_forward_hook(lambda *_: added)
    assert add_norm(heard, hidden, added) is added


def drawn_norm(size: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(size).half()
    norm.weight.normal_(1, 0.3)
    norm.bias.normal_()
    return norm


@pytest.mark.parametrize("lengths", [(1,), (16, 3, 9), (33, 20, 1, 7), (128, 5)], ids=str)
@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize("joint", [True, False])
def test_attention_of_short_texts(lengths: tuple[int, ...], width: int, joint: bool) -> None:
    row, heads = PackedRow(lengths), 3
    together = torch.randn(row.total, 3 * heads * width).half()
    parts = [part.unflatten(1, (heads, width)) for part in together.chunk(3, dim=1)]
    query, key, value = parts if joint else [part.contiguous() for part in parts]
    got = short_attention(query, key, value, row.cu_seqlens(query.device), single_tile(row.max_seqlen))
    pieces = zip(*(part.transpose(0, 1).split(lengths, dim=1) for part in parts), strict=True)
    wanted = torch.cat([F.scaled_dot_product_attention(*piece).transpose(0, 1) for piece in pieces])
    torch.testing.assert_close(got, wanted, atol=4e-3, rtol=4e-3)
