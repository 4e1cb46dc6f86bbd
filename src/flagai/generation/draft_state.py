"""A tree that is a chain: a text's answer, and behind its newest token a draft of what may follow.

Lane w ends with the chain's token w, so lanes are the beginnings of one answer, each seeing those before it. The model
scores all of them in one step; how much of the draft was right is known after it, for each text by itself.
"""

from collections.abc import Sequence

import torch

from flagai.data.prompt import Prompt
from flagai.generation.decoding_state import Tree
from flagai.generation.family import GenerativeModel
from flagai.generation.options import Decoding

_NO_END = 2**62


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
    per_lane = tuple(name for name in Tree.per_lane if name != "fed")
    moving = ("clock", "chain")

    def __init__(self, model: GenerativeModel, prompts: Sequence[Prompt], decoding: Decoding, width: int) -> None:
        super().__init__(model, prompts, decoding, width)
        # A step's slots are kept as far as the text goes that comes farthest in it.
        self.slots, self.steps = min(width, len(prompts)) * self.limit, self.limit + 1 + width
        self._ahead = torch.arange(width, device=self.device)
        # A draft that runs off the table of positions is longer than the answer may become.
        self._highest = (self.rows or _NO_END) - 1
        # Where the newest token of each text stands among all that is said, [B, 1]; at first, the prompt's last one.
        self.clock = torch.full_like(self.lengths, self.text.shape[1] + int(self.family.starts) - 1)[:, None]
        self.chain = self.ids[:, :1]

    @property
    def said(self) -> torch.Tensor:
        """Texts (an encoder's, too) and answers; what stands behind the newest token means nothing, [B, T]."""
        return self.lanes.fed[:, 0]

    def _nothing_fed(self) -> torch.Tensor:
        return torch.cat([self.text[:, None], super()._nothing_fed()], dim=2)

    def _kin(self) -> torch.Tensor:
        return torch.ones(self.width, self.width, dtype=torch.bool, device=self.device).tril()

    # -- growing -------------------------------------------------------------------------------------------------

    def accept(self, last: torch.Tensor, newest: torch.Tensor) -> None:
        """Keep the chain as far as it was right; what comes next takes the slots that no text keeps.

        Args:
            last: the place of the last right token in the chain, [B, 1].
            newest: the token behind it, [B, 1].
        """
        self.cache.take_back(self.lanes.position.shape[1] - 1 - last.amax(0))
        # Texts that are finished are fed on until they leave the batch; they must not run out of room, nor write over
        # their answers.
        self.clock = (self.clock + 1 + last).clamp(max=self.text.shape[1] + self.limit + 1)
        self.said.scatter_(1, self.clock, newest)

    def append(self, tokens: torch.Tensor, closes: torch.Tensor | None = None) -> None:
        """Put a chain behind every answer; all its lanes are where the answer goes on.

        Args:
            tokens: the newest token and the draft, [B, W].
            closes: where the piece ends after the newest token, [B, W]; None for nowhere.
        """
        lanes, ahead = self.lanes, self._ahead[: tokens.shape[1]]
        if self.family.spans:
            head = self._move(tokens[:, :1].expand_as(tokens), closes)
            tokens = torch.cat([head[:, :1], tokens[:, 1:]], dim=1)
            lanes.piece = lanes.piece + ahead
            lanes.block = (lanes.block + ahead).clamp(max=self._highest)
        else:
            lanes.piece = lanes.piece + 1 + ahead
            lanes.position = (lanes.position + 1 + ahead).clamp(max=self._highest)
        self._enter(tokens)

    def _enter(self, tokens: torch.Tensor) -> None:
        batch, width = tokens.shape
        self.chain = tokens
        self.said.scatter_(1, self.clock + self._ahead[:width], tokens)
        own = self._own[:width, :width].expand(batch, -1, -1)
        self.lanes.seen.index_copy_(2, self.cache.slots(width, self.device), own)

    # -- questions -----------------------------------------------------------------------------------------------

    def newest(self) -> torch.Tensor:
        """See the base class; that is the chain."""
        return self.chain

    def grown(self) -> torch.Tensor:
        """See the base class."""
        return self.clock + 1 - self.text.shape[1] + self._ahead[: self.lanes.position.shape[1]]

    def history(self) -> torch.Tensor:
        """See the base class; drafts that have not been judged yet are what follows in each lane's own answer."""
        ids = self.lanes.fed[:, :, self.text.shape[1] - self.past.shape[2] :]
        return self._at_the_end(ids.expand(-1, self.lanes.position.shape[1], -1), self.grown())

    def written(self) -> torch.Tensor:
        """See the base class; behind the chain, what is there means nothing."""
        return self.lanes.fed[:, :, self.text.shape[1] + int(self.family.starts) :]

    def select(self, rows: torch.Tensor) -> None:
        """See the base class."""
        super().select(rows)
        self.clock, self.chain = self.clock.index_select(0, rows), self.chain.index_select(0, rows)
