"""GLM-mini-ch for training: the same parameters and results as ``GLMForSeq2Seq``, in three functions to compile.

All tokens of a batch are one dimension, whatever the width of its rows, so that torch.compile makes one code for all
batches; all layers share it, as their parameters are arguments.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from flagai.model.glm_model import GLMForSeq2Seq

_EPS = 1e-5
Parameters = list[torch.Tensor]


def before(hidden: torch.Tensor, p: Parameters, dtype: torch.dtype) -> torch.Tensor:
    """Norm, and the queries, keys and values of the tokens, [T, W] -> [T, 3 * W]."""
    normed = F.layer_norm(hidden, hidden.shape[-1:], p[0], p[1], _EPS).to(dtype)
    return F.linear(normed, torch.cat(p[2:8:2]).to(dtype), torch.cat(p[3:8:2]).to(dtype))


def after(hidden: torch.Tensor, attended: torch.Tensor, p: Parameters, dropout: float) -> torch.Tensor:
    """What follows attention in a block; the residual stream keeps its type."""
    dtype = attended.dtype
    out = F.linear(attended, p[8].to(dtype), p[9].to(dtype))
    hidden = hidden + F.dropout(out, dropout)
    normed = F.layer_norm(hidden, hidden.shape[-1:], p[10], p[11], _EPS).to(dtype)
    inner = F.gelu(F.linear(normed, p[12].to(dtype), p[13].to(dtype)), approximate="tanh")
    return hidden + F.dropout(F.linear(inner, p[14].to(dtype), p[15].to(dtype)), dropout)


def scored(
    hidden: torch.Tensor, targets: torch.Tensor, words: torch.Tensor, p: Parameters, dtype: torch.dtype
) -> torch.Tensor:
    """The sum of the losses of all targets that are not negative; in float32."""
    normed = F.layer_norm(hidden, hidden.shape[-1:], p[0], p[1], _EPS).to(dtype)
    logits = F.linear(normed, words.to(dtype)).float()
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")


class Functions:
    """The three functions with settings, compiled for any number of tokens if asked.

    Args:
        dtype: of the matrix products.
        dropout: probability of dropping a feature.
        compiled: compile them by torch.compile.
    """

    def __init__(self, dtype: torch.dtype, dropout: float = 0.0, *, compiled: bool = False) -> None:
        self.dropout = dropout

        def first(hidden: torch.Tensor, p: Parameters) -> torch.Tensor:
            return before(hidden, p, dtype)

        def second(hidden: torch.Tensor, attended: torch.Tensor, p: Parameters) -> torch.Tensor:
            return after(hidden, attended, p, dropout)

        def last(hidden: torch.Tensor, targets: torch.Tensor, words: torch.Tensor, p: Parameters) -> torch.Tensor:
            return scored(hidden, targets, words, p, dtype)

        made: list[Any] = [first, second, last]
        self.before, self.after, self.scored = (torch.compile(f, dynamic=True) if compiled else f for f in made)


class FastGLM:
    """The training step's forward pass.

    Args:
        model: the model, in float32; its parameters are trained in place.
        using: what it is made of; models of one size may share it.
    """

    def __init__(self, model: GLMForSeq2Seq, using: "Functions") -> None:
        self.model, self.using = model, using
        backbone: Any = model.model
        self.embed = backbone.embed
        self.heads = model.config.num_attention_heads
        self.last = [backbone.norm.weight, backbone.norm.bias]
        self.layers = [self._parameters(block) for block in backbone.blocks]

    @staticmethod
    def _parameters(block: Any) -> Parameters:
        attention, forward = block.attention, block.feed_forward
        layers: list[nn.Module] = [block.norm1, attention.q, attention.k, attention.v, attention.out, block.norm2]
        return [tensor for layer in [*layers, forward.up, forward.down] for tensor in (layer.weight, layer.bias)]

    def loss(self, batch: dict[str, torch.Tensor], asked: int) -> torch.Tensor:
        """The sum of the losses of a batch.

        Args:
            batch: ``ids`` and ``targets`` [B, S]; of blanks ``positions`` and ``blocks``, too, and ``separator`` [B].
            asked: at least as many as there are targets that are not negative; those alone are scored.
        """
        ids = batch["ids"]
        rows, width = ids.shape
        places = torch.arange(width, device=ids.device)
        blocked = "positions" in batch
        positions = batch["positions"].flatten() if blocked else places.repeat(rows)
        blocks = batch["blocks"].flatten() if blocked else torch.zeros_like(positions)
        tables = self.embed
        hidden = F.embedding(ids.flatten(), tables.token.weight) + F.embedding(positions, tables.position.weight)
        hidden = F.dropout(hidden + F.embedding(blocks, tables.block_position.weight), self.using.dropout)
        mask = None
        if blocked:
            seen = places < batch["separator"].view(-1, 1, 1, 1)
            mask = seen | (places <= places[:, None])
        for parameters in self.layers:
            qkv = self.using.before(hidden, parameters).view(rows, width, 3, self.heads, -1)
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)
            hidden = self.using.after(hidden, attended.transpose(1, 2).reshape(rows * width, -1), parameters)
        targets = batch["targets"].flatten()
        chosen = (targets < 0).to(torch.int8).argsort(stable=True)[:asked]  # no look at the device, as nonzero needs
        return self.using.scored(hidden[chosen], targets[chosen], tables.token.weight, self.last)
