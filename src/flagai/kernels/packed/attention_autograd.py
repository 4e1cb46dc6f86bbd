"""What encoders learn with by kernels of our own on a GPU: operators that the compiler and autograd know."""

from typing import Any

import numpy as np
import torch

from flagai.kernels.packed.attention import WARPS, Tile, beside, short_attention
from flagai.model.layer.packed_row import PackedRow

# With wider heads, the numbers of a long text are more than the shared memory of some GPUs.
WIDEST_HEAD = 64
# The longest texts of the classes of lengths.
_SIZES = (32, 64, 128)
# Registers of a thread, by the size of a tile: with more, a processor holds one program less. The largest holds just
# one as it is, but what it would have to put aside with less takes longer: 0.26 ms instead of 0.22.
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
    if (lengths[1:] <= lengths[:-1]).all():  # the longest first: those of a class stand beside each other
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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """As :func:`flagai.kernels.packed.attention.short_attention`, with gradients, for texts of very different lengths.

    Args:
        query: [T, H, D]
        key: [T, H, D]
        value: [T, H, D]
        offsets: where each text begins, and the end, [N + 1].
        classes: see :func:`length_classes`.

    Shape:
        -> [T, H, D]
    """
    return short_attention(query, key, value, offsets, tiles_of(classes))


@torch.library.custom_op("flagai::short_attention_backward", mutates_args=())
def _attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    classes: torch.Tensor,
) -> Gradients:
    written = [query.new_empty(query.shape) for _ in range(3)]
    _write_gradients([gradient, query, key, value], written, offsets, classes)
    return written[0], written[1], written[2]


@short_attention_autograd.register_fake
def _(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(query.shape)


@_attend_backward.register_fake
def _(*inputs: Any) -> Gradients:
    query = inputs[1]
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _attend_gradients(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return *_attend_backward(gradient, *ctx.saved_tensors), None, None


short_attention_autograd.register_autograd(_attend_gradients, setup_context=_keep)


@torch.library.custom_op("flagai::short_attention_qkv", mutates_args=())
def short_attention_qkv(
    joint: torch.Tensor, bias: torch.Tensor, offsets: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """As :func:`short_attention_autograd`, where one product gave queries, keys and values, and has one gradient.

    Args:
        joint: [T, 3, H, D], without its bias.
        bias: [3, H, D]
        offsets: where each text begins, and the end, [N + 1].
        classes: see :func:`length_classes`.

    Shape:
        -> [T, H, D]
    """
    query, key, value = joint.unbind(1)
    return short_attention(query, key, value, offsets, tiles_of(classes), bias.contiguous())


@torch.library.custom_op("flagai::short_attention_qkv_backward", mutates_args=())
def _attend_jointly_backward(
    gradient: torch.Tensor, joint: torch.Tensor, bias: torch.Tensor, offsets: torch.Tensor, classes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    written = torch.empty_like(joint, memory_format=torch.contiguous_format)
    # Two sums for each text are little beside its gradients, and always the same.
    sums = bias.new_empty(offsets.numel() - 1, 2, *bias.shape[1:], dtype=torch.float32)
    read, parts = [gradient, *joint.unbind(1)], list(written.unbind(1))
    _write_gradients(read, parts, offsets, classes, bias.contiguous(), sums)
    of_bias = torch.zeros_like(bias, dtype=torch.float32, memory_format=torch.contiguous_format)
    torch.sum(sums, 0, out=of_bias[::2])
    return written, of_bias


@short_attention_qkv.register_fake
def _(joint: torch.Tensor, *_: Any) -> torch.Tensor:
    return joint.new_empty(joint.shape[0], *joint.shape[2:])  # len() would bind the compiler to this size


@_attend_jointly_backward.register_fake
def _(_: torch.Tensor, joint: torch.Tensor, bias: torch.Tensor, *__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    written = torch.empty_like(joint, memory_format=torch.contiguous_format)
    return written, torch.empty_like(bias, dtype=torch.float32, memory_format=torch.contiguous_format)


def _attend_jointly_gradients(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    of_joint, of_bias = _attend_jointly_backward(gradient, *ctx.saved_tensors)
    return of_joint, of_bias.to(ctx.saved_tensors[1].dtype), None, None


short_attention_qkv.register_autograd(_attend_jointly_gradients, setup_context=_keep)


def _write_gradients(
    read: list[torch.Tensor],
    written: list[torch.Tensor],
    offsets: torch.Tensor,
    classes: torch.Tensor,
    bias: torch.Tensor | None = None,
    sums: torch.Tensor | None = None,
) -> None:
    """The gradients of queries, keys and values.

    Args:
        read: the gradient of what was found, queries, keys and values, [T, H, D] each.
        written: the results, whose rows lie equally far apart.
        offsets: where each text begins, and the end, [N + 1].
        classes: see :func:`length_classes`.
        bias: what is still to be added to queries, keys and values, [3, H, D].
        sums: of the gradients of the queries' and values' biases, one result more for each text, [N, 2, H, D].
    """
    from flagai.kernels.triton.packed_backward import short_attention_backward_kernel

    read, (_, heads, width) = [beside(part) for part in read], written[0].shape
    for tile in tiles_of(classes):
        places = tile.within(offsets)
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
