"""Attention of packed sequences on a GPU in half precision."""

from typing import NamedTuple, cast

import torch

from flagai.kernels.hardware import has_triton_half, next_power_of_2
from flagai.model.layer.mask import AttentionMask
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.sdpa import scaled_dot_product_attention

# What torch.nn.attention.varlen (flash attention) takes.
_VARLEN_TYPES = (torch.float16, torch.bfloat16)
_VARLEN_LARGEST_HEAD = 256
_VARLEN_CAPABILITY = (8, 0)
# Longer texts are better served by flash attention, which goes over the keys piece by piece.
MAX_SEQLEN = 128
_WIDEST_HEAD = 128
# Warps of an attention program by the length of its tile; measured: others take up to three times as long.
WARPS = {16: 1, 32: 2, 64: 4, 128: 8}


def short_texts(query: torch.Tensor, longest: int) -> bool:
    """Whether :func:`short_attention` takes texts of at most this length, [T, H, D]."""
    return (
        longest <= MAX_SEQLEN
        and query.shape[2] <= _WIDEST_HEAD
        and has_triton_half(query.device, query.dtype)
        and not torch.compiler.is_compiling()
    )


class Tile(NamedTuple):
    """Which texts a launch computes.

    Args:
        shortest: the length of the shortest one.
        size: that of the longest one, a power of two.
        warps: warps of a program.
        texts: which texts may have such a length.
    """

    shortest: int
    size: int
    warps: int
    texts: slice = slice(None)

    def within(self, offsets: torch.Tensor) -> torch.Tensor:
        """Where those texts begin, and the end, [texts + 1]."""
        first, behind, _ = self.texts.indices(len(offsets) - 1)
        return offsets[first : behind + 1]

    def options(self, heads: int, width: int) -> dict[str, int]:
        """The constants of a kernel for this launch, by the number of heads and their width."""
        sizes = {
            "SHORTEST": self.shortest,
            "BS": self.size,
            "H": heads,
            "D": width,
            "BD": max(16, next_power_of_2(width)),
        }
        return sizes | {"num_warps": self.warps}


def single_tile(longest: int) -> list[Tile]:
    """One launch for all texts, none longer than ``longest``; best where their lengths are about the same."""
    size = max(16, next_power_of_2(longest))
    return [Tile(1, size, WARPS[size])]


def short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    tiles: list[Tile],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of short texts that stand in one row, each to itself, one program for each text and head.

    Args:
        query: [T, H, D]; rows may lie apart, heads and features may not.
        key: the same.
        value: the same.
        offsets: where each text begins, and the end, [N + 1].
        tiles: the launches; together they have every text.
        bias: what is still to be added to queries, keys and values, [3, H, D].

    Shape:
        -> [T, H, D]
    """
    from flagai.kernels.triton.packed import short_attention_kernel

    total, heads, width = query.shape
    query, key, value = map(beside, (query, key, value))
    out = query.new_empty(total, heads, width)
    for tile in tiles:
        places = tile.within(offsets)
        short_attention_kernel[((len(places) - 1) * heads,)](
            query,
            key,
            value,
            bias,
            places,
            out,
            width**-0.5,
            query.stride(0),
            key.stride(0),
            value.stride(0),
            BIAS=bias is not None,
            **tile.options(heads, width),
        )
    return out


def beside(part: torch.Tensor) -> torch.Tensor:
    """The same numbers with a row's heads and features beside each other, [T, H, D]."""
    return part if part.stride()[1:] == (part.shape[2], 1) else part.contiguous()


def _suits(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: AttentionMask,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> bool:
    """Whether flash attention takes these packed sequences."""
    return (
        attn_mask.row is not None
        and attn_mask.offsets is not None
        and attn_mask.tensor is None
        and scale is None
        and not dropout
        and query.is_cuda
        and query.dtype in _VARLEN_TYPES
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= _VARLEN_LARGEST_HEAD
        and torch.cuda.get_device_capability(query.device) >= _VARLEN_CAPABILITY
    )


@scaled_dot_product_attention.faster(_suits, traceable=True)
def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: AttentionMask,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Packed sequences in one kernel: ours for short ones, else flash attention."""
    # [1, H, T, D] -> [T, H, D]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return _attend_rows(query, key, value, attn_mask).transpose(0, 1)[None]


def _attend_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: AttentionMask) -> torch.Tensor:
    row, offsets = cast(PackedRow, attn_mask.row), cast(torch.Tensor, attn_mask.offsets)
    if short_texts(query, row.longest):
        from flagai.kernels.packed.attention_autograd import WIDEST_HEAD, length_classes, short_attention_autograd

        if not torch.is_grad_enabled():
            return short_attention(query, key, value, offsets, single_tile(row.longest))
        if query.shape[2] <= WIDEST_HEAD:
            return short_attention_autograd(query, key, value, offsets, length_classes(row))
    from torch.nn.attention.varlen import varlen_attn  # registers operators: not for every import of a model

    return cast(torch.Tensor, varlen_attn(query, key, value, offsets, offsets, row.longest, row.longest))
