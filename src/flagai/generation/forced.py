"""Words that an answer must contain: which are there, which come next, and a fair share of beams for each stage.

Source: Post and Vilar 2018, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation", section 3.
"""

from collections.abc import Sequence

import torch


class ForcedWords:
    """Sequences of ids that every answer contains.

    Args:
        words: for each word its spellings, of which every answer contains one; none empty.
        device: where the beams are.
    """

    def __init__(self, words: Sequence[Sequence[Sequence[int]]], device: torch.device) -> None:
        self.words = [[torch.tensor(spelling, device=device) for spelling in word] for word in words]
        self.lengths = [max(map(len, word)) for word in self.words]
        self.total = sum(self.lengths)

    def progress(self, ids: torch.Tensor) -> torch.Tensor:
        """How many tokens of each word stand: all if it occurs anywhere, else as many as the answer ends with.

        Of several spellings the one counts that lacks the fewest tokens.

        Args:
            ids: answers, [B, N, T].

        Shape:
            -> [B, N, C] for C words
        """
        found = []
        for word, length in zip(self.words, self.lengths, strict=True):
            lacking = [len(spelling) - self._one(ids, spelling) for spelling in word]
            found.append(length - torch.stack(lacking).amin(0))
        return torch.stack(found, dim=-1)

    @staticmethod
    def _one(ids: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
        length, size = ids.shape[2], len(word)
        found = torch.zeros_like(ids[:, :, 0]) if length else ids.new_zeros(ids.shape[:2])
        for count in range(1, min(size - 1, length) + 1):
            ends = (ids[:, :, length - count :] == word[:count]).all(-1)
            found = torch.where(ends, count, found)
        if length < size:
            return found
        occurs = (ids.unfold(2, size, 1) == word).all(-1).any(-1)
        return torch.where(occurs, size, found)

    def complete(self, ids: torch.Tensor) -> torch.Tensor:
        """Which answers contain all words, [B, N]."""
        return self.progress(ids).sum(-1) >= self.total

    def following(self, ids: torch.Tensor) -> torch.Tensor:
        """The next token of each spelling, [B, N, C]; of one that is there, its last one again."""
        spellings = [spelling for word in self.words for spelling in word]
        tokens = [spelling[self._one(ids, spelling).clamp(max=len(spelling) - 1)] for spelling in spellings]
        return torch.stack(tokens, dim=-1)

    def dynamic_beam_allocation(self, values: torch.Tensor, ids: torch.Tensor, width: int) -> torch.Tensor:
        """Choose answers in turn from those that have more and less of the words, the best of each first.

        Args:
            values: scores, best first; -inf for what must not be chosen, [B, K].
            ids: the answers, [B, K, T].
            width: how many to choose.

        Returns:
            Indices, [B, width].
        """
        stage = self.progress(ids).sum(-1)
        alive = values > -torch.inf
        earlier = (stage[:, :, None] == stage[:, None, :]) & alive[:, None, :]
        turn = earlier.tril(-1).sum(-1)  # how many better ones have the same stage
        order = turn * (self.total + 1) + (self.total - stage)
        return order.masked_fill(~alive, torch.iinfo(order.dtype).max).argsort(dim=1, stable=True)[:, :width]
