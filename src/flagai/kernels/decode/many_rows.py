"""Blocks over many tokens of a paged cache on a GPU in half precision: torch's products, and kernels between them."""

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.decode.common import ACTIVATIONS, MOST_ROWS
from flagai.kernels.eligible import is_untouched, linear_layers
from flagai.kernels.hardware import has_triton_half, next_power_of_2, pdl_options
from flagai.kernels.per_cache import PerCache, Stack
from flagai.model.block.stack import cached_blocks, prepare_decoding
from flagai.model.layer.adjacent import adjacent, make_adjacent
from flagai.model.layer.cache import KVCache
from flagai.model.layer.linear import Linear
from flagai.model.layer.paged_attention import paged_attention
from flagai.model.layer.paged_cache import PagedStep
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention

_MAX_WIDTH = 16384
# Numbers that a program of an activation computes.
_BLOCK = 2048


class ManyRowsStack:
    """Computes blocks with GPT-2's layers over the tokens of a call; it reads their parameters where they are.

    Args:
        blocks: the blocks.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks: list[Any] = list(blocks)

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any) -> torch.Tensor:
        """[1, T, width] -> [1, T, width]."""
        step, tokens, norm = cast(PagedStep, cache), hidden[0].contiguous(), self._blocks[0].norm1
        normed = F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        for index, (block, following) in enumerate(zip(self._blocks, [*self._blocks[1:], None], strict=True)):
            attention, feed_forward = block.attention, block.feed_forward
            attended = _attend(normed, attention, attn_mask, step, index)
            tokens, normed = add_linear_norm(tokens, attended, attention.out, block.norm2)
            inner = linear_activation(normed, feed_forward.up, feed_forward.activation_name)
            norm = None if following is None else following.norm1
            tokens, normed = add_linear_norm(tokens, inner, feed_forward.down, norm)
        return tokens[None]


def _projections(attention: Any) -> list[torch.Tensor]:
    """The matrices of queries, keys and values; one, if they lie side by side."""
    weights = [attention.q.weight, attention.k.weight, attention.v.weight]
    whole = adjacent(weights)
    return weights if whole is None else [whole]


def _attend(
    normed: torch.Tensor, attention: Any, attn_mask: AttentionMask, step: PagedStep, index: int
) -> torch.Tensor:
    """Self-attention without its last product, [T, width] -> [T, H * D]; keys and values go to their slots."""
    qkv = _qkv(normed, attention, step, index, keep=attn_mask.table is None)
    if attn_mask.table is None:
        query, key, value = (part.transpose(0, 1)[None] for part in qkv.unbind(1))
        if step.past is not None:
            key, value = step.append(index, key, value)
        attended = scaled_dot_product_attention(query, key, value, attn_mask, scale=attention.scale)
        return attended[0].transpose(0, 1).flatten(1)
    pools, scale = step.pool.layer(index), attention.scale
    return paged_attention(qkv[:, 0], *pools, attn_mask.table, bias=attn_mask.tensor, scale=scale).flatten(1)


def _qkv(normed: torch.Tensor, attention: Any, step: PagedStep, index: int, keep: bool) -> torch.Tensor:
    """Queries, [T, 3, H, D]; keys and values are in their slots, and with ``keep`` in the result, too."""
    from flagai.kernels.triton.many_rows import bias_to_slots_kernel

    layers = (attention.q, attention.k, attention.v)
    count, width = len(normed), attention.q.out_features
    weights = _projections(attention)
    product = normed.new_empty(count, 3 * width)
    for part, weight in zip(product.chunk(len(weights), 1), weights, strict=True):
        torch.mm(normed, weight.t(), out=part)
    qkv = product.view(count, 3, -1, attention.head_dim)
    if step.pool.keys[index] is None:  # writing makes the pool
        step.pool.write(index, step.slot_mapping[:0], qkv[:0, 1], qkv[:0, 2])
    bias_to_slots_kernel[(count, 3)](
        qkv,
        *(layer.bias for layer in layers),
        step.slot_mapping,
        *step.pool.layer(index),
        N=width,
        BN=next_power_of_2(width),
        KEEP=keep,
        num_warps=4,
        **pdl_options(normed.device),
    )
    return qkv


def add_linear_norm(
    residual: torch.Tensor, tokens: torch.Tensor, layer: nn.Linear, norm: nn.LayerNorm | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of a residual and a linear layer, and the norm of it.

    Args:
        residual: [T, N]
        tokens: the layer's input, [T, K].
        layer: the layer, [N, K].
        norm: None if none follows.

    Shape:
        -> two of [T, N]
    """
    from flagai.kernels.triton.many_rows import residual_norm_kernel

    product = tokens @ layer.weight.t()
    width, warps = product.shape[1], 4 if product.shape[1] <= 2048 else 8
    out, normed = torch.empty_like(product), torch.empty_like(product) if norm is not None else product
    residual_norm_kernel[(len(product),)](
        residual,
        product,
        layer.bias,
        layer.bias if norm is None else norm.weight,
        layer.bias if norm is None else norm.bias,
        0.0 if norm is None else norm.eps,
        out,
        normed,
        K=width,
        BK=next_power_of_2(width),
        NORM=norm is not None,
        num_warps=warps,
        **pdl_options(product.device),
    )
    return out, normed


def linear_activation(tokens: torch.Tensor, layer: nn.Linear, activation_name: str, lt: bool = True) -> torch.Tensor:
    """A linear layer and its activation, [T, K] -> [T, N].

    Args:
        tokens: [T, K]
        layer: the layer, [N, K].
        activation_name: a key of ``ACTIVATIONS``.
        lt: whether cuBLASLt may compute bias and activation at the end of the product, where it knows them.
    """
    from flagai.kernels.triton.many_rows import bias_act_kernel

    name = ACTIVATIONS[activation_name]
    if lt and tokens.is_cuda and name in ("gelu_tanh", "relu"):  # its GELU is the one with tanh
        return torch._addmm_activation(layer.bias, tokens, layer.weight.t(), use_gelu=name == "gelu_tanh")
    product = tokens @ layer.weight.t()
    bias_act_kernel[(-(-product.numel() // _BLOCK),)](
        product,
        layer.bias,
        product.numel(),
        N=layer.out_features,
        BLOCK=_BLOCK,
        ACTIVATION=name,
        num_warps=8,
        **pdl_options(tokens.device),
    )
    return product


def _stack(blocks: nn.ModuleList, hidden: torch.Tensor) -> Stack | None:
    taken = len(blocks) > 0 and all(is_untouched(block) and _takes(block, hidden.dtype) for block in blocks)
    return ManyRowsStack(blocks) if taken else None


def _takes(block: Any, dtype: torch.dtype) -> bool:
    parameters, layers = list(block.parameters()), linear_layers(block)
    return (
        not block.training
        and has_triton_half(parameters[0].device, dtype)
        and all(type(layer) is Linear and layer.out_features <= _MAX_WIDTH for layer in layers)
        and all(type(each) is nn.Parameter and each.dtype is dtype and each.is_contiguous() for each in parameters)
        and block.feed_forward.activation_name in ACTIVATIONS
    )


_STACKS = PerCache(_stack)


def _has_projections(blocks: nn.ModuleList) -> bool:
    first: Any = next(iter(blocks), None)
    return first is not None and _stack(blocks, first.norm1.weight) is not None


@prepare_decoding.faster(_has_projections)
def join_projections(blocks: nn.ModuleList) -> None:
    """Let the matrices of queries, keys and values lie side by side: one product instead of three."""
    for block in blocks:
        attention: Any = block.attention
        make_adjacent([attention.q.weight, attention.k.weight, attention.v.weight])


def _suits(blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any) -> bool:
    """Whether it computes these tokens: all prompts, and steps with more rows than the kernels of few take."""
    return (
        isinstance(cache, PagedStep)
        and cache.slot_mapping.is_contiguous()
        and not torch.is_grad_enabled()
        and (attn_mask.table is None or hidden.shape[1] > MOST_ROWS)
        # One answer for all numbers of rows, of which prompts have any.
        and _STACKS.suits(blocks, hidden[:, :1], attn_mask, cache, **cross)
    )


@cached_blocks.faster(_suits, jit=True)
def many_rows_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """Blocks of GPT-2's kind: torch's products, with all that stands between two of them in one kernel."""
    return ManyRowsStack(blocks)(hidden, attn_mask, cache)
