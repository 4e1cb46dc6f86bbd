"""The embeddings of a decoding step in one kernel: those of a token, its position and its place in a span, added up."""

from typing import Any, cast

import torch
from torch import nn

from flagai.kernels.hardware import has_triton_half, pdl_options
from flagai.model.layer.embedding import CheckedEmbedding, Embeddings, embed
from flagai.model.layer.operation import is_hooked
from flagai.model.layer.quantized_embedding import QuantizedEmbedding

# Features that a program adds up.
_FEATURES = 1024


def _suits(
    embeddings: Embeddings,
    tokens: torch.Tensor,
    position_ids: torch.Tensor | None,
    block_position_ids: torch.Tensor | None,
    segment_ids: torch.Tensor | None,
) -> bool:
    position = embeddings.position
    if torch.is_grad_enabled() or type(embeddings) is not Embeddings or embeddings.training or position is None:
        return False
    tables = [each for each in (embeddings.token, position, embeddings.block_position) if each is not None]
    return (
        embeddings.norm is None
        and segment_ids is None
        and tokens.dim() == 2
        and all(ids is None or ids.shape == tokens.shape for ids in (block_position_ids, position_ids))
        and position_ids is not None
        and all(_is_plain(each, position.weight.dtype) for each in tables)
        and not any(map(is_hooked, embeddings.modules()))
    )


def _is_plain(table: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a table is one in one piece whose rows have this dtype."""
    if type(table) not in (CheckedEmbedding, QuantizedEmbedding):
        return False
    weight = cast(nn.Parameter, table.weight)
    row_dtype = table.dtype if type(table) is QuantizedEmbedding else weight.dtype
    return (
        row_dtype is dtype
        and type(weight) is nn.Parameter
        and weight.is_contiguous()
        and has_triton_half(weight.device, dtype)
    )


@embed.faster(_suits, jit=True)
def fused_embeddings(
    embeddings: Embeddings,
    tokens: torch.Tensor,
    position_ids: torch.Tensor | None,
    block_position_ids: torch.Tensor | None,
    segment_ids: torch.Tensor | None,
) -> torch.Tensor:
    """[B, S], two or three of them -> [B, S, width]."""
    from flagai.kernels.triton.decode import embedding_kernel

    token, position, block = (
        cast(Any, each) for each in (embeddings.token, embeddings.position, embeddings.block_position)
    )
    table, positions, blocks = token.weight, position.weight, None if block is None else block.weight
    out = positions.new_empty(*tokens.shape, positions.shape[1])
    scaled = type(token) is QuantizedEmbedding
    with_blocks = blocks is not None and block_position_ids is not None
    embedding_kernel[(tokens.numel(), -(-table.shape[1] // _FEATURES))](
        tokens.contiguous(),
        cast(torch.Tensor, position_ids).contiguous(),
        block_position_ids.contiguous() if block_position_ids is not None and with_blocks else tokens,
        table,
        token.weight_scale if scaled else positions,
        positions,
        blocks if with_blocks else positions,
        out,
        table.shape[1],
        BK=_FEATURES,
        SCALED=scaled,
        BLOCKS=with_blocks,
        # For the kernel after it: this one is the first, and waits for the search's choice.
        PDL=pdl_options(tokens.device)["PDL"],
    )
    return out
