"""A decoding state whose beams are a chain: a prompt's answer, and behind its last token a draft of what may follow.

Beam w ends with the chain's token w, so beams are the beginnings of one answer, each attending to those before it. The
model scores all of them in one step; how much of the draft is accepted is known after it, for each row by itself.
"""

from collections.abc import Sequence

import torch

from flagai.data.prompt import Prompt
from flagai.generation.decoding_state import DecodingState
from flagai.generation.options import Decoding
from flagai.generation.protocol import GenerativeModel
from flagai.generation.types import Choice

_NO_END = 2**62


class DraftState(DecodingState):
    """Prompts, and one answer to each with a draft at its end (speculative decoding).

    Args:
        model: the model.
        prompts: the prompts; not empty.
        decoding: the options.
        lanes: number of tokens of a step, W: an answer's last one, and a draft of the others.

    Raises:
        InputError: see :class:`DecodingState`.
    """

    ragged = True
    per_beam = tuple(name for name in DecodingState.per_beam if name != "tokens")
    counters = ("token_index", "draft")

    def __init__(self, model: GenerativeModel, prompts: Sequence[Prompt], decoding: Decoding, lanes: int) -> None:
        super().__init__(model, prompts, decoding, lanes)
        # A step's slots are kept as far as the row goes that comes farthest in it.
        self.slots, self.steps = min(lanes, len(prompts)) * self.limit, self.limit + 1 + lanes
        self._ahead = torch.arange(lanes, device=self.device)
        # A draft beyond the table of positions is longer than the answer may become.
        self._highest = (self.max_positions or _NO_END) - 1
        # The index of each row's last token in its sequence, [B, 1]; at first, that of the prompt's last token.
        self.token_index = torch.full_like(self.lengths, self.text.shape[1] + int(self.protocol.starts) - 1)[:, None]
        self.draft = self.ids[:, :1]  # what a step feeds: the last token, and the draft behind it, [B, W]

    @property
    def sequence(self) -> torch.Tensor:
        """Prompts (an encoder's, too) and answers; tokens behind the last one are undefined, [B, T]."""
        return self.beams.tokens[:, 0]

    def _no_tokens(self) -> torch.Tensor:
        return torch.cat([self.text[:, None], super()._no_tokens()], dim=2)

    def _own_visibility(self) -> torch.Tensor:
        return torch.ones(self.lanes, self.lanes, dtype=torch.bool, device=self.device).tril()

    def accept(self, last: torch.Tensor, token: torch.Tensor) -> None:
        """Keep the draft as far as it was right; the next tokens take the slots that no row keeps.

        Args:
            last: the index of the last right token in the draft, [B, 1].
            token: the token behind it, [B, 1].
        """
        self.cache.rollback(self.beams.position.shape[1] - 1 - last.amax(0))
        # Finished rows are fed until they leave the batch; they must neither run out of room nor write over answers.
        self.token_index = (self.token_index + 1 + last).clamp(max=self.text.shape[1] + self.limit + 1)
        self.sequence.scatter_(1, self.token_index, token)

    def append(self, choice: Choice) -> None:
        """Put a draft behind every answer; all its beams go on where the answer does.

        Args:
            choice: the last token and the draft, [B, W].
        """
        if choice.parents is not None:
            self.reorder_beams(choice.parents)
        beams, tokens = self.beams, choice.tokens
        ahead = self._ahead[: tokens.shape[1]]
        if self.protocol.spans:
            head = self._advance(tokens[:, :1].expand_as(tokens), choice.stops)
            tokens = torch.cat([head[:, :1], tokens[:, 1:]], dim=1)
            beams.span_length = beams.span_length + ahead
            beams.block_position = (beams.block_position + ahead).clamp(max=self._highest)
        else:
            beams.span_length = beams.span_length + 1 + ahead
            beams.position = (beams.position + 1 + ahead).clamp(max=self._highest)
        self._append(tokens)
        self._put()

    def _append(self, tokens: torch.Tensor) -> None:
        self.draft = tokens
        self.sequence.scatter_(1, self.token_index + self._ahead[: tokens.shape[1]], tokens)
        self._attend_to_own(*tokens.shape)

    def last_tokens(self) -> torch.Tensor:
        """See the base class; that is the draft."""
        return self.draft

    def num_tokens(self) -> torch.Tensor:
        """See the base class."""
        return self.token_index + 1 - self.text.shape[1] + self._ahead[: self.beams.position.shape[1]]

    def history(self) -> torch.Tensor:
        """See the base class; drafts that are not verified yet are what follows in each beam's own answer."""
        ids = self.beams.tokens[:, :, self.text.shape[1] - self.past.shape[2] :]
        return self._right_aligned(ids.expand(-1, self.beams.position.shape[1], -1), self.num_tokens())

    def generated(self) -> torch.Tensor:
        """See the base class; tokens behind the draft are undefined."""
        return self.beams.tokens[:, :, self.text.shape[1] + int(self.protocol.starts) :]

    def keep_rows(self, rows: torch.Tensor) -> None:
        """See the base class."""
        super().keep_rows(rows)
        self.token_index, self.draft = self.token_index.index_select(0, rows), self.draft.index_select(0, rows)
