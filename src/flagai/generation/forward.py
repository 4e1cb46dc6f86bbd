"""Calls of the model over the paged cache: prompts, packed in rows without padding, and steps."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from flagai.families.family import DecodingProtocol, ModelInputs
from flagai.generation.protocol import GenerativeModel, decoding_of
from flagai.generation.request import Request, Running
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import StepOutput
from flagai.model.layer.adapted import adapters_of_tokens
from flagai.model.layer.packed_row import PackedRow, on_device
from flagai.model.layer.paged_attention import SlotTable
from flagai.model.layer.paged_cache import SCRATCH, PagedCache, PagedStep
from flagai.model.layer.sdpa import AttentionMask
from flagai.parallel.dtensor import sharded_logits


def reads_at_once(protocol: DecodingProtocol) -> bool:
    """Whether a prompt's tokens attend to each other, so that it cannot be read in parts."""
    return protocol.prefix or protocol.encoder


def tokens_to_read(model: GenerativeModel, request: Request) -> int:
    """Tokens that are read before the first step, which feeds a causal prompt's last token itself."""
    return len(request.prompt.ids) - int(not reads_at_once(decoding_of(model, request.prompt)))


def step_forward(
    model: GenerativeModel,
    protocol: DecodingProtocol,
    pool: PagedCache,
    inputs: StepInputs,
    sharded: bool,
    static: bool = False,
    lanes: int = 1,
) -> StepOutput:
    """Run the model over one token of every lane.

    Args:
        model: the model.
        protocol: how its family decodes.
        pool: the keys and values so far; those of the tokens are added.
        inputs: the tokens, T.
        sharded: whether each rank keeps the logits that it computes.
        static: whether the call is captured.
        lanes: how many neighbouring tokens are of one text.

    Returns:
        Logits [T, V] and hidden states [T, D].
    """
    cross = SlotTable(inputs.cross_slots, inputs.cross_lengths, static, lanes) if protocol.encoder else None
    cache = PagedStep(
        pool,
        inputs.slot_mapping,
        AttentionMask(table=SlotTable(inputs.slots, inputs.lengths, static, lanes)),
        None if cross is None else AttentionMask(table=cross),
    )
    tokens = ModelInputs(inputs.ids[None], inputs.positions[None], inputs.generated[None])
    with sharded_logits(sharded):
        output = model(**protocol.arguments(model, tokens), cache=cache)
    return StepOutput(output["logits"][0], output["hidden_states"][0])


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of prompts, or of a part of a long one, that one call reads, on the host.

    Args:
        texts: the texts.
        counts: number of tokens of each text, padding not counted.
        tokens: ids of all texts, their positions, and where their keys go, [3, T].
        past: the slots of earlier tokens, of one text that has been begun.
    """

    texts: tuple[Running, ...]
    counts: tuple[int, ...]
    tokens: np.ndarray[Any, np.dtype[np.int64]]
    past: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(cls, texts: Sequence[tuple[Running, int]]) -> Self:
        """Note tokens as read.

        Args:
            texts: the texts, and how many of their tokens are read then; one text, if it has been begun.
        """
        parts, past = [], []
        for running, end in texts:
            begin = running.num_read
            slots = running.text_slots[begin:end]
            part = np.stack([np.array(running.request.prompt.ids[begin:end], np.int64), np.arange(begin, end), slots])
            parts.append(part[:, slots != SCRATCH])
            past.append(running.text_slots[:begin])
            running.num_read = end
        before = np.concatenate(past)
        found = tuple(running for running, _ in texts)
        counts = tuple(part.shape[1] for part in parts)
        return cls(found, counts, np.concatenate(parts, axis=1), before[before != SCRATCH])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each text that has any."""
        return tuple(filter(None, self.counts))

    @property
    def keeps_hidden(self) -> bool:
        """Whether a text needs the hidden states of its prompt, for contrastive search."""
        return any(running.request.decoding.penalty_alpha is not None for running in self.texts)


def read_prompts(model: GenerativeModel, protocol: DecodingProtocol, pool: PagedCache, prompts: PromptTokens) -> None:
    """Run the model over prompts; only what the cache keeps of them counts.

    Args:
        model: the model.
        protocol: how its family decodes.
        pool: gets the keys and values.
        prompts: the prompts, with a token at least.
    """
    device = next(model.parameters()).device
    ids, positions, slots = on_device(prompts.tokens, device)
    row, past = PackedRow(prompts.lengths), prompts.past
    mask = AttentionMask(packed=row, causal=not protocol.prefix, cu_seqlens=row.cu_seqlens(device))
    if len(past):
        mask = _after_past(len(past), len(slots), device)
    cache = PagedStep(pool, slots, mask, past=on_device(past, device) if len(past) else None)
    with adapters_of_texts(zip((each.request for each in prompts.texts), prompts.counts, strict=True), device):
        if protocol.encoder:
            encoder: Any = model
            encoder.cache_memory(encoder.encode(ids[None], lengths=row), cache)
            return
        hidden = prompt_forward(model, protocol, cache, ids, positions)
    if prompts.keeps_hidden:
        for running, new in zip(prompts.texts, hidden[0].split(prompts.counts), strict=True):
            running.hidden = new if running.hidden is None else torch.cat([running.hidden, new])


def adapters_of_texts(
    texts: Iterable[tuple[Request | None, int]], device: torch.device
) -> AbstractContextManager[None]:
    """Compute each token of the body with the adapter of its text.

    Args:
        texts: the texts one after the other (None for an empty row), and the tokens of each.
        device: where the model is.
    """
    names = [None if request is None else request.adapter for request, count in texts for _ in range(count)]
    return adapters_of_tokens(names, device) if any(names) else nullcontext()


def prompt_forward(
    model: GenerativeModel, protocol: DecodingProtocol, cache: PagedStep, ids: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Run the model over the tokens of prompts.

    Args:
        model: the model.
        protocol: how its family decodes.
        cache: where the tokens' keys go, and what they attend to.
        ids: [T]
        positions: [T]

    Returns:
        Hidden states, [1, T, D].
    """
    places, generated = torch.stack([positions, torch.zeros_like(positions)]), torch.zeros_like(ids).bool()
    tokens = ModelInputs(ids[None], places[None], generated[None])
    last = ids.new_full((1, 1), len(ids) - 1)  # no logits are wanted, but the head of one token costs nothing
    with sharded_logits():
        hidden: torch.Tensor = model(**protocol.arguments(model, tokens), cache=cache, logits_at=last)["hidden_states"]
    return hidden


def _after_past(past: int, count: int, device: torch.device) -> AttentionMask:
    """Tokens of one text attend to those that have been read before, and causally to each other."""
    places = torch.arange(past + count, device=device)
    return AttentionMask((places <= places[past:, None])[None, None])
