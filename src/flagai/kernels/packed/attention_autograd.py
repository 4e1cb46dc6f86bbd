"""Attention of short packed texts with gradients: operators that the compiler and autograd know."""

from typing import Any

import numpy as np
import torch

from flagai.kernels.packed.short_attention import WARPS, Tile, short_attention, with_contiguous_rows
from flagai.model.layer.packed_row import PackedRow

# With wider heads, the values of a long text exceed the shared memory of some GPUs.
MAX_HEAD = 64
# The longest texts of the classes of lengths.
_SIZES = (32, 64, 128)
# Registers of a thread, by the size of a tile: with more, a SM runs one program less. Of the largest it
# runs one in any case, and spilling would take longer: 0.26 ms instead of 0.22.
_REGISTERS = {32: 128, 64: 128, 128: None}

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def length_classes(row: PackedRow) -> torch.Tensor:
    """Where the texts of each class of lengths stand, on the host, which knows lengths.

    Args:
        row: texts of at most 128 positions.

    Shape:
        -> [classes, 2], the first text and how many there are
    """
    lengths = np.array(row.lengths)
    borders = np.array([0, *_SIZES])
    counts = np.histogram(lengths, borders + 1)[0]
    if (lengths[1:] <= lengths[:-1]).all():  # the longest first: those of a class are neighbours
        firsts = counts[::-1].cumsum()[::-1] - counts
        return torch.from_numpy(np.stack([firsts, counts], 1))
    return torch.tensor([[0, len(lengths) if count else 0] for count in counts.tolist()])


def tiles_of(classes: torch.Tensor) -> list[Tile]:
    """A launch for every class that has texts: a tile of twice the length takes four times the products."""
    return [
        Tile(1 + before, size, WARPS[size], slice(first, first + count))
        for before, size, (first, count) in zip((0, *_SIZES), _SIZES, classes.tolist(), strict=False)
        if count
    ]


@torch.library.custom_op("flagai::short_attention", mutates_args=())
def short_attention_autograd(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """As :func:`~flagai.kernels.packed.short_attention.short_attention`, with gradients, for very different lengths.

    Args:
        query: [T, H, D]
        key: [T, H, D]
        value: [T, H, D]
        cu_seqlens: where each text begins, and the end, [N + 1].
        classes: see :func:`length_classes`.

    Shape:
        -> [T, H, D]
    """
    return short_attention(query, key, value, cu_seqlens, tiles_of(classes))


@torch.library.custom_op("flagai::short_attention_backward", mutates_args=())
def _short_attention_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    classes: torch.Tensor,
) -> Gradients:
    written = [query.new_empty(query.shape) for _ in range(3)]
    _write_gradients([gradient, query, key, value], written, cu_seqlens, classes)
    return written[0], written[1], written[2]


@short_attention_autograd.register_fake
def _(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(query.shape)


@_short_attention_backward.register_fake
def _(*inputs: Any) -> Gradients:
    query = inputs[1]
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return *_short_attention_backward(gradient, *ctx.saved_tensors), None, None


short_attention_autograd.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("flagai::short_attention_qkv", mutates_args=())
def short_attention_qkv(
    qkv: torch.Tensor, bias: torch.Tensor, cu_seqlens: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """As :func:`short_attention_autograd`, where one product gave queries, keys and values, and has one gradient.

    Args:
        qkv: [T, 3, H, D], without its bias.
        bias: [3, H, D]
        cu_seqlens: where each text begins, and the end, [N + 1].
        classes: see :func:`length_classes`.

    Shape:
        -> [T, H, D]
    """
    query, key, value = qkv.unbind(1)
    return short_attention(query, key, value, cu_seqlens, tiles_of(classes), bias.contiguous())


@torch.library.custom_op("flagai::short_attention_qkv_backward", mutates_args=())
def _short_attention_qkv_backward(
    gradient: torch.Tensor, qkv: torch.Tensor, bias: torch.Tensor, cu_seqlens: torch.Tensor, classes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    written = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    # Two sums for each text are small, and always the same.
    sums = bias.new_empty(cu_seqlens.numel() - 1, 2, *bias.shape[1:], dtype=torch.float32)
    read, parts = [gradient, *qkv.unbind(1)], list(written.unbind(1))
    _write_gradients(read, parts, cu_seqlens, classes, bias.contiguous(), sums)
    of_bias = torch.zeros_like(bias, dtype=torch.float32, memory_format=torch.contiguous_format)
    torch.sum(sums, 0, out=of_bias[::2])
    return written, of_bias


@short_attention_qkv.register_fake
def _(qkv: torch.Tensor, *_: Any) -> torch.Tensor:
    return qkv.new_empty(qkv.shape[0], *qkv.shape[2:])  # len() would bind the compiler to this size


@_short_attention_qkv_backward.register_fake
def _(_: torch.Tensor, qkv: torch.Tensor, bias: torch.Tensor, *__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    written = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    return written, torch.empty_like(bias, dtype=torch.float32, memory_format=torch.contiguous_format)


def _qkv_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    of_qkv, of_bias = _short_attention_qkv_backward(gradient, *ctx.saved_tensors)
    return of_qkv, of_bias.to(ctx.saved_tensors[1].dtype), None, None


short_attention_qkv.register_autograd(_qkv_backward, setup_context=_save)


def _write_gradients(
    read: list[torch.Tensor],
    written: list[torch.Tensor],
    cu_seqlens: torch.Tensor,
    classes: torch.Tensor,
    bias: torch.Tensor | None = None,
    sums: torch.Tensor | None = None,
) -> None:
    """The gradients of queries, keys and values.

    Args:
        read: the gradient of what was found, queries, keys and values, [T, H, D] each.
        written: the results, whose rows lie equally far apart.
        cu_seqlens: where each text begins, and the end, [N + 1].
        classes: see :func:`length_classes`.
        bias: what is still to be added to queries, keys and values, [3, H, D].
        sums: of the gradients of the queries' and values' biases, one result more for each text, [N, 2, H, D].
    """
    from flagai.kernels.triton.packed_backward import short_attention_backward_kernel

    read, (_, heads, width) = [with_contiguous_rows(part) for part in read], written[0].shape
    for tile in tiles_of(classes):
        places = tile.within(cu_seqlens)
        short_attention_backward_kernel[((len(places) - 1) * heads,)](
            *read,
            bias,
            places,
            *written,
            None if sums is None else sums[tile.texts],
            width**-0.5,
            *(part.stride(0) for part in read),
            written[0].stride(0),
            BIAS=bias is not None,
            **tile.options(heads, width),
            maxnreg=_REGISTERS[tile.size],
        )
