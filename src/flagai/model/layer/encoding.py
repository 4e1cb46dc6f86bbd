"""What encoders compute by kernels of our own on a GPU, in half precision; gradients are in :mod:`.training`."""

from typing import NamedTuple

import torch
from torch import nn

from flagai.model.layer.decoding import _power, usable
from flagai.model.layer.hooks import is_hooked

# Fewer rows are not worth a kernel that has to be compiled: a decoding step has less.
_FEWEST_ROWS = 1024
_WIDEST = 8192
# Numbers that a program of the norm holds.
_NUMBERS = 4096
# Longer texts are better served by flash attention, which goes over the keys piece by piece.
LONGEST = 128
_WIDEST_HEAD = 128
# Warps of an attention program by the length of its tile; measured: others take up to three times as long.
WARPS = {16: 1, 32: 2, 64: 4, 128: 8}


def added_norm(norm: nn.Module, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """The norm of a sum, in one pass over the memory where that is possible, [..., K] -> [..., K]."""
    if not isinstance(norm, nn.LayerNorm) or not _suits(norm, hidden, added):
        return norm(hidden + added)
    from flagai.model.layer.triton_encoder import added_norm_kernel

    size = hidden.shape[-1]
    count, out, block = hidden.numel() // size, torch.empty_like(hidden), _power(size)
    rows = max(1, _NUMBERS // block)
    added_norm_kernel[(-(-count // rows),)](
        hidden, added, norm.weight, norm.bias, norm.eps, out, count, K=size, ROWS=rows, BK=block, num_warps=4
    )
    return out


def _suits(norm: nn.LayerNorm, hidden: torch.Tensor, added: torch.Tensor) -> bool:
    return (
        type(norm) is nn.LayerNorm
        and not torch.is_grad_enabled()
        and usable(hidden.device, hidden.dtype)
        and hidden.numel() >= _FEWEST_ROWS * hidden.shape[-1]
        and hidden.shape[-1] <= _WIDEST
        and norm.normalized_shape == hidden.shape[-1:]
        and norm.bias is not None
        and type(norm.weight) is nn.Parameter
        and norm.weight.dtype is hidden.dtype is added.dtype
        and hidden.shape == added.shape
        and hidden.is_contiguous()
        and added.is_contiguous()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(hidden.device.type)
        and not is_hooked(norm)
    )


def short_texts(query: torch.Tensor, longest: int) -> bool:
    """Whether :func:`attend_short` takes texts of at most this length, [T, H, D]."""
    return (
        longest <= LONGEST
        and query.shape[2] <= _WIDEST_HEAD
        and usable(query.device, query.dtype)
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
        sizes = {"SHORTEST": self.shortest, "BS": self.size, "H": heads, "D": width, "BD": max(16, _power(width))}
        return sizes | {"num_warps": self.warps}


def one_tile(longest: int) -> list[Tile]:
    """One launch for all texts, none longer than ``longest``; best where their lengths are about the same."""
    size = max(16, _power(longest))
    return [Tile(1, size, WARPS[size])]


def attend_short(
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
    from flagai.model.layer.triton_encoder import short_attention_kernel

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
