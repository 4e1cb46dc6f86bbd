"""The embeddings of a decoding step in one kernel: those of a token, its position and its place in a span, added up."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from flagai.kernels.eligible import is_hooked
from flagai.kernels.hardware import has_triton_half, pdl_options
from flagai.model.layer.embedding import CheckedEmbedding, Embeddings
from flagai.model.layer.quantized_embedding import QuantizedEmbedding

# Features that a program adds up.
_FEATURES = 1024


class SummedEmbeddings:
    """Computes what :class:`Embeddings` of ids and positions are; it reads their tables where they are.

    Args:
        embeddings: those that :func:`faster_embeddings` accepts.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    def __call__(
        self,
        tokens: torch.Tensor,
        *,
        position_ids: torch.Tensor,
        block_position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, S], two or three of them -> [B, S, width]."""
        from flagai.kernels.triton.decode import embedding_kernel

        token, position, block = (
            cast(Any, each)
            for each in (self._embeddings.token, self._embeddings.position, self._embeddings.block_position)
        )
        table, positions, blocks = token.weight, position.weight, None if block is None else block.weight
        out = positions.new_empty(*tokens.shape, positions.shape[1])
        scaled = type(token) is QuantizedEmbedding
        with_blocks = blocks is not None and block_position_ids is not None
        embedding_kernel[(tokens.numel(), -(-table.shape[1] // _FEATURES))](
            tokens.contiguous(),
            position_ids.contiguous(),
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
            # For the next one: this one is the first, and waits for the choice.
            EARLY=pdl_options(tokens.device)["EARLY"],
        )
        return out


def faster_embeddings(model: Any) -> Callable[..., torch.Tensor] | None:
    """What may compute a decoder's embeddings in a step; None if only they themselves may.

    Args:
        model: a model that writes.
    """
    found = getattr(model.backbone, "embed", None)
    if type(found) is not Embeddings or found.norm is not None or found.position is None:
        return None
    tables = [each for each in (found.token, found.position, found.block_position) if each is not None]
    plain = all(_is_plain(each, found.position.weight.dtype) for each in tables)
    return SummedEmbeddings(found) if plain and not any(map(is_hooked, found.modules())) else None


def _is_plain(table: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a table is one in one piece, which gives numbers of the others' type."""
    if type(table) not in (CheckedEmbedding, QuantizedEmbedding):
        return False
    weight = cast(nn.Parameter, table.weight)
    gives = table.dtype if type(table) is QuantizedEmbedding else weight.dtype
    return (
        gives is dtype
        and type(weight) is nn.Parameter
        and weight.is_contiguous()
        and has_triton_half(weight.device, dtype)
    )
