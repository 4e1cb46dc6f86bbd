"""Attention of short packed texts, one program for each text and head, by kernels of our own on a GPU."""

from typing import NamedTuple

import torch

from flagai.kernels.hardware import next_power_of_2

# Longer texts are better served by flash attention, which goes over the keys block by block.
MAX_SEQLEN = 128
# Warps of an attention program by the length of its tile; measured: others take up to three times as long.
WARPS = {16: 1, 32: 2, 64: 4, 128: 8}


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

    def within(self, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """Where those texts begin, and the end, [texts + 1]."""
        first, behind, _ = self.texts.indices(len(cu_seqlens) - 1)
        return cu_seqlens[first : behind + 1]

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


def single_tile(max_seqlen: int) -> list[Tile]:
    """One launch for all texts; best where their lengths are about the same."""
    size = max(16, next_power_of_2(max_seqlen))
    return [Tile(1, size, WARPS[size])]


def short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    tiles: list[Tile],
    bias: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Attention of short texts that stand in one row, each to itself, one program for each text and head.

    Args:
        query: [T, H, D]; rows may lie apart, heads and features may not.
        key: the same.
        value: the same.
        cu_seqlens: where each text begins, and the end, [N + 1].
        tiles: the launches; together they have every text.
        bias: what is still to be added to queries, keys and values, [3, H, D].
        causal: whether a position attends only to itself and to those before it.

    Shape:
        -> [T, H, D]
    """
    from flagai.kernels.triton.packed import short_attention_kernel

    total, heads, width = query.shape
    query, key, value = map(with_contiguous_rows, (query, key, value))
    out = query.new_empty(total, heads, width)
    for tile in tiles:
        places = tile.within(cu_seqlens)
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
            CAUSAL=causal,
            **tile.options(heads, width),
        )
    return out


def with_contiguous_rows(part: torch.Tensor) -> torch.Tensor:
    """The same values with contiguous heads and features in each row, [T, H, D]."""
    return part if part.stride()[1:] == (part.shape[2], 1) else part.contiguous()
