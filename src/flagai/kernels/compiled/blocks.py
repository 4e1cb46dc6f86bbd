"""Compiled blocks with kernels of our own: modules are exchanged for others that share their parameters."""

from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels import hardware
from flagai.kernels.compiled.add_norm import MAX_WIDTH, dropout_add_norm
from flagai.kernels.compiled.autocast import matmul_dtype
from flagai.kernels.compiled.bias_gelu import features_with_residual
from flagai.kernels.compiled.linear_residual import linear_with_residual
from flagai.kernels.eligible import is_plain_linear, is_plain_norm
from flagai.kernels.packed.attention import suits_varlen
from flagai.kernels.packed.attention_autograd import (
    MAX_HEAD,
    length_classes,
    short_attention_autograd,
    short_attention_qkv,
)
from flagai.kernels.packed.short_attention import MAX_SEQLEN
from flagai.model.block.compile import compile_blocks, compile_module
from flagai.model.block.post_norm_block import PostNormBlock
from flagai.model.block.stack import BlockStack
from flagai.model.layer.attention import Attention
from flagai.model.layer.cache import LayerCache
from flagai.model.layer.embedding import Embeddings
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.kernel_choice import is_hooked
from flagai.model.layer.rotary import Rotation
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention

# Flash attention is told one of these as the longest text: any other number would be compiled again, and it starts
# programs for all of that length, also for short texts.
_MAX_SEQLENS = {"short": MAX_SEQLEN, "256": 256, "512": 512, "2048": 2048, "32768": 32768}

M = TypeVar("M", bound=nn.Module)


class CompiledMask(AttentionMask):
    """The mask of packed texts, with their lengths as tensors: numbers would be compiled into the code.

    Args:
        mask: the mask.
        device: where the model computes.
    """

    def __init__(self, mask: AttentionMask, device: torch.device) -> None:
        super().__init__(mask.tensor, mask.causal, mask.packed, mask.cu_seqlens)
        self.max_seqlen: str | None = None  # a key of _MAX_SEQLENS, where flash attention may be used
        if mask.packed is not None and mask.tensor is None and hardware.is_ampere(device):
            longest = mask.packed.max_seqlen
            self.max_seqlen = next((name for name, most in _MAX_SEQLENS.items() if longest <= most), None)
        self.classes: torch.Tensor | None = None  # where the kernel for short texts may be used
        if mask.packed is not None and self.max_seqlen == "short" and hardware.has_triton(device):
            self.classes = length_classes(mask.packed)


class FusedAttention(Attention):
    """Attention with one product for queries, keys and values, and one gradient of its input."""

    def forward(
        self,
        hidden: torch.Tensor,
        attn_mask: AttentionMask,
        *,
        memory: torch.Tensor | None = None,
        cache: LayerCache | None = None,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        """Attention [B, S, D] of hidden states [B, S, D] with one product for queries, keys and values."""
        if cache is not None or rotation is not None:
            return super().forward(hidden, attn_mask, memory=memory, cache=cache, rotation=rotation)
        return self.out(self.heads(hidden, attn_mask))

    def heads(self, hidden: torch.Tensor, attn_mask: AttentionMask) -> torch.Tensor:
        """The input of the last layer, [B, S, width] -> [B, S, H * D]; exchanged or hooked layers are called."""
        joined = self._joined()
        if joined is None:
            query, key, value = self.q(hidden), self.k(hidden), self.v(hidden)
        elif self._suits_qkv(attn_mask):
            return self._by_qkv_kernel(F.linear(hidden, joined[0]), joined[1], attn_mask)
        else:
            query, key, value = F.linear(hidden, *joined).chunk(3, dim=-1)
        query, key, value = map(self.split_heads, (query, key, value))
        dropout = self.dropout if self.training else 0.0
        return _attend(query, key, value, attn_mask, self.scale, dropout).transpose(1, 2).flatten(2)

    def heads_with_residual(self, hidden: torch.Tensor, attn_mask: AttentionMask) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual, see :func:`linear_with_residual`, and the same."""
        joined = self._joined()
        if joined is None or not self._suits_qkv(attn_mask):
            return hidden, self.heads(hidden, attn_mask)
        hidden, product = linear_with_residual(hidden, joined[0])
        return hidden, self._by_qkv_kernel(product, joined[1], attn_mask)

    def _joined(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Weight and bias of queries, keys and values, unless their layers must be called."""
        layers = (self.q, self.k, self.v)
        if not all(map(is_plain_linear, layers)):
            return None
        return torch.cat([each.weight for each in layers]), torch.cat([each.bias for each in layers])

    def _suits_qkv(self, attn_mask: AttentionMask) -> bool:
        dropout = self.dropout if self.training else 0.0
        return _suits_short(matmul_dtype(self.q.weight), attn_mask, self.head_dim, self.scale, dropout)

    def _by_qkv_kernel(self, product: torch.Tensor, bias: torch.Tensor, attn_mask: AttentionMask) -> torch.Tensor:
        """Of one product without its bias: the kernels add that, and sum its gradient."""
        qkv, biases = (values.unflatten(-1, (3, -1, self.head_dim)) for values in (product.squeeze(0), bias))
        classes = cast(CompiledMask, attn_mask).classes
        return short_attention_qkv(qkv, biases, attn_mask.cu_seqlens, classes).flatten(1).unsqueeze(0)


class FusedPostNorm(PostNormBlock):
    """A post-norm block whose norms take the last layers before them, and whose residuals share gradients."""

    def forward(
        self, hidden: torch.Tensor, attn_mask: AttentionMask, *, cache: LayerCache | None = None
    ) -> torch.Tensor:
        """The block [B, S, D] of hidden states [B, S, D] with each residual sum and its norm in one kernel."""
        if cache is not None or not self.has_known_parts():
            return super().forward(hidden, attn_mask, cache=cache)
        attention, feed_forward = cast(FusedAttention, self.attention), cast(FeedForward, self.feed_forward)
        norm1, norm2 = cast(HalfLayerNorm, self.norm1), cast(HalfLayerNorm, self.norm2)
        hidden, heads = attention.heads_with_residual(hidden, attn_mask)
        hidden = dropout_add_norm(norm1, hidden, attention.out, heads, self.dropout)
        hidden, inner = features_with_residual(feed_forward, hidden)
        return dropout_add_norm(norm2, hidden, feed_forward.down, feed_forward.dropout(inner), self.dropout)

    def has_known_parts(self) -> bool:
        """Whether all layers are as they were when the block was compiled, without hooks."""
        parts = (
            (self.attention, FusedAttention),
            (self.feed_forward, FeedForward),
            (self.dropout, nn.Dropout),
            (self.norm1, HalfLayerNorm),
            (self.norm2, HalfLayerNorm),
        )
        return all(type(part) is kind and not is_hooked(part) for part, kind in parts)


class HalfLayerNorm(nn.LayerNorm):
    """A norm that writes the dtype of autocast: a third of the memory traffic less, as in models in bfloat16."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        normed = super().forward(hidden)
        return normed.to(matmul_dtype(normed))


class FusedEmbeddings(Embeddings):
    """Embeddings whose sum and norm are compiled, without the tables.

    The compiler's gradient of a lookup adds with atomics, token after token to the same row.
    """

    finish: "SumAndNorm"

    def forward(
        self,
        tokens: torch.Tensor,
        *,
        position_ids: torch.Tensor | None = None,
        block_position_ids: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The sum [B, S, D] of the embeddings of tokens [B, S] and their positions in one kernel."""
        parts = self.look_up(tokens, position_ids, block_position_ids, segment_ids)
        return cast(torch.Tensor, self.finish(parts, self.norm, self.dropout))


class SumAndNorm(nn.Module):
    """The end of the embeddings, as a module that can be compiled."""

    def forward(self, parts: list[torch.Tensor], norm: nn.Module, dropout: nn.Module) -> torch.Tensor:
        """[B or 1, S, width] each -> [B, S, width]."""
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return cast(torch.Tensor, dropout(norm(total)))


class CompiledStack(BlockStack):
    """A stack whose blocks get a :class:`CompiledMask` of packed texts."""

    def forward(self, hidden: torch.Tensor, attn_mask: AttentionMask, **options: Any) -> torch.Tensor:
        """The hidden states [B, S, D] behind all blocks, compiled by torch."""
        if attn_mask.packed is not None:
            attn_mask = CompiledMask(attn_mask, hidden.device)
        return super().forward(hidden, attn_mask, **options)


def _suits(model: nn.Module) -> bool:
    return any(isinstance(module, BlockStack) for module in model.modules())


@compile_blocks.faster(_suits)
def compile_fused_blocks(model: nn.Module) -> None:
    """Compile the blocks of a model, and exchange its layers for those above; each kernel asks whether it suits."""
    import torch.nn.attention.varlen  # noqa: F401 - registers the operator before anything is compiled

    _exchange_children(model)
    for stack in model.modules():
        if isinstance(stack, BlockStack):
            for block in stack:
                compile_module(block)


def _exchange_children(module: nn.Module, inside: bool = False) -> None:
    """Exchange what is known under a module.

    Args:
        module: the module.
        inside: whether it is in a stack of blocks: norms outside keep their dtype.
    """
    for name, child in module.named_children():
        fused = _fused(child, inside)
        _exchange_children(child, inside or isinstance(child, BlockStack))
        if fused is not None:
            setattr(module, name, fused)


def _fused(module: nn.Module, inside: bool) -> nn.Module | None:
    if type(module) is BlockStack:
        return _become(module, CompiledStack)
    if type(module) is Attention and module.k.out_features == module.q.out_features:
        return _become(module, FusedAttention)
    if inside and type(module) is nn.LayerNorm:
        return _become(module, HalfLayerNorm)
    if type(module) is Embeddings and type(module.norm) is nn.LayerNorm:  # else a sum goes on that may be wide
        fused = _become(module, FusedEmbeddings)
        fused.norm = _become(module.norm, HalfLayerNorm)
        fused.finish = SumAndNorm()
        compile_module(fused.finish)
        return fused
    if isinstance(module, PostNormBlock) and type(module).forward is PostNormBlock.forward:
        known = is_plain_norm(module.norm1, MAX_WIDTH) and is_plain_norm(module.norm2, MAX_WIDTH)
        return _become(module, FusedPostNorm) if known else None
    return None


def _become(module: nn.Module, kind: type[M]) -> M:
    """The same module as one of another class, which shares parameters, submodules and hooks."""
    other = kind.__new__(kind)
    other.__dict__.update(module.__dict__)
    return other


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: AttentionMask,
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    """As :func:`flagai.model.layer.sdpa.scaled_dot_product_attention`, for compiled code."""
    if not isinstance(attn_mask, CompiledMask):
        return scaled_dot_product_attention(query, key, value, attn_mask, scale=scale, dropout=dropout)
    head = query.shape[-1]
    cu_seqlens, max_seqlen = attn_mask.cu_seqlens, attn_mask.max_seqlen
    if cu_seqlens is None or max_seqlen is None or not suits_varlen(query.dtype, head, scale, dropout):
        return cast(torch.Tensor, _attend_by_text(query, key, value, attn_mask, scale, dropout))
    from torch.nn.attention.varlen import varlen_attn

    # Not [0], whose gradient is a copy.
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    most = _MAX_SEQLENS[max_seqlen]
    if _suits_short(query.dtype, attn_mask, head, scale, dropout):
        attended = short_attention_autograd(query, key, value, cu_seqlens, attn_mask.classes)
    else:
        attended = cast(torch.Tensor, varlen_attn(query, key, value, cu_seqlens, cu_seqlens, most, most))
    return attended.transpose(0, 1).unsqueeze(0)


def _suits_short(dtype: torch.dtype, attn_mask: AttentionMask, head: int, scale: float | None, dropout: float) -> bool:
    classes = attn_mask.classes if isinstance(attn_mask, CompiledMask) else None
    return classes is not None and dtype in hardware.HALF and scale is None and not dropout and head <= MAX_HEAD


def _by_text(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: AttentionMask,
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask, scale=scale, dropout=dropout)


# Texts one length after the other: that differs in every batch and is not compiled.
_attend_by_text: Any = torch.compiler.disable(_by_text)
