"""A stack of blocks: runs them in order, with a cache and with recomputed activations if asked.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (checkpointed activations).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from flagai.model.layer.cache import KVCache
from flagai.model.layer.operation import operation
from flagai.model.layer.sdpa import AttentionMask


@operation
def cached_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """Run a decoder's blocks over new tokens.

    In inference on a CPU, ``kernels/cpu/decode_block.py`` computes this without calling the blocks' ``forward``;
    ``with only_kernels():`` calls it (for a breakpoint or a hook in a block).

    Args:
        blocks: the blocks.
        hidden: the embeddings, [B, S, width].
        attn_mask: which cached and new positions each token attends to.
        cache: past keys and values; the blocks append those of the S positions.
        **cross: for decoders of an encoder's output: ``memory`` and ``memory_attn_mask``.

    Shape:
        -> [B, S, width]
    """
    for index, block in enumerate(blocks):
        hidden = block(hidden, attn_mask, cache=cache.layer(index), **cross)
    return hidden


@operation
def prepare_decoding(blocks: nn.ModuleList) -> None:
    """Arrange the parameters of a decoder's blocks for steps to come; nothing else changes.

    Args:
        blocks: the blocks; nothing may hold the addresses of their parameters.
    """


class BlockStack(nn.ModuleList):
    """Blocks that are applied one after the other.

    Args:
        blocks: the blocks.
        checkpoint_activations: while training, keep only the input of each group of blocks and compute the rest
            again in the backward pass.
        group: number of blocks in such a group.
    """

    def __init__(self, blocks: Iterable[nn.Module], *, checkpoint_activations: bool = False, group: int = 1) -> None:
        super().__init__(blocks)
        self.checkpoint_activations = checkpoint_activations
        self.group = max(group, 1)

    def forward(
        self,
        hidden: torch.Tensor,
        attn_mask: AttentionMask,
        *,
        cache: KVCache | None = None,
        states: list[torch.Tensor] | None = None,
        **cross: Any,
    ) -> torch.Tensor:
        """Run the stack.

        Args:
            hidden: the embeddings, [B, S, width].
            attn_mask: what attends to what.
            cache: past keys and values; advanced by S positions.
            states: if given, the input and the output of every block are appended.
            **cross: for decoders: ``memory`` and ``memory_attn_mask``.

        Shape:
            -> [B, S, width]
        """
        count = hidden.shape[1]
        if cache is not None and states is None:
            hidden = cached_blocks(self, hidden, attn_mask, cache, **cross)
            cache.advance(count)
            return hidden
        collected = [hidden] if states is not None else None
        recompute = self.checkpoint_activations and torch.is_grad_enabled() and cache is None
        for start in range(0, len(self), self.group):
            indices = range(start, min(start + self.group, len(self)))
            if recompute:
                hidden, outputs = checkpoint(self._run, indices, hidden, attn_mask, None, cross, use_reentrant=False)
            else:
                hidden, outputs = self._run(indices, hidden, attn_mask, cache, cross)
            if collected is not None:
                collected += outputs
        if states is not None and collected is not None:
            states += collected
        if cache is not None:
            cache.advance(count)
        return hidden

    def _run(
        self,
        indices: range,
        hidden: torch.Tensor,
        attn_mask: AttentionMask,
        cache: KVCache | None,
        cross: dict[str, Any],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        outputs = []
        for index in indices:
            own = {} if cache is None else {"cache": cache.layer(index)}
            hidden = self[index](hidden, attn_mask, **own, **cross)
            outputs.append(hidden)
        return hidden, outputs
