"""Layers of task heads."""

import torch
from torch import nn

from flagai.model.layer.activations import activation
from flagai.model.layer.linear import Linear, linear_act


class Pooler(nn.Module):
    """The first position's state through a linear layer and tanh.

    Args:
        width: size of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """[B, width] -> [B, width]."""
        return torch.tanh(self.dense(state))


class MaskLMHead(nn.Module):
    """BERT's head for predicting tokens: transform, normalise, score against the embeddings.

    Args:
        width: size of the hidden states.
        vocab_size: number of tokens.
        activation_name: activation of the transform.
        eps: epsilon of its norm.
        embedding: the token embeddings to share, or None for weights of its own.
    """

    def __init__(
        self, width: int, vocab_size: int, activation_name: str, eps: float, embedding: nn.Embedding | None
    ) -> None:
        super().__init__()
        self.transform = Linear(width, width)
        activation(activation_name)  # an unknown name is an error now, not with the first text
        self.activation_name = activation_name
        self.norm = nn.LayerNorm(width, eps=eps)
        self.decoder = Linear(width, vocab_size)
        if embedding is not None:
            self.decoder.weight = embedding.weight

    def features(self, hidden: torch.Tensor) -> torch.Tensor:
        """The transformed states that are scored, [B, S, width] (FlagAI returns them as ``hidden_states``)."""
        return self.norm(linear_act(self.transform, hidden, self.activation_name))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, S, width] -> [B, S, V]."""
        return self.decoder(self.features(hidden))
