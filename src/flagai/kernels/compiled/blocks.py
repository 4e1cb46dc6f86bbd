"""Blocks compiled by torch.compile, for training and for encoders."""

import logging
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.compiled.add_norm import dropout_add_norm, plain
from flagai.kernels.compiled.bias_gelu import bias_gelu_features, features_with_residual
from flagai.kernels.compiled.eligible import is_plain
from flagai.kernels.compiled.linear_residual import linear_with_residual
from flagai.kernels.hardware import has_triton_half
from flagai.kernels.packed.attention import MAX_SEQLEN
from flagai.kernels.packed.attention_autograd import (
    WIDEST_HEAD,
    length_classes,
    short_attention_autograd,
    short_attention_qkv,
)
from flagai.model.base_model import BaseModel
from flagai.model.block import BlockStack, PostNormBlock
from flagai.model.layer.attention import Attention
from flagai.model.layer.embedding import Embeddings
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.mask import AttentionMask
from flagai.model.layer.operation import is_hooked
from flagai.model.layer.sdpa import scaled_dot_product_attention

logger = logging.getLogger(__name__)

# What torch's flash attention for packed texts takes.
_HALF, _WIDEST_HEAD, _CAPABILITY = (torch.float16, torch.bfloat16), 256, (8, 0)
# The longest text that the kernel is told of is one of these: any other number would be compiled again, and it starts
# programs for all of that length, also for short texts.
_REACHES = {"short": MAX_SEQLEN, "256": 256, "512": 512, "2048": 2048, "32768": 32768}


class Seen:
    """What compiled code reads of a mask.

    The compiler checks every field of a frozen dataclass before each call, also the lengths of packed texts, and
    compiles again where they differ. Of this class it checks what is used.

    Args:
        whole: the mask.
        device: where the model computes.
    """

    def __init__(self, whole: AttentionMask, device: torch.device) -> None:
        self.whole = whole
        self.tensor, self.causal, self.packed = whole.tensor, whole.causal, whole.row is not None
        self.offsets = whole.offsets
        self.reach: str | None = None  # one of those that flash attention may be told of
        if whole.row is not None and whole.offsets is not None and whole.tensor is None and device.type == "cuda":
            longest, capable = whole.row.longest, torch.cuda.get_device_capability(device) >= _CAPABILITY
            self.reach = next((name for name, reach in _REACHES.items() if capable and longest <= reach), None)
        # Whether a kernel of our own is there for the shortest.
        self.ours = self.reach == "short" and has_triton_half(device, torch.float16)
        self.classes = length_classes(whole.row) if self.ours and whole.row is not None else None


def compile_blocks(model: BaseModel) -> None:
    """Compile the blocks of a model in place, for any batch size and length; equal blocks share their code.

    A block that cannot be compiled runs as before, after one warning. Under autocast, norms inside of blocks write half
    precision: that saves a third of the memory traffic, and is what models in bfloat16 do.

    Args:
        model: the model; it stays of its class, and its parameters keep their names.
    """
    import torch.nn.attention.varlen  # noqa: F401 - registers the operator before anything is compiled

    for module in model.modules():
        _give_kernels(module)
    for stack in model.modules():
        if isinstance(stack, BlockStack):
            stack.register_forward_pre_hook(_with_what_is_seen, with_kwargs=True)
            for block in stack:
                for norm in block.modules():
                    if isinstance(norm, nn.LayerNorm):
                        norm.register_forward_hook(_in_half)
                _compile(block)


def _compile(module: nn.Module) -> None:
    """Compile a module, which runs as it is where the compiler fails.

    torch's own switch for that, ``suppress_errors``, would also hide the failures of the caller's own models.
    """
    module.compile(dynamic=True)
    compiled: Any = module._compiled_call_impl
    plain: Any = module._call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except (torch._dynamo.exc.TorchDynamoException, AssertionError) as error:  # it does not wrap its own assertions
            found = plain(*args, **kwargs)  # raises, too, if it is the input that does not fit
            module._compiled_call_impl = None
            logger.warning("%s cannot be compiled and runs as it is. %s", type(module).__name__, error)
            return found

    module._compiled_call_impl = call


def _give_kernels(module: nn.Module) -> None:
    """Exchange what a module computes with; each kernel asks for itself whether it suits."""
    if isinstance(module, Attention):
        module.kernel = _attend
        if type(module) is Attention:
            module.whole_kernel = _project_and_attend
    elif isinstance(module, Embeddings) and module.norm is not None:  # else a sum goes on that may be wide
        # Not the tables: the compiler's gradient of a lookup adds with atomics, token after token to the same row.
        module.norm.register_forward_hook(_in_half)
        _compile(module.finish)
    elif isinstance(module, FeedForward):
        module.kernel = bias_gelu_features
    elif isinstance(module, PostNormBlock) and plain(module.norm1) and plain(module.norm2):
        module.whole_kernel = _post_norm


def _has_known_parts(block: PostNormBlock) -> bool:
    """Whether a block's layers may be computed apart; which of their last layers, :func:`dropout_add_norm` decides."""
    parts = ((block.attention, Attention), (block.feed_forward, FeedForward), (block.dropout, nn.Dropout))
    # Norms have one hook, which is ours.
    heard = any(len(norm._forward_hooks) > 1 or norm._forward_pre_hooks for norm in (block.norm1, block.norm2))
    return not heard and all(type(part) is kind and not is_hooked(part) for part, kind in parts)


def _post_norm(block: Any, hidden: torch.Tensor, seen: Any) -> torch.Tensor:
    """As :meth:`PostNormBlock.forward`; the norms compute the last layers before them, whose biases they may add.

    What goes past a layer comes out of its first product, where both gradients meet.
    """
    if not _has_known_parts(block):
        apart: torch.Tensor = block.by_parts(hidden, seen)
        return apart
    attention, feed_forward = block.attention, block.feed_forward
    hidden, found = _attention_with_residual(attention, hidden, seen)
    hidden = dropout_add_norm(block.norm1, hidden, attention.out, found, block.dropout)
    hidden, features = features_with_residual(feed_forward, hidden)
    return dropout_add_norm(block.norm2, hidden, feed_forward.down, feed_forward.dropout(features), block.dropout)


def _in_half(_: nn.Module, __: Any, normed: torch.Tensor) -> torch.Tensor:
    return normed.to(_type_of_products(normed))


def _type_of_products(numbers: torch.Tensor) -> torch.dtype:
    """That of autocast, or the numbers' own."""
    kind = numbers.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else numbers.dtype


def _with_what_is_seen(
    _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Exchange the masks of a stack's call."""
    device = positional[0].device

    def exchanged(value: Any) -> Any:
        return Seen(value, device) if isinstance(value, AttentionMask) else value

    return tuple(map(exchanged, positional)), {name: exchanged(value) for name, value in named.items()}


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: Seen,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """As :func:`flagai.model.layer.sdpa.scaled_dot_product_attention`."""
    if not seen.packed:
        mask = seen.tensor
        if mask is not None and mask.is_floating_point():
            mask = mask.to(query.dtype)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=seen.causal, scale=scale
        )
    head = query.shape[-1]
    suits = query.dtype in _HALF and not dropout and scale is None and head <= _WIDEST_HEAD and head % 8 == 0
    if seen.offsets is None or seen.reach is None or not suits:
        apart: torch.Tensor = _attend_apart(query, key, value, seen, scale, dropout)
        return apart
    from torch.nn.attention.varlen import varlen_attn

    # Not [0], whose gradient is a copy.
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    longest = _REACHES[seen.reach]
    if _suits_ours(query.dtype, seen, head, scale, dropout):
        attended = short_attention_autograd(query, key, value, seen.offsets, seen.classes)
    else:
        attended = cast(torch.Tensor, varlen_attn(query, key, value, seen.offsets, seen.offsets, longest, longest))
    return attended.transpose(0, 1).unsqueeze(0)


def _suits_ours(dtype: torch.dtype, seen: Seen, head: int, scale: float | None, dropout: float) -> bool:
    return seen.ours and dtype in _HALF and scale is None and not dropout and head <= WIDEST_HEAD


def _project_and_attend(attention: Attention, hidden: torch.Tensor, seen: Seen) -> torch.Tensor:
    """What attention has found, before its last layer: one product instead of three, and one gradient of its input.

    Layers that somebody has exchanged or listens to are called as ever.
    """
    joined, dropout = _joined(attention), attention.dropout if attention.training else 0.0
    if joined is None:
        parts = tuple(layer(hidden) for layer in (attention.q, attention.k, attention.v))
    elif _suits_jointly(attention, seen):
        return _attend_jointly(attention, F.linear(hidden, joined[0]), joined[1], seen)
    else:
        parts = F.linear(hidden, *joined).chunk(3, dim=-1)
    query, key, value = map(attention._heads, parts)
    return _attend(query, key, value, seen, scale=attention.scale, dropout=dropout).transpose(1, 2).flatten(2)


def _attention_with_residual(
    attention: Attention, hidden: torch.Tensor, seen: Seen
) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual, see :func:`linear_with_residual`, and what attention gives before its last layer."""
    joined = _joined(attention)
    if joined is None or not _suits_jointly(attention, seen):
        return hidden, _project_and_attend(attention, hidden, seen)
    hidden, product = linear_with_residual(hidden, joined[0])
    return hidden, _attend_jointly(attention, product, joined[1], seen)


def _joined(attention: Attention) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weight and bias of queries, keys and values, unless their layers must be called."""
    layers = (attention.q, attention.k, attention.v)
    if not all(map(is_plain, layers)):
        return None
    return torch.cat([each.weight for each in layers]), torch.cat([each.bias for each in layers])


def _suits_jointly(attention: Attention, seen: Seen) -> bool:
    dropout = attention.dropout if attention.training else 0.0
    return _suits_ours(_type_of_products(attention.q.weight), seen, attention.head_dim, attention.scale, dropout)


def _attend_jointly(attention: Attention, product: torch.Tensor, bias: torch.Tensor, seen: Seen) -> torch.Tensor:
    """Of one product without its bias: the kernels add that, and sum its gradient."""
    rows, shift = (numbers.unflatten(-1, (3, -1, attention.head_dim)) for numbers in (product.squeeze(0), bias))
    return short_attention_qkv(rows, shift, seen.offsets, seen.classes).flatten(1).unsqueeze(0)


def _by_texts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: Seen, scale: float | None, dropout: float
) -> torch.Tensor:
    return scaled_dot_product_attention(query, key, value, seen.whole, scale=scale, dropout=dropout)


# Texts one length after the other: that differs in every batch and is not compiled.
_attend_apart: Any = torch.compiler.disable(_by_texts)
