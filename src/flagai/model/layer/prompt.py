"""Learned prompts: embeddings that stand in place of some tokens."""

import torch
from torch import nn

from flagai.errors import ConfigError


class PromptSpell(nn.Module):
    """Learned embeddings, optionally run through an LSTM or an MLP, put at given positions.

    Args:
        length: number of prompt tokens, P.
        width: size of the embeddings.
        function: "lstm", "mlp" or "none".

    Source:
        THUDM/GLM, model/prompt.py.
    """

    def __init__(self, length: int, width: int, function: str) -> None:
        super().__init__()
        if function not in ("lstm", "mlp", "none"):
            raise ConfigError(f"spell_func is {function!r}; expected 'lstm', 'mlp' or 'none'.")
        self.spell_embeddings = nn.Embedding(length, width)
        self.lstm_head = (
            nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True) if function == "lstm" else None
        )
        inner = 2 * width if function == "lstm" else width
        self.mlp_head = (
            None if function == "none" else nn.Sequential(nn.Linear(inner, width), nn.ReLU(), nn.Linear(width, width))
        )

    def prompt(self) -> torch.Tensor:
        """The prompt's embeddings, [P, width]."""
        positions = torch.arange(self.spell_embeddings.num_embeddings, device=self.spell_embeddings.weight.device)
        prompt = self.spell_embeddings(positions)[None]
        if self.lstm_head is not None:
            prompt = self.lstm_head(prompt)[0]
        if self.mlp_head is not None:
            prompt = self.mlp_head(prompt)
        return prompt[0]

    def insert(self, words: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Put the prompt into word embeddings.

        Args:
            words: [B, S, width]
            positions: where each row has the prompt tokens, [B, P].

        Shape:
            -> [B, S, width]
        """
        index = positions[..., None].expand(-1, -1, words.shape[-1])
        return words.scatter(1, index, self.prompt().to(words.dtype).expand(len(words), -1, -1))
