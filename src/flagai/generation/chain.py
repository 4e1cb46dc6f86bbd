"""A tree that is a chain: a text's answer, and behind its newest token a draft of what may follow.

Lane w ends with the chain's token w, so lanes are the beginnings of one answer, each seeing those before it. The model
scores all of them in one step; how much of the draft was right is known after it, for each text by itself.
"""

from collections.abc import Sequence
from typing import Any

import torch

from flagai.generation.options import Decoding
from flagai.generation.tree import Tree
from flagai.generation.types import Prompt


class Chain(Tree):
    """Texts, and one answer to each with a draft at its end.

    Args:
        model: the model.
        prompts: the texts; not empty.
        decoding: the options.
        width: number of tokens of a step, W: an answer's newest one, and a draft of the others.

    Raises:
        InputError: see :class:`Tree`.
    """

    apart = True

    def __init__(self, model: Any, prompts: Sequence[Prompt], decoding: Decoding, width: int) -> None:
        super().__init__(model, prompts, decoding, width)
        # A step's slots are kept as far as the text goes that comes farthest in it.
        self.slots, self.steps = min(width, len(prompts)) * self.limit, self.limit + 1 + width
        self._ahead = torch.arange(width, device=self.device)
        # How many tokens stand before the chain; before there is one, the prompt's last token or the start token is it.
        self.clock = torch.full_like(self.lengths, int(self.family.starts) - 1)[:, None]

    def _kin(self) -> torch.Tensor:
        return torch.ones(self.width, self.width, dtype=torch.bool, device=self.device).tril()

    # -- growing -------------------------------------------------------------------------------------------------

    def accept(self, last: torch.Tensor) -> None:
        """Keep the chain as far as it was right; what comes next takes the slots that no text keeps.

        Args:
            last: the place of the last right token in the chain, [B, 1].
        """
        self.cache.take_back(self.lanes.position.shape[1] - 1 - last.amax(0))
        # Texts that are finished are fed on until they leave the batch; they must not run out of room, nor write over
        # their answers.
        self.clock = (self.clock + 1 + last).clamp(max=self.limit + 1)

    def append(self, tokens: torch.Tensor, closes: torch.Tensor | None = None) -> None:
        """Put a chain behind every answer; all its lanes are where the answer goes on.

        Args:
            tokens: the newest token and the draft, [B, W].
            closes: where the piece ends after the newest token, [B, W]; None for nowhere.
        """
        head = self._move(tokens[:, :1].expand_as(tokens), closes)
        lanes, ahead = self.lanes, self._ahead[: tokens.shape[1]]
        lanes.piece = lanes.piece + ahead
        if self.family.spans:
            lanes.block = lanes.block + ahead
        else:
            lanes.position = lanes.position + ahead
        if self.rows is not None:
            # A draft that runs off the table is longer than the answer may become.
            lanes.position = lanes.position.clamp(max=self.rows - 1)
            lanes.block = lanes.block.clamp(max=self.rows - 1)
        self._enter(torch.cat([head[:, :1], tokens[:, 1:]], dim=1))

    def _enter(self, tokens: torch.Tensor) -> None:
        batch, width = tokens.shape
        places = (self.clock + self._ahead[:width])[:, None]
        self.lanes.fed.scatter_(2, places.expand(-1, width, -1), tokens[:, None].expand(-1, width, -1))
        own = self._own[:width, :width].expand(batch, -1, -1)
        self.lanes.seen.index_copy_(2, self.cache.slots(width, self.device), own)

    # -- questions -----------------------------------------------------------------------------------------------

    def newest(self) -> torch.Tensor:
        """See the base class; that is the chain."""
        lanes = self.lanes
        return lanes.fed[:, 0].gather(1, (self.clock + self._ahead[: lanes.fed.shape[1]]).clamp(min=0))

    def grown(self) -> torch.Tensor:
        """See the base class."""
        return self.clock + 1 + self._ahead[: self.lanes.fed.shape[1]]

    def history(self) -> torch.Tensor:
        """See the base class; drafts that have not been judged yet are what follows in each lane's own answer."""
        fed = self.lanes.fed
        return self._at_the_end(torch.cat([self.past.expand(-1, fed.shape[1], -1), fed], dim=2), self.grown())

    def source(self, newest: torch.Tensor) -> torch.Tensor:
        """What drafts are copied from: text and answer, the newest token last and -1 in front, [B, T].

        Args:
            newest: the token that comes next in every answer, [B, 1].
        """
        fed = self.lanes.fed[:, :1].scatter(2, self.clock[..., None], newest[..., None])
        return self._at_the_end(torch.cat([self.text[:, None], fed], dim=2), self.clock + 1)[:, 0]

    def written(self) -> torch.Tensor:
        """See the base class; behind the chain, what is there means nothing."""
        return self.lanes.fed[:, :1, int(self.family.starts) :]

    def select(self, rows: torch.Tensor) -> None:
        """See the base class."""
        super().select(rows)
        self.clock = self.clock.index_select(0, rows)
