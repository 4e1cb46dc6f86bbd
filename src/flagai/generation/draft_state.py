"""A decoding state whose lanes are a chain: an answer's last token, and behind it a draft of what may follow.

Lane w ends with the chain's token w, so lanes are the beginnings of one answer, each attending to those before it. The
model scores all of them in one step; how much of the draft is accepted is known after it, for each text by itself.
"""

from collections.abc import Sequence

import torch

from flagai.generation.decoding_state import DecodingState
from flagai.generation.request import Running
from flagai.generation.rows import Sizes
from flagai.generation.types import Choice
from flagai.model.layer.paged_cache import SCRATCH


class DraftState(DecodingState):
    """Texts, and one answer to each with a draft at its end (speculative decoding); see :class:`DecodingState`."""

    of_beams = tuple(name for name in DecodingState.of_beams if name not in ("slots", "tokens"))
    reported = ("sequence", "text_length", "token_index", "last_blank")

    def _add_tokens(self, sizes: Sizes) -> None:
        self.slots = self.add("slots", 1, sizes.table, dtype=torch.int32)
        self.own_slots = self.add("own_slots", 1, sizes.steps, dtype=torch.int32)
        # Prompt (an encoder's, too), answer and draft.
        self.sequence = self.add("sequence", sizes.text + sizes.steps)
        self.token_index = self.add("token_index", 1)  # where an answer's last token is in the sequence
        self.first_key = self.add("first_key", 1)  # how much higher that is than the number of the token's key
        self._ahead = torch.arange(sizes.lanes, device=self.device)

    def fill(self, running: Sequence[Running]) -> None:
        """Put requests into their rows; there is no draft yet, so the last token is repeated."""
        super().fill(running)
        begin = int(self.protocol.starts)
        self.put(
            sequence=[[*each.request.prompt.ids, *[self.start_id] * begin] for each in running],
            token_index=[len(each.request.prompt.ids) - 1 + begin for each in running],
        )
        self.staged("first_key")[...] = self.staged("token_index") + 1 - self.staged("lengths")[:, :1]

    def commit(self, rows: torch.Tensor) -> None:
        """Keep the accepted tokens of each row; later steps overwrite the slots of the others."""
        super().commit(rows)
        self._set_draft(self.next_ids[:, :1].expand(-1, self.sizes.lanes))

    def _fill_start_tokens(self, start_id: int) -> None:
        """Nothing: the sequence has the start token already."""

    def all_lanes(self) -> None:
        """Use all lanes again, after steps with shorter drafts: before texts come or go."""
        if self.next_ids.shape[1] < self.sizes.lanes:
            self._set_draft(self.next_ids[:, :1].expand(-1, self.sizes.lanes))

    def _set_draft(self, tokens: torch.Tensor) -> None:
        """Let lanes go on from the first one, the answer's own, by a draft.

        Args:
            tokens: the answer's last token, and the draft, [R, W].
        """
        ahead = self._ahead[: tokens.shape[1]]
        for name in ("position", "block_position", "blank_index", "span_length", "stopped"):
            setattr(self, name, getattr(self, name)[:, :1].repeat(1, tokens.shape[1]))
        self.span_length = self.span_length + ahead
        if self.protocol.spans:
            self.block_position = self._in_table(self.block_position + ahead)
        else:
            self.position = self._in_table(self.position + ahead)
        places = self.token_index + ahead
        keys = (places - self.first_key).clamp(0, self.sizes.table - 1)
        number = places - self.text_length[:, None]
        own = self.own_slots[:, 0].gather(1, number.clamp(0, self.sizes.steps - 1))
        # The first step feeds a token of the prompt, which has its slot; padding has none.
        padding = (tokens == self.rules.pad_id) & (ahead == 0) if self.rules.pad_id is not None else number < 0
        slots = torch.where((number < 0) | padding, self.slots[:, 0].gather(1, keys), own)
        self.slots = self.slots.scatter(2, keys[:, None], slots[:, None])
        if self.rules.pad_id is not None:
            slots = slots.masked_fill(padding, SCRATCH)
        self.sequence.scatter_(1, places.clamp(max=self.sequence.shape[1] - 1), tokens)
        self.next_ids, self.slot_mapping = tokens.contiguous(), slots.long()
        self.lengths = (keys.int() + 1).masked_fill(self.max_new_tokens[:, None] == 0, 0)

    def accept(self, last: torch.Tensor, token: torch.Tensor) -> None:
        """Keep the draft as far as it was right.

        Args:
            last: the index of the last right token in the draft, [R, 1].
            token: the token behind it, [R, 1].
        """
        # Texts that are done are fed until they leave: they must not run out of room.
        highest = self.text_length + self.limit + 1
        self.token_index = torch.minimum(self.token_index + 1 + last, highest[:, None])
        self.sequence.scatter_(1, self.token_index.clamp(max=self.sequence.shape[1] - 1), token)
        if self.rules.pad_id is not None:
            self.first_key = self.first_key + (token == self.rules.pad_id)

    def append(self, choice: Choice) -> None:
        """Put a draft behind every answer; all its lanes go on where the answer does.

        Args:
            choice: the last token and the draft, [R, W].
        """
        if choice.parents is not None:
            self.reorder_beams(choice.parents)
        tokens = choice.tokens
        head = self._advance(tokens[:, :1].expand_as(tokens), choice.stops)
        self._set_draft(torch.cat([head[:, :1], tokens[:, 1:]], dim=1))

    def _is_generated(self) -> torch.Tensor:
        return self.token_index + self._ahead[: self.next_ids.shape[1]] >= self.text_length[:, None]

    def num_generated(self) -> torch.Tensor:
        """The number of generated tokens of each lane."""
        ahead = self._ahead[: self.next_ids.shape[1]]
        return self.token_index + 1 - self.text_length[:, None] - int(self.protocol.starts) + ahead

    def history(self) -> torch.Tensor:
        """The ids so far; drafts that are not verified yet are what follows in each lane."""
        lanes = self.next_ids.shape[1]
        ids = self.sequence[:, None].expand(-1, lanes, -1)
        counts = self.token_index + 1 + self._ahead[:lanes]
        if self.protocol.encoder:
            gone = self.text_length[:, None]
            return self._right_aligned(ids, counts - gone, -gone[..., None], 0)
        return self._right_aligned(ids, counts, self.sequence.shape[1], 0)

    def generated(self) -> torch.Tensor:
        """The generated ids of one lane; tokens behind the draft are undefined."""
        begin = self.text_length[:, None] + int(self.protocol.starts)
        places = begin + torch.arange(self.sizes.steps, device=begin.device)
        return self.sequence.gather(1, places.clamp(max=self.sequence.shape[1] - 1))[:, None]
