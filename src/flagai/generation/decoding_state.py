"""Decoding as attention in a tree: all answers to a text are tokens of one row.

A text is encoded once, into one row of the cache. Its lanes (beams, samples, candidates) are *tokens of that row*: a
step feeds one new token per lane, [B, W], and a boolean matrix says which slots of the cache are a token's
ancestors: the text, and the lane's own path. Beams are reordered by gathering rows of that matrix; keys and values
are never copied, and those of the text are read once for all lanes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch

from flagai.data.prompt import Prompt
from flagai.families.family import ModelInputs
from flagai.generation.checks import check, start_id_of
from flagai.generation.family import GenerativeModel, decoding_of
from flagai.generation.groups import like_length, read_apart
from flagai.generation.options import Decoding
from flagai.generation.replay.inputs import Inputs
from flagai.kernels.cpu.decode_block import lean_blocks
from flagai.model.layer.cache import RowsOfCache
from flagai.parallel.dtensor import sharded_logits, shards_vocabulary

_NOTHING = -1  # stands in histories where there is no token
_OF_SPANS = ("block", "blank", "closed")  # what is 0 forever where there are no spans


@dataclass
class Scored:
    """What the model says about the newest tokens.

    Args:
        logits: of the tokens that may follow, [B, W, V].
        hidden: the model's last states, [B, W, D]; in the first call, those of the prompt in front, [B, P + 1, D].
    """

    logits: torch.Tensor
    hidden: torch.Tensor


@dataclass
class Lanes:
    """The state of all lanes; every tensor begins with [B, W].

    Args:
        seen: which slots of the cache the lane's newest token sees, [B, W, slots].
        fed: the tokens so far, the start token included, [B, W, steps].
        position: where the newest token stands, [B, W].
        block: its position inside of a span, [B, W].
        blank: which blank is being filled, [B, W].
        piece: number of tokens in it so far, [B, W].
        closed: whether a stop hook has ended the piece, [B, W].
    """

    seen: torch.Tensor
    fed: torch.Tensor
    position: torch.Tensor
    block: torch.Tensor
    blank: torch.Tensor
    piece: torch.Tensor
    closed: torch.Tensor

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace every tensor."""
        for entry in fields(self):
            setattr(self, entry.name, change(getattr(self, entry.name)))


class StaticStep(Protocol):
    """A step of the model over tensors that stay where they are."""

    cache: Any
    inputs: Inputs

    def run(self) -> Scored:
        """Feed its inputs to the model."""


class Tree:
    """Texts and the answers growing out of them.

    Args:
        model: the model.
        prompts: the texts; not empty.
        decoding: the options.
        width: number of lanes of each text, W.

    Raises:
        InputError: a prompt does not go with the model, or has no room.
    """

    apart: ClassVar[bool] = False  # whether texts come unequally far in a step
    per_lane: ClassVar = tuple(entry.name for entry in fields(Lanes))  # what lanes have for themselves
    moving: ClassVar[tuple[str, ...]] = ("clock",)  # tensors of its own that change from step to step

    def __init__(self, model: GenerativeModel, prompts: Sequence[Prompt], decoding: Decoding, width: int) -> None:
        self.model: Any = model
        self.family = decoding_of(model, prompts)
        self.decoding = decoding
        self.width = width
        self.device = next(model.parameters()).device
        self.rows = model.max_positions
        self.start_id = start_id_of(model, self.family, decoding)
        check(model, self.family, prompts, decoding)
        pieces = max((len(prompt.blanks) for prompt in prompts), default=0) or 1
        # A blank that is not the last also takes a step that closes it.
        self.limit = pieces * (decoding.max_new_tokens + 1) - 1
        self.slots, self.steps = width * self.limit, self.limit + 2  # of the cache, and of a lane's tokens
        self.numbers = list(range(len(prompts)))
        self.logits_sharded = False  # whether each rank keeps the logits that it computes
        self._first: dict[str, Any] = {}
        self._own = self._kin()
        self._read(prompts, pieces)
        self.lanes: Lanes
        self.count = 0  # tokens in Lanes.fed
        self.clock = torch.zeros(1, dtype=torch.long, device=self.device)  # the same, where the device knows it
        self.cache: Any = None
        self.static: StaticStep | None = None  # once no shape depends on the step any more

    # -- reading the prompts -------------------------------------------------------------------------------------

    def _read(self, prompts: Sequence[Prompt], pieces: int) -> None:
        lengths = [len(prompt.ids) for prompt in prompts]
        size = max(lengths)
        filler = self.model.config.get("pad_token_id", 0) or 0
        right = [[*prompt.ids, *[filler] * (size - len(prompt.ids))] for prompt in prompts]
        left = [[*[_NOTHING] * (size - len(prompt.ids)), *prompt.ids] for prompt in prompts]
        blanks = [[*prompt.blanks, *[0] * (pieces - len(prompt.blanks))] for prompt in prompts]
        self.ids = self._tensor(right)
        self.lengths = self._tensor(lengths)
        self.text = self._tensor(left)
        # What counts as said before: of an encoder's text, nothing.
        self.past = self.text[:, None, : 0 if self.family.encoder else size]
        self.blanks = self._tensor(blanks)
        self.stop_token_ids = self._tensor(self.decoding.stop_token_ids)
        self.last_blank = self._tensor([max(len(prompt.blanks), 1) - 1 for prompt in prompts])

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    # -- the first call ------------------------------------------------------------------------------------------

    def begin(self) -> Scored:
        """Run the model over the prompts, and over the start token where there is one; one lane per text."""
        batch, size = self.ids.shape
        first = (0 if self.family.encoder else size) + int(self.family.starts)
        self.cache = self.model.new_cache(first + self.slots)
        if self.device.type == "cpu":
            self.cache.faster = lean_blocks(self.model)
        real = torch.arange(size, device=self.device) < self.lengths[:, None]
        scored = self._encode(real) if self.family.encoder else self._read_prompt(real)
        slots = self.cache.length
        seen = torch.zeros(batch, 1, first + self.slots + self.width, dtype=torch.bool, device=self.device)
        seen[:, 0, :slots] = real[:, :slots]
        zero = self.lengths.new_zeros(batch, 1)
        fed = self._nothing_fed()
        position = self.lengths[:, None] - 1
        self.lanes = Lanes(seen, fed, position, zero, zero, zero, zero.bool())
        if not self.family.starts:
            return scored
        before = scored.hidden
        self.lanes.position = self.blanks[:, :1] if self.family.spans else zero
        self.lanes.block = zero + 1 if self.family.spans else zero
        self._enter(self.lengths.new_full((batch, 1), self.start_id or 0))
        scored = self.run()
        return Scored(scored.logits, torch.cat([before, scored.hidden], dim=1))

    def _read_prompt(self, real: torch.Tensor) -> Scored:
        # A GPU is quicker with one call, and processes that share a model must make the same calls.
        alone = self.device.type == "cpu" and self.model.sharding is None
        lengths = self.lengths.tolist() if alone else []
        groups = like_length(lengths, torch.get_num_threads())
        if len(groups) < 2:
            return self._read_together(self.ids, self.lengths, real, self.cache)

        def read(rows: torch.Tensor, longest: int, part: RowsOfCache) -> tuple[torch.Tensor, torch.Tensor]:
            scored = self._read_together(self.ids[rows, :longest], self.lengths[rows], real[rows, :longest], part)
            return scored.logits, scored.hidden

        return Scored(*read_apart(groups, lengths, self.cache, read))

    def _read_together(self, ids: torch.Tensor, lengths: torch.Tensor, real: torch.Tensor, cache: Any) -> Scored:
        running = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
        inputs = ModelInputs(
            ids, running, torch.zeros_like(running), non_padding=real, bidirectional=self.family.prefix
        )
        return self._call(inputs, cache, logits_at=lengths[:, None] - 1)

    def _nothing_fed(self) -> torch.Tensor:
        """Room for the tokens of one lane of each text, [B, 1, steps]."""
        return self.ids.new_full((len(self.ids), 1, self.steps), _NOTHING)

    def _encode(self, real: torch.Tensor) -> Scored:
        """Keep the encoder's output until the first step has put its keys and values into the cache."""
        mask = None if bool(real.all()) else real
        memory = self.model.encode(self.ids, mask)
        self._first = {"encoder_outputs": memory, "attention_mask": mask}
        nothing = memory[:, :0]
        return Scored(nothing, nothing)

    # -- every further call --------------------------------------------------------------------------------------

    def reorder(self, parents: torch.Tensor) -> None:
        """Let lane w go on where lane ``parents[:, w]`` is.

        Args:
            parents: [B, new W]
        """
        lanes = self.lanes
        same = parents.shape == lanes.block.shape and not self.family.spans
        for name in self.per_lane:
            if same and name in _OF_SPANS:
                continue
            tensor = getattr(lanes, name)
            index = parents.view(*parents.shape, *[1] * (tensor.dim() - 2))
            setattr(lanes, name, tensor.gather(1, index.expand(-1, -1, *tensor.shape[2:])))

    def append(self, tokens: torch.Tensor, closes: torch.Tensor | None = None) -> None:
        """Put a token at the end of every lane; a stop id in a blank that is not the last opens the next blank.

        Args:
            tokens: [B, W]
            closes: where the piece ends after this token, [B, W]; None for nowhere.
        """
        self._enter(self._move(tokens, closes))

    def _move(self, tokens: torch.Tensor, closes: torch.Tensor | None) -> torch.Tensor:
        """Go on to where the next tokens stand; what is fed for them, [B, W]."""
        lanes = self.lanes
        if not self.family.spans:
            lanes.position = lanes.position + 1
            lanes.piece = lanes.piece + 1
            return tokens
        turns = self.stops(tokens) & ~self.in_last_blank()
        lanes.blank = lanes.blank + turns
        lanes.position = torch.where(turns, self.blanks.gather(1, lanes.blank), lanes.position)
        # Lanes that are finished are fed on until their text leaves the batch; they must not run off the table.
        lanes.block = torch.where(turns, 1, lanes.block + 1).clamp(max=(self.rows or 2) - 1)
        lanes.piece = (lanes.piece + 1).masked_fill(turns, 0)
        lanes.closed = lanes.closed & ~turns if closes is None else (lanes.closed & ~turns) | closes
        return tokens.masked_fill(turns, self.start_id or 0)

    def _kin(self) -> torch.Tensor:
        """Which of a step's tokens each of them sees, [W, W]."""
        return torch.eye(self.width, dtype=torch.bool, device=self.device)

    def _enter(self, tokens: torch.Tensor) -> None:
        """Write the tokens that will be fed, and let each see the slot that it will take."""
        batch, width = tokens.shape
        self.lanes.fed.index_copy_(2, self.clock, tokens[..., None])
        own = self._own[:width, :width].expand(batch, -1, -1)
        self.lanes.seen.index_copy_(2, self.cache.slots(width, self.device), own)
        self.clock = self.clock + 1
        self.count += 1

    def run(self) -> Scored:
        """Feed the newest token of every lane."""
        if self.static is not None:
            return self.static.run()
        lanes = self.lanes
        seen = lanes.seen[:, None, :, : self.cache.length + lanes.position.shape[1]]
        inputs = ModelInputs(self.newest(), lanes.position, lanes.block, attn_mask=seen, ragged=self.apart)
        first, self._first = self._first, {}
        return self._call(inputs, self.cache, **first)

    def make_static(self, step: "StaticStep") -> None:
        """From now on, let ``step`` run the model, over tensors whose shapes and places do not change."""
        more = step.cache.capacity - self.lanes.seen.shape[2]
        self.lanes.seen = torch.nn.functional.pad(self.lanes.seen, (0, more))
        self.cache, self.static = step.cache, step

    def feed(self) -> None:
        """Put the newest tokens where the static step reads them."""
        if self.static is not None:
            self.static.inputs.put(self.newest(), self.lanes.position, self.lanes.block, self.lanes.seen)

    def newest(self) -> torch.Tensor:
        """The newest token of every lane, [B, W]."""
        return self.lanes.fed.index_select(2, self.clock - 1)[..., 0]

    def _call(self, inputs: ModelInputs, cache: Any, **others: Any) -> Scored:
        arguments = self.family.arguments(self.model, inputs)
        with sharded_logits(self.logits_sharded):
            output = self.model(**arguments, cache=cache, **others)
        return Scored(output["logits"], output["hidden_states"])

    def keep_logits_sharded(self) -> bool:
        """From now on, let each rank keep the logits that it computes, if ranks share the vocabulary."""
        if self.model.sharding is not None and self.model.sharding.tp_group is not None:
            self.logits_sharded = shards_vocabulary(self.model)
        return self.logits_sharded

    # -- questions -----------------------------------------------------------------------------------------------

    def stops(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens are stop ids."""
        return (tokens[..., None] == self.stop_token_ids).any(-1)

    def in_last_blank(self) -> torch.Tensor:
        """Which lanes are in their text's last blank, [B, W]."""
        return self.lanes.blank >= self.last_blank[:, None]

    def closing(self) -> torch.Tensor:
        """Which lanes must close their blank now: it is full, or a hook has ended it, [B, W]."""
        full = self.lanes.piece >= self.decoding.max_new_tokens
        return (full | self.lanes.closed) & ~self.in_last_blank()

    def history(self) -> torch.Tensor:
        """Text and answer of every lane, the newest token last and -1 in front, [B, W, T]."""
        fed = self.lanes.fed if self.static is not None else self.lanes.fed[:, :, : self.count]
        ids = torch.cat([self.past.expand(-1, fed.shape[1], -1), fed], dim=2)
        return ids if self.static is None else self._at_the_end(ids, self.grown())

    def grown(self) -> torch.Tensor:
        """How many tokens have been fed to each lane, [B or 1, W or 1]."""
        return self.clock[None]

    def _at_the_end(self, ids: torch.Tensor, grown: torch.Tensor) -> torch.Tensor:
        """Shift histories to the right end of a tensor whose size does not depend on the step, [B, W, T]."""
        places = torch.arange(ids.shape[2], device=self.device) - (self.steps - grown[..., None])
        return ids.gather(2, places.clamp(min=0).expand_as(ids)).masked_fill(places < 0, _NOTHING)

    def pieces(self, ids: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Cut an answer at the start tokens of its further blanks."""
        if not self.family.spans:
            return (tuple(ids),)
        pieces: list[tuple[int, ...]] = [()]
        for token in ids:
            pieces = [*pieces, ()] if token == self.start_id else [*pieces[:-1], (*pieces[-1], token)]
        return tuple(pieces)

    def written(self) -> torch.Tensor:
        """The answers so far, without the start token, [B, W, steps]."""
        return self.lanes.fed[:, :, int(self.family.starts) : self.count]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these texts.

        Args:
            rows: indices, [new B].
        """
        self.numbers = [self.numbers[row] for row in rows.tolist()]
        for name in ("ids", "lengths", "text", "past", "blanks", "last_blank"):
            setattr(self, name, getattr(self, name).index_select(0, rows))
        self.lanes.map(lambda tensor: tensor.index_select(0, rows))
        self.cache.select(rows)
