"""What encoders without gradients compute by kernels of our own on a GPU, in half precision."""

import torch
from torch import nn

from flagai.model.layer.decoding import _power, usable

# Fewer rows are not worth a kernel that has to be compiled: a decoding step has less.
_FEWEST_ROWS = 1024
_WIDEST = 8192
# Numbers that a program of the norm holds.
_NUMBERS = 4096
# Longer texts are better served by flash attention, which goes over the keys piece by piece.
LONGEST = 128
_WIDEST_HEAD = 128
# Warps of an attention program by the length of its tile; measured: others take up to three times as long.
_WARPS = {16: 1, 32: 2, 64: 4, 128: 8}


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
        and not (norm._forward_hooks or norm._forward_pre_hooks)
    )


def short_texts(query: torch.Tensor, longest: int) -> bool:
    """Whether :func:`attend_short` takes texts of at most this length, [T, H, D]."""
    return (
        longest <= LONGEST
        and query.shape[2] <= _WIDEST_HEAD
        and not torch.is_grad_enabled()
        and usable(query.device, query.dtype)
        and not torch.compiler.is_compiling()
    )


def attend_short(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    longest: int,
    warps: int | None = None,
) -> torch.Tensor:
    """Attention of short texts that stand in one row, each to itself, one program for each text and head.

    Args:
        query: [T, H, D]; rows may lie apart, heads and features may not.
        key: the same.
        value: the same.
        offsets: where each text begins, and the end, [N + 1].
        longest: the length of the longest text.
        warps: warps of a program; default what was measured to be best.

    Shape:
        -> [T, H, D]
    """
    from flagai.model.layer.triton_encoder import short_attention_kernel

    total, heads, width = query.shape
    query, key, value = (part if part.stride()[1:] == (width, 1) else part.contiguous() for part in (query, key, value))
    out, tile = query.new_empty(total, heads, width), max(16, _power(longest))
    short_attention_kernel[(len(offsets) - 1, heads)](
        query,
        key,
        value,
        offsets,
        out,
        width**-0.5,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        H=heads,
        D=width,
        BD=max(16, _power(width)),
        BS=tile,
        num_warps=warps or _WARPS[tile],
    )
    return out
