"""The kernels with which encoders learn give torch's values and gradients."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from flagai.kernels.packed.attention_autograd import (
    length_classes,
    short_attention_autograd,
    short_attention_qkv,
    tiles_of,
)
from flagai.model.layer.packed_row import PackedRow


@pytest.fixture(autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with device:
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("lengths", [(128, 65, 64, 33, 32, 1), (70, 66), (5,), (3, 128, 40), (40, 128)], ids=str)
def test_each_text_has_one_launch(lengths: tuple[int, ...]) -> None:
    tiles = tiles_of(length_classes(PackedRow(lengths)))
    for place, length in enumerate(lengths):
        found = [tile for tile in tiles if tile.shortest <= length <= tile.size]
        assert len(found) == 1
        assert place in range(*found[0].texts.indices(len(lengths)))
    if sorted(lengths, reverse=True) == list(lengths):
        launched = [len(range(*tile.texts.indices(len(lengths)))) for tile in tiles]
        assert sum(launched) == len(lengths), "programs without work"
        assert all(launched)


@pytest.mark.parametrize("lengths", [(1,), (16, 3, 9), (33, 20, 1, 7), (128, 64, 5, 65), (70, 40, 33, 9)], ids=str)
@pytest.mark.parametrize(
    ("width", "joint", "beside"),
    [
        (24, True, True),
        (8, False, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((8, True, True), (24, False, False))),
        *(pytest.param(width, False, True, marks=pytest.mark.slow) for width in (8, 24)),
    ],
)
def test_attention_of_short_texts(lengths: tuple[int, ...], width: int, joint: bool, beside: bool) -> None:
    row, heads = PackedRow(lengths), 3
    together = torch.randn(row.total, 3 * heads * width).half().requires_grad_()
    parts = [part.unflatten(1, (heads, width)) for part in together.chunk(3, dim=1)]
    leaves = [together]
    # Where heads do not lie beside each other, they are copied.
    query, key, value = parts if beside else [part.transpose(0, 1).contiguous().transpose(0, 1) for part in parts]
    offsets = row.cu_seqlens(together.device)
    if joint:
        leaves.append(torch.randn(3 * heads * width).requires_grad_())
        rows, bias = (leaf.unflatten(-1, (3, heads, width)) for leaf in leaves)
        got = short_attention_qkv(rows, bias, offsets, length_classes(row))
    else:
        got = short_attention_autograd(query, key, value, offsets, length_classes(row))
    exact = [leaf.detach().float().requires_grad_() for leaf in leaves]
    whole = (exact[0] + exact[1]) if joint else exact[0]
    split = [part.unflatten(1, (heads, width)).transpose(0, 1).split(lengths, 1) for part in whole.chunk(3, dim=1)]
    pieces = zip(*split, strict=True)
    wanted = torch.cat([F.scaled_dot_product_attention(*piece).transpose(0, 1) for piece in pieces])
    torch.testing.assert_close(got.float(), wanted, atol=4e-3, rtol=4e-3)
    weights = torch.randn_like(wanted).half()
    found = torch.autograd.grad(got, leaves, weights)
    expected = torch.autograd.grad(wanted, exact, weights.float())
    for one, other, leaf in zip(found, expected, leaves, strict=True):
        assert one.dtype == leaf.dtype
        torch.testing.assert_close(one.float(), other, atol=1e-2, rtol=1e-2)


def test_operators_hold_what_the_compiler_expects() -> None:
    row = PackedRow((5, 3))
    query, key, value = (torch.randn(8, 2, 16).half().requires_grad_() for _ in range(3))
    torch.library.opcheck(
        short_attention_autograd, (query, key, value, row.cu_seqlens(query.device), length_classes(row))
    )
    joint, bias = torch.randn(8, 3, 2, 16).half().requires_grad_(), torch.randn(3, 2, 16).requires_grad_()
    torch.library.opcheck(short_attention_qkv, (joint, bias, row.cu_seqlens(joint.device), length_classes(row)))
