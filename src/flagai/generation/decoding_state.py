"""Decoding as tree attention: all answers to a prompt are tokens of one row of the cache.

A prompt is encoded once, into one row of the cache. Its beams (or samples, or candidates) are *tokens of that row*: a
step feeds one new token per beam, [B, W], and a boolean matrix says which slots of the cache are a token's ancestors:
the prompt, and the beam's own path. Beams are reordered by gathering rows of that matrix; keys and values are never
copied, and those of the prompt are read once for all beams.

Source: the ancestor mask is that of Miao et al. 2023, "SpecInfer", section 4.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from flagai.data.prompt import Prompt
from flagai.families.family import ModelInputs
from flagai.generation.checks import check, start_id_of
from flagai.generation.options import Decoding
from flagai.generation.prefill import like_length, read_apart
from flagai.generation.protocol import GenerativeModel, decoding_of
from flagai.generation.types import BeamState, Choice, StaticForward, StepOutput
from flagai.model.layer.cache import CacheRows
from flagai.parallel.dtensor import sharded_logits, shards_vocabulary

_NO_TOKEN = -1  # fills histories in front of the first token
_OF_SPANS = ("block_position", "blank_index", "stopped")  # always 0 in families without spans


class DecodingState:
    """Prompts and the answers to them so far.

    Args:
        model: the model.
        prompts: the prompts; not empty.
        decoding: the options.
        lanes: number of beams of each prompt, W.

    Raises:
        InputError: the model cannot continue a prompt, or has too few positions.
    """

    ragged: ClassVar[bool] = False  # whether the rows of a step have positions of their own
    per_beam: ClassVar = tuple(entry.name for entry in fields(BeamState))  # what beams take with them
    counters: ClassVar[tuple[str, ...]] = ("token_index",)  # tensors of its own that change from step to step

    def __init__(self, model: GenerativeModel, prompts: Sequence[Prompt], decoding: Decoding, lanes: int) -> None:
        self.model: Any = model
        self.protocol = decoding_of(model, prompts)
        self.decoding = decoding
        self.lanes = lanes
        self.device = next(model.parameters()).device
        self.max_positions = model.max_positions
        self.start_id = start_id_of(model, self.protocol, decoding)
        check(model, self.protocol, prompts, decoding)
        spans = max((len(prompt.blanks) for prompt in prompts), default=0) or 1
        # A blank that is not the last also takes a step that closes it.
        self.limit = spans * (decoding.max_new_tokens + 1) - 1
        self.slots, self.steps = lanes * self.limit, self.limit + 2  # of the cache, and of a beam's tokens
        self.prompt_numbers = list(range(len(prompts)))
        self.logits_sharded = False  # whether each rank keeps the logits that it computes
        self._first: dict[str, Any] = {}
        self._own = self._own_visibility()
        self._read(prompts, spans)
        self.beams: BeamState
        self.count = 0  # tokens in BeamState.tokens
        self.token_index = torch.zeros(1, dtype=torch.long, device=self.device)  # the same on the device
        self.cache: Any = None
        self.recorded: StaticForward | None = None  # once shapes do not depend on the step any more

    def _read(self, prompts: Sequence[Prompt], spans: int) -> None:
        lengths = [len(prompt.ids) for prompt in prompts]
        size = max(lengths)
        filler = self.model.config.get("pad_token_id", 0) or 0
        right = [[*prompt.ids, *[filler] * (size - len(prompt.ids))] for prompt in prompts]
        left = [[*[_NO_TOKEN] * (size - len(prompt.ids)), *prompt.ids] for prompt in prompts]
        blanks = [[*prompt.blanks, *[0] * (spans - len(prompt.blanks))] for prompt in prompts]
        self.ids = self._tensor(right)
        self.lengths = self._tensor(lengths)
        self.text = self._tensor(left)
        # The history that penalties count: without an encoder's text.
        self.past = self.text[:, None, : 0 if self.protocol.encoder else size]
        self.blanks = self._tensor(blanks)
        self.stop_token_ids = self._tensor(self.decoding.stop_token_ids)
        self.last_blank = self._tensor([max(len(prompt.blanks), 1) - 1 for prompt in prompts])

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    # -- prefill -------------------------------------------------------------------------------------------------

    def prefill(self) -> StepOutput:
        """Run the model over the prompts, and over the start token where there is one; one beam per prompt."""
        batch, size = self.ids.shape
        first = (0 if self.protocol.encoder else size) + int(self.protocol.starts)
        self.cache = self.model.new_cache(first + self.slots)
        real = torch.arange(size, device=self.device) < self.lengths[:, None]
        output = self._encode(real) if self.protocol.encoder else self._read_prompts(real)
        slots = self.cache.length
        ancestors = torch.zeros(batch, 1, first + self.slots + self.lanes, dtype=torch.bool, device=self.device)
        ancestors[:, 0, :slots] = real[:, :slots]
        zero = self.lengths.new_zeros(batch, 1)
        tokens, position = self._no_tokens(), self.lengths[:, None] - 1
        self.beams = BeamState(ancestors, tokens, position, zero, zero, zero, zero.bool())
        if not self.protocol.starts:
            return output
        before = output.hidden
        self.beams.position = self.blanks[:, :1] if self.protocol.spans else zero
        self.beams.block_position = zero + 1 if self.protocol.spans else zero
        self._append(self.lengths.new_full((batch, 1), self.start_id or 0))
        output = self.forward()
        return StepOutput(output.logits, torch.cat([before, output.hidden], dim=1))

    def _read_prompts(self, real: torch.Tensor) -> StepOutput:
        # A GPU is faster with one call, and ranks that share a model must make the same calls.
        alone = self.device.type == "cpu" and self.model.sharding is None
        lengths = self.lengths.tolist() if alone else []
        groups = like_length(lengths, torch.get_num_threads())
        if len(groups) < 2:
            return self._read_together(self.ids, self.lengths, real, self.cache)

        def read(rows: torch.Tensor, longest: int, part: CacheRows) -> StepOutput:
            return self._read_together(self.ids[rows, :longest], self.lengths[rows], real[rows, :longest], part)

        return read_apart(groups, lengths, self.cache, read)

    def _read_together(self, ids: torch.Tensor, lengths: torch.Tensor, real: torch.Tensor, cache: Any) -> StepOutput:
        running = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
        inputs = ModelInputs(
            ids, running, torch.zeros_like(running), non_padding=real, bidirectional=self.protocol.prefix
        )
        return self._call(inputs, cache, logits_at=lengths[:, None] - 1)

    def _no_tokens(self) -> torch.Tensor:
        """Room for the tokens of one beam of each prompt, [B, 1, steps]."""
        return self.ids.new_full((len(self.ids), 1, self.steps), _NO_TOKEN)

    def _encode(self, real: torch.Tensor) -> StepOutput:
        """Keep the encoder's output until the first step has put its keys and values into the cache."""
        mask = None if bool(real.all()) else real
        memory = self.model.encode(self.ids, mask)
        self._first = {"encoder_outputs": memory, "attention_mask": mask}
        nothing = memory[:, :0]
        return StepOutput(nothing, nothing)

    # -- every further step --------------------------------------------------------------------------------------

    def append(self, choice: Choice) -> None:
        """Put a token at the end of every beam; a stop id in a blank that is not the last opens the next blank."""
        if choice.parents is not None:
            self.reorder_beams(choice.parents)
        self._append(self._advance(choice.tokens, choice.stops))
        self._put()

    def reorder_beams(self, parents: torch.Tensor) -> None:
        """Let beam w go on where beam ``parents[:, w]`` is.

        Args:
            parents: [B, new W]
        """
        beams = self.beams
        same = parents.shape == beams.block_position.shape and not self.protocol.spans
        for name in self.per_beam:
            if same and name in _OF_SPANS:
                continue
            tensor = getattr(beams, name)
            index = parents.view(*parents.shape, *[1] * (tensor.dim() - 2))
            setattr(beams, name, tensor.gather(1, index.expand(-1, -1, *tensor.shape[2:])))

    def _advance(self, tokens: torch.Tensor, stops: torch.Tensor | None) -> torch.Tensor:
        """Move positions to the next tokens; returns the tokens to feed, [B, W]."""
        beams = self.beams
        if not self.protocol.spans:
            beams.position = beams.position + 1
            beams.span_length = beams.span_length + 1
            return tokens
        turns = self.is_stop(tokens) & ~self.in_last_blank()
        beams.blank_index = beams.blank_index + turns
        beams.position = torch.where(turns, self.blanks.gather(1, beams.blank_index), beams.position)
        # Finished beams are fed until their row leaves the batch; their positions must stay inside of the table.
        beams.block_position = torch.where(turns, 1, beams.block_position + 1).clamp(max=(self.max_positions or 2) - 1)
        beams.span_length = (beams.span_length + 1).masked_fill(turns, 0)
        beams.stopped = beams.stopped & ~turns if stops is None else (beams.stopped & ~turns) | stops
        return tokens.masked_fill(turns, self.start_id or 0)

    def _own_visibility(self) -> torch.Tensor:
        """Which of a step's tokens each of them attends to, [W, W]."""
        return torch.eye(self.lanes, dtype=torch.bool, device=self.device)

    def _append(self, tokens: torch.Tensor) -> None:
        """Write the tokens that will be fed, and let each attend to the slot that it will take."""
        self.beams.tokens.index_copy_(2, self.token_index, tokens[..., None])
        self._attend_to_own(*tokens.shape)
        self.token_index = self.token_index + 1
        self.count += 1

    def _attend_to_own(self, batch: int, lanes: int) -> None:
        own = self._own[:lanes, :lanes].expand(batch, -1, -1)
        self.beams.ancestors.index_copy_(2, self.cache.slots(lanes, self.device), own)

    def forward(self) -> StepOutput:
        """Run the model over the last token of every beam."""
        if self.recorded is not None:
            return self.recorded.run()
        beams = self.beams
        seen = beams.ancestors[:, None, :, : self.cache.length + beams.position.shape[1]]
        inputs = ModelInputs(
            self.last_tokens(), beams.position, beams.block_position, attn_mask=seen, ragged=self.ragged
        )
        first, self._first = self._first, {}
        return self._call(inputs, self.cache, **first)

    def use_recorded(self, forward: StaticForward) -> None:
        """From now on, let ``forward`` run the model, over tensors whose shapes and addresses do not change."""
        more = forward.cache.capacity - self.beams.ancestors.shape[2]
        self.beams.ancestors = F.pad(self.beams.ancestors, (0, more))
        self.cache, self.recorded = forward.cache, forward
        self._put()

    def _put(self) -> None:
        if self.recorded is not None:
            self.recorded.put(self.last_tokens(), self.beams)

    def last_tokens(self) -> torch.Tensor:
        """The last token of every beam, [B, W]."""
        return self.beams.tokens.index_select(2, self.token_index - 1)[..., 0]

    def _call(self, inputs: ModelInputs, cache: Any, **others: Any) -> StepOutput:
        arguments = self.protocol.arguments(self.model, inputs)
        with sharded_logits(self.logits_sharded):
            output = self.model(**arguments, cache=cache, **others)
        return StepOutput(output["logits"], output["hidden_states"])

    def keep_logits_sharded(self) -> bool:
        """From now on, let each rank keep the logits that it computes, if the vocabulary is sharded."""
        if self.model.sharding is not None and self.model.sharding.tp_group is not None:
            self.logits_sharded = shards_vocabulary(self.model)
        return self.logits_sharded

    # -- questions -----------------------------------------------------------------------------------------------

    def is_stop(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens are stop ids."""
        return (tokens[..., None] == self.stop_token_ids).any(-1)

    def in_last_blank(self) -> torch.Tensor:
        """Which beams are in their prompt's last blank, [B, W]."""
        return self.beams.blank_index >= self.last_blank[:, None]

    def closing(self) -> torch.Tensor:
        """Which beams must close their blank now: it is full, or a hook has ended it, [B, W]."""
        full = self.beams.span_length >= self.decoding.max_new_tokens
        return (full | self.beams.stopped) & ~self.in_last_blank()

    def history(self) -> torch.Tensor:
        """Prompt and answer of every beam, the last token last and -1 in front, [B, W, T]."""
        tokens = self.beams.tokens if self.recorded is not None else self.beams.tokens[:, :, : self.count]
        ids = torch.cat([self.past.expand(-1, tokens.shape[1], -1), tokens], dim=2)
        return ids if self.recorded is None else self._right_aligned(ids, self.num_tokens())

    def num_tokens(self) -> torch.Tensor:
        """How many tokens each beam has, [B or 1, W or 1]."""
        return self.token_index[None]

    def _right_aligned(self, ids: torch.Tensor, num_tokens: torch.Tensor) -> torch.Tensor:
        """Shift histories to the right end of a tensor whose size does not depend on the step, [B, W, T]."""
        places = torch.arange(ids.shape[2], device=self.device) - (self.steps - num_tokens[..., None])
        return ids.gather(2, places.clamp(min=0).expand_as(ids)).masked_fill(places < 0, _NO_TOKEN)

    def split_spans(self, ids: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Split an answer at the start tokens of its further blanks."""
        if not self.protocol.spans:
            return (tuple(ids),)
        spans: list[tuple[int, ...]] = [()]
        for token in ids:
            spans = [*spans, ()] if token == self.start_id else [*spans[:-1], (*spans[-1], token)]
        return tuple(spans)

    def generated(self) -> torch.Tensor:
        """The answers so far, without the start token, [B, W, steps]."""
        return self.beams.tokens[:, :, int(self.protocol.starts) : self.count]

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch.

        Args:
            rows: indices, [new B].
        """
        self.prompt_numbers = [self.prompt_numbers[row] for row in rows.tolist()]
        for name in ("ids", "lengths", "text", "past", "blanks", "last_blank"):
            setattr(self, name, getattr(self, name).index_select(0, rows))
        for entry in fields(BeamState):
            setattr(self.beams, entry.name, getattr(self.beams, entry.name).index_select(0, rows))
        self.cache.select(rows)
