"""The answers so far of the texts of a batch, and where the keys of their tokens lie.

A text has W lanes: its beams, samples or candidates. Each has a table of the slots of its keys in the paged cache:
those of the prompt, which all lanes share, and those of its own past. When beams are reordered, rows of the table are
gathered; keys and values never move. A step feeds one token of every lane.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from flagai.families.family import DecodingProtocol
from flagai.generation.options import Decoding
from flagai.generation.request import Running
from flagai.generation.rows import RowTensors, Sizes
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import Choice
from flagai.model.layer.paged_cache import SCRATCH

NO_TOKEN = -1  # fills histories in front of the first token


@dataclass(frozen=True)
class Rules:
    """What all texts of a batch have in common.

    Args:
        protocol: how the family decodes.
        decoding: the options; those that each text has for itself do not count.
        start_id: the token with which answers start; None if the prompt's last token predicts the first one.
        pad_id: the token that no token attends to; None for none.
        last_position: the last one of the model's table; None if there is none.
        hidden_size: size of the hidden states that contrastive search compares; 0 for others.
    """

    protocol: DecodingProtocol
    decoding: Decoding
    start_id: int | None = None
    pad_id: int | None = None
    last_position: int | None = None
    hidden_size: int = 0


class DecodingState(RowTensors):
    """The texts of a batch and their answers so far.

    Args:
        sizes: the sizes of the batch.
        rules: what the texts have in common.
        device: where the model is.
    """

    # What beams take with them when they are reordered.
    of_beams: ClassVar[tuple[str, ...]] = (
        *("slots", "lengths", "tokens", "position", "block_position", "blank_index", "span_length", "stopped"),
    )

    # What answers are made of.
    reported: ClassVar[tuple[str, ...]] = ("tokens", "text_length", "token_index", "last_blank")

    def all_lanes(self) -> None:
        """Make all tensors as wide as the batch has lanes, before texts come or go."""

    def __init__(self, sizes: Sizes, rules: Rules, device: torch.device) -> None:
        super().__init__(sizes, device)
        self.captured = False  # whether steps are captured: shapes must not depend on how far texts have come
        self.rules, lanes = rules, sizes.lanes
        self.protocol, self.decoding, self.start_id = rules.protocol, rules.decoding, rules.start_id
        self.stop_token_ids = torch.tensor(self.decoding.stop_token_ids, dtype=torch.long, device=device)
        self.text = self.add("text", sizes.text)  # the prompt's tokens
        self.text_length = self.add("text_length")
        self.blanks = self.add("blanks", sizes.blanks)
        self.last_blank = self.add("last_blank")
        self.max_new_tokens = self.add("max_new_tokens")  # 0: an empty row
        self.min_new_tokens = self.add("min_new_tokens")
        self.limit = self.add("limit", fill=1)
        self.own_slots = self.add("own_slots", lanes, sizes.steps, dtype=torch.int32)
        self.cross_slots = self.add("cross_slots", sizes.cross, dtype=torch.int32)
        self.cross_length = self.add("cross_length", dtype=torch.int32)
        self.slots = self.add("slots", lanes, sizes.table, dtype=torch.int32)
        self.lengths = self.add("lengths", lanes, dtype=torch.int32)
        self.next_ids = self.add("next_ids", lanes)
        self.slot_mapping = self.add("slot_mapping", lanes)
        self.position = self.add("position", lanes)
        self.block_position = self.add("block_position", lanes)
        self.blank_index = self.add("blank_index", lanes)
        self.span_length = self.add("span_length", lanes)
        self.stopped = self.add("stopped", lanes, dtype=torch.bool)
        self._add_tokens(sizes)

    def _add_tokens(self, sizes: Sizes) -> None:
        self.tokens = self.add("tokens", sizes.lanes, sizes.steps)
        self.token_index = self.add("token_index", 1)  # how many tokens an answer has, the start token included

    @property
    def past_length(self) -> torch.Tensor:
        """How many of the prompt's tokens count as history: none of an encoder's, [R]."""
        return torch.zeros_like(self.text_length) if self.protocol.encoder else self.text_length

    def fill(self, running: Sequence[Running]) -> None:
        """Put new texts in; the first step feeds the start token, or once more the last token of the prompt.

        Args:
            running: the texts, whose prompts have been read.
        """
        prompts = [each.request.prompt for each in running]
        decodings = [each.request.decoding for each in running]
        self.put(
            text=[prompt.ids for prompt in prompts],
            text_length=[len(prompt.ids) for prompt in prompts],
            blanks=[prompt.blanks or (0,) for prompt in prompts],
            last_blank=[max(len(prompt.blanks), 1) - 1 for prompt in prompts],
            max_new_tokens=[decoding.max_new_tokens for decoding in decodings],
            min_new_tokens=[decoding.min_new_tokens for decoding in decodings],
            limit=[each.request.limit for each in running],
        )
        own, slots, lengths = self.staged("own_slots"), self.staged("slots"), self.staged("lengths")
        for row, each in enumerate(running):
            new = each.own_slots[:, : self.sizes.steps]
            own[row, :, : new.shape[1]] = new
            table = each.text_slots[each.text_slots != SCRATCH]
            if self.protocol.encoder:
                self.staged("cross_slots")[row, : len(table)] = table
                self.staged("cross_length")[row], table = len(table), table[:0]
            slots[row, :, : len(table)] = table
            if self.start_id is not None:  # each lane has a start token of its own
                slots[row, :, len(table)] = new[:, 0]
            lengths[row] = len(table) + int(self.start_id is not None)
        if self.start_id is None:
            self.put(
                next_ids=[prompt.ids[-1] for prompt in prompts],
                position=[len(prompt.ids) - 1 for prompt in prompts],
                slot_mapping=[each.text_slots[-1] for each in running],
            )
            return
        spans = self.protocol.spans
        self.put(
            next_ids=[self.start_id] * len(running),
            position=[prompt.blanks[0] if spans else 0 for prompt in prompts],
            block_position=[int(spans)] * len(running),
        )
        self.staged("slot_mapping")[...] = own[:, :, 0]
        self._fill_start_tokens(self.start_id)

    def _fill_start_tokens(self, start_id: int) -> None:
        self.staged("tokens")[..., 0] = start_id
        self.staged("token_index")[...] = 1

    def add_slots(self, texts: Sequence[tuple[Running, int]]) -> None:
        """Give the lanes of texts slots for tokens to come.

        Args:
            texts: the texts, and how many tokens of each had slots before.
        """
        (lanes, steps), places, values = self.own_slots.shape[1:], [], []
        for running, begin in texts:
            new = running.own_slots[:, begin:steps]
            first = (running.row * lanes + np.arange(lanes)[:, None]) * steps + begin
            places.append((first + np.arange(new.shape[1])).ravel())
            values.append(np.broadcast_to(new, (lanes, new.shape[1])).ravel())
        self.put_entries("own_slots", np.concatenate(places), np.concatenate(values))

    # -- steps ---------------------------------------------------------------------------------------------------

    def inputs(self) -> StepInputs:
        """What the next step feeds."""
        lanes = self.next_ids.shape[1]
        return StepInputs(
            ids=self.next_ids.flatten(),
            positions=torch.stack([self.position.flatten(), self.block_position.flatten()]),
            generated=self._is_generated().expand(-1, lanes).flatten(),
            slot_mapping=self.slot_mapping.flatten(),
            slots=self.slots.expand(-1, lanes, -1).flatten(0, 1),
            lengths=self.lengths.flatten(),
            cross_slots=self.cross_slots[:, None].expand(-1, lanes, -1).flatten(0, 1),
            cross_lengths=self.cross_length[:, None].expand(-1, lanes).flatten(),
        )

    def _is_generated(self) -> torch.Tensor:
        """Whether the tokens that are fed are of answers, [R, 1 or W]."""
        return self.token_index > 0

    def append(self, choice: Choice) -> None:
        """Put a token at the end of every lane; a stop id in a blank that is not the last opens the next blank."""
        if choice.parents is not None:
            self.reorder_beams(choice.parents)
        tokens = self._advance(choice.tokens, choice.stops)
        index = self.token_index.clamp(max=self.sizes.steps - 1)[:, None].expand(-1, tokens.shape[1], 1)
        self.tokens.scatter_(2, index, tokens[..., None])
        slot = self.own_slots.gather(2, index)
        # Rows that are done are fed until they leave; they write over their last slot.
        place = self.lengths.clamp(max=self.sizes.table - 1).long()[..., None]
        self.slots.scatter_(2, place, slot)
        self._feed(tokens, slot[..., 0].long())
        self.token_index = self.token_index + 1

    def _feed(self, tokens: torch.Tensor, slot: torch.Tensor) -> None:
        grown = (self.lengths + 1).clamp(max=self.sizes.table).masked_fill(self.max_new_tokens[:, None] == 0, 0)
        if self.rules.pad_id is not None:
            padding = tokens == self.rules.pad_id
            slot, grown = slot.masked_fill(padding, SCRATCH), torch.where(padding, self.lengths, grown)
        self.next_ids, self.slot_mapping, self.lengths = tokens, slot, grown

    def reorder_beams(self, parents: torch.Tensor) -> None:
        """Let lane w go on where lane ``parents[:, w]`` is.

        Args:
            parents: [R, W]
        """
        for name in self.of_beams:
            tensor = getattr(self, name)
            index = parents.view(*parents.shape, *[1] * (tensor.dim() - 2))
            setattr(self, name, tensor.gather(1, index.expand(-1, -1, *tensor.shape[2:])))

    def _advance(self, tokens: torch.Tensor, stops: torch.Tensor | None) -> torch.Tensor:
        """Move positions to the next tokens; returns the tokens to feed, [R, W]."""
        if not self.protocol.spans:
            self.position = self._in_table(self.position + 1)
            self.span_length = self.span_length + 1
            return tokens
        turns = self.is_stop(tokens) & ~self.in_last_blank()
        self.blank_index = self.blank_index + turns
        self.position = torch.where(turns, self.blanks.gather(1, self.blank_index), self.position)
        self.block_position = self._in_table(torch.where(turns, 1, self.block_position + 1))
        self.span_length = (self.span_length + 1).masked_fill(turns, 0)
        self.stopped = self.stopped & ~turns if stops is None else (self.stopped & ~turns) | stops
        return tokens.masked_fill(turns, self.start_id or 0)

    def _in_table(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions that the model has; only lanes that are done, or drafts, have others."""
        last = self.rules.last_position
        return positions if last is None else positions.clamp(max=last)

    # -- questions -----------------------------------------------------------------------------------------------

    def is_stop(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens are stop ids."""
        return (tokens[..., None] == self.stop_token_ids).any(-1)

    def in_last_blank(self) -> torch.Tensor:
        """Which lanes are in their prompt's last blank, [R, W]."""
        return self.blank_index >= self.last_blank[:, None]

    def closing(self) -> torch.Tensor:
        """Which lanes must close their blank now: it is full, or a hook has ended it, [R, W]."""
        full = self.span_length >= self.max_new_tokens[:, None]
        return (full | self.stopped) & ~self.in_last_blank()

    def num_generated(self) -> torch.Tensor:
        """How many tokens each answer has, the start token not counted, [R, 1 or W]."""
        return self.token_index - int(self.protocol.starts)

    def history(self) -> torch.Tensor:
        """Prompt and answer of every lane, the last token last and -1 in front, [R, W, T]."""
        past = self.past_length[:, None]
        ids = torch.cat([self.text[:, None].expand(-1, self.sizes.lanes, -1), self.tokens], dim=2)
        return self._right_aligned(ids, past + self.token_index, past[..., None], self.sizes.text)

    def _right_aligned(
        self, ids: torch.Tensor, counts: torch.Tensor, past: torch.Tensor | int, gap_end: int
    ) -> torch.Tensor:
        """Sequences in two left-aligned parts, moved to the right end.

        Args:
            ids: both parts, [R, W, P + S].
            counts: their lengths together, [R, 1 or W].
            past: the lengths of the first parts, [R, 1, 1].
            gap_end: where the second part begins.
        """
        counts = counts.clamp(min=1)  # empty rows have the id 0, so that processors need no case for them
        # On a CPU, without columns that no text needs.
        trimmed = not self.captured and self.device.type == "cpu"
        size = int(counts.max()) if trimmed else ids.shape[2]
        places = torch.arange(size, device=self.device) - (size - counts[..., None])
        source = torch.where(places < past, places, places - past + gap_end).clamp(0, ids.shape[2] - 1)
        return ids.gather(2, source.expand(*ids.shape[:2], -1)).masked_fill(places < 0, NO_TOKEN)

    def answers(self) -> torch.Tensor:
        """The answers so far, without the start token, the last token last and -1 in front, [R, W, S]."""
        begin, counts = int(self.protocol.starts), self.num_generated()
        found = self._right_aligned(self.tokens[..., begin:], counts, 0, 0)
        return found.masked_fill(counts[..., None] < 1, NO_TOKEN)

    def generated(self) -> torch.Tensor:
        """The answers so far, without the start token; what is behind their end is undefined, [R, W, S]."""
        return self.tokens[..., int(self.protocol.starts) :]

    def split_spans(self, ids: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Split an answer at the start tokens of its further blanks."""
        if not self.protocol.spans:
            return (tuple(ids),)
        ends = [*(place for place, token in enumerate(ids) if token == self.start_id), len(ids)]
        return tuple(tuple(ids[begin:end]) for begin, end in zip([0, *(end + 1 for end in ends)], ends, strict=False))
