"""What encoders learn with by kernels of our own on a GPU: operators that the compiler and autograd know."""

from typing import Any

import torch

from flagai.model.layer.decoding import _power
from flagai.model.layer.encoding import WARPS, Tile, attend_short, beside

# With wider heads, the numbers of a long text are more than the shared memory of some GPUs.
WIDEST_HEAD = 64
# Texts of about the same length share a launch: a tile of twice the length takes four times the products.
_SIZES = (32, 64, 128)

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tiles_to(longest: int) -> list[Tile]:
    """One launch for every class of lengths up to ``longest``; which texts it has to do, each program looks up."""
    sizes = [size for size in _SIZES if size < 2 * longest] or [_SIZES[0]]
    return [Tile(1 + before, size, WARPS[size]) for before, size in zip([0, *sizes], sizes, strict=False)]


@torch.library.custom_op("flagai::attend_short", mutates_args=())
def attend_learning(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor, longest: int
) -> torch.Tensor:
    """As :func:`flagai.model.layer.encoding.attend_short`, with gradients, for texts of very different lengths.

    Args:
        query: [T, H, D]
        key: [T, H, D]
        value: [T, H, D]
        offsets: where each text begins, and the end, [N + 1].
        longest: no text is longer.

    Shape:
        -> [T, H, D]
    """
    return attend_short(query, key, value, offsets, tiles_to(longest))


@torch.library.custom_op("flagai::attend_short_backward", mutates_args=())
def _attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    longest: int,
) -> Gradients:
    written = [query.new_empty(query.shape) for _ in range(3)]
    _write_gradients([gradient, query, key, value], written, offsets, longest)
    return written[0], written[1], written[2]


@attend_learning.register_fake
def _(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(query.shape)


@_attend_backward.register_fake
def _(*inputs: Any) -> Gradients:
    query = inputs[1]
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 - named by torch
    *tensors, ctx.longest = inputs
    ctx.save_for_backward(*tensors)


def _attend_gradients(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return *_attend_backward(gradient, *ctx.saved_tensors, ctx.longest), None, None


attend_learning.register_autograd(_attend_gradients, setup_context=_keep)


@torch.library.custom_op("flagai::attend_short_jointly", mutates_args=())
def attend_jointly(joint: torch.Tensor, offsets: torch.Tensor, longest: int) -> torch.Tensor:
    """As :func:`attend_learning`, where one product gave queries, keys and values, and has one gradient.

    Args:
        joint: [T, 3, H, D]
        offsets: where each text begins, and the end, [N + 1].
        longest: no text is longer.

    Shape:
        -> [T, H, D]
    """
    query, key, value = joint.unbind(1)
    return attend_short(query, key, value, offsets, tiles_to(longest))


@torch.library.custom_op("flagai::attend_short_jointly_backward", mutates_args=())
def _attend_jointly_backward(
    gradient: torch.Tensor, joint: torch.Tensor, offsets: torch.Tensor, longest: int
) -> torch.Tensor:
    written = torch.empty_like(joint, memory_format=torch.contiguous_format)
    _write_gradients([gradient, *joint.unbind(1)], list(written.unbind(1)), offsets, longest)
    return written


@attend_jointly.register_fake
def _(joint: torch.Tensor, *_: Any) -> torch.Tensor:
    return joint.new_empty(joint.shape[0], *joint.shape[2:])  # len() would bind the compiler to this size


@_attend_jointly_backward.register_fake
def _(gradient: torch.Tensor, joint: torch.Tensor, *_: Any) -> torch.Tensor:  # noqa: ARG001 - named by torch
    return torch.empty_like(joint, memory_format=torch.contiguous_format)


def _attend_jointly_gradients(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return _attend_jointly_backward(gradient, *ctx.saved_tensors, ctx.longest), None, None


attend_jointly.register_autograd(_attend_jointly_gradients, setup_context=_keep)


def _write_gradients(
    read: list[torch.Tensor], written: list[torch.Tensor], offsets: torch.Tensor, longest: int
) -> None:
    """The gradients of queries, keys and values.

    Args:
        read: the gradient of what was found, queries, keys and values, [T, H, D] each.
        written: the results, whose rows lie equally far apart.
        offsets: where each text begins, and the end, [N + 1].
        longest: no text is longer.
    """
    from flagai.model.layer.triton_training import short_attention_gradient_kernel

    read, (_, heads, width) = [beside(part) for part in read], written[0].shape
    for tile in tiles_to(longest):
        short_attention_gradient_kernel[((len(offsets) - 1) * heads,)](
            *read,
            offsets,
            *written,
            width**-0.5,
            *(part.stride(0) for part in read),
            written[0].stride(0),
            SHORTEST=tile.shortest,
            H=heads,
            D=width,
            BD=max(16, _power(width)),
            BS=tile.size,
            num_warps=tile.warps,
        )
