"""Texts that are searched together: which can be, how large their tensors are, and how they come and go."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Protocol, Self, cast

import torch

from flagai.families.family import DecodingProtocol
from flagai.generation.beam import BeamSearch
from flagai.generation.checks import start_id_of
from flagai.generation.contrastive import ContrastiveSearch
from flagai.generation.decoding_state import DecodingState, Rules
from flagai.generation.draft_state import DraftState
from flagai.generation.options import Decoding
from flagai.generation.processors import PER_TEXT, LogitsProcessorList, active_functions
from flagai.generation.prompt_lookup import PromptLookup
from flagai.generation.protocol import GenerativeModel, decoding_of, state_size
from flagai.generation.request import Request, Running
from flagai.generation.rows import Sizes
from flagai.generation.sampling import SamplingSearch, ShardedGreedySearch
from flagai.generation.search import Search
from flagai.generation.types import LogitsProcessor

# Options that each text of a batch has for itself.
_OWN = {*PER_TEXT, "max_new_tokens", "min_new_tokens", "seed", "seeds", "cuda_graphs"}
_SHARED = tuple(entry.name for entry in dataclasses.fields(Decoding) if entry.name not in _OWN)
# An answer's tokens include a start token, and one more that is fed in vain when it has just ended.
_MORE_STEPS = 2


def batch_key(request: Request) -> Hashable:
    """What requests must have in common to be searched together."""
    decoding = request.decoding
    return (
        bool(request.prompt.blanks),
        tuple(getattr(decoding, name) for name in _SHARED),
        active_functions(decoding),
        bool(decoding.min_new_tokens),
        request.stop is not None,
        tuple(map(id, request.logits_processors)),
    )


def grouped(ready: Sequence[Running]) -> dict[Hashable, list[Running]]:
    """Texts by what they must have in common."""
    groups: dict[Hashable, list[Running]] = {}
    for text in ready:
        groups.setdefault(batch_key(text.request), []).append(text)
    return groups


def rules_of(model: GenerativeModel, protocol: DecodingProtocol, decoding: Decoding) -> Rules:
    """What the texts of a batch have in common.

    Args:
        model: the model.
        protocol: how its family decodes them.
        decoding: the options of one of them.
    """
    last = model.max_positions
    return Rules(
        protocol,
        decoding,
        start_id_of(model, protocol, decoding),
        model.config.pad_token_id if protocol.masks_padding else None,
        None if last is None else last - 1,
        0 if decoding.penalty_alpha is None else state_size(model),
    )


def sizes_of(requests: Sequence[Request], *, encoder: bool) -> Sizes:
    """The sizes that a batch of these requests needs."""
    lanes = requests[0].lanes
    longest = max(len(request.prompt.ids) for request in requests)
    steps = max(request.limit for request in requests) + _MORE_STEPS + lanes
    return Sizes(
        rows=len(requests),
        lanes=lanes,
        text=longest,
        steps=steps,
        table=max((0 if encoder else len(request.prompt.ids)) + request.limit for request in requests)
        + _MORE_STEPS
        + lanes,
        blanks=max(1, *(len(request.prompt.blanks) for request in requests)),
        cross=longest if encoder else 0,
    )


def new_search(
    sizes: Sizes, rules: Rules, added: Sequence[LogitsProcessor], device: torch.device, *, sharded: bool
) -> Search:
    """An empty batch.

    Args:
        sizes: its sizes.
        rules: what its texts have in common.
        added: the caller's processors.
        device: where the model is.
        sharded: whether the ranks that share the model can keep their logits.
    """
    decoding = rules.decoding
    state = (DraftState if decoding.prompt_lookup_num_tokens else DecodingState)(sizes, rules, device)
    processors = LogitsProcessorList(decoding, added, state)
    kind: type[Search] = SamplingSearch
    if decoding.prompt_lookup_num_tokens:
        kind = PromptLookup
    elif decoding.penalty_alpha is not None:
        kind = ContrastiveSearch
    elif decoding.num_beams > 1:
        kind = BeamSearch
    elif not decoding.do_sample and processors.changes_nothing and sharded:
        kind = ShardedGreedySearch
    search = kind(sizes, state, processors)
    for part in search.parts():
        part.allocate()
    return search


class Searches(Protocol):
    """Searches for batches, used anew where that saves capturing."""

    def rounded(self, sizes: Sizes) -> Sizes:
        """The sizes that a batch gets."""

    def search(self, key: Hashable, sizes: Sizes, make: Callable[[Sizes], Search]) -> Search:
        """An empty search of these sizes."""

    def release(self, key: Hashable, search: Search) -> None:
        """Take back a search that has no texts any more; ``key`` None: it is of no use to others."""


class SearchBatch:
    """A search whose texts come and go; another one takes over when its tensors have the wrong size.

    Args:
        searches: gives searches.
        key: what its texts have in common; None if it is of no use to others.
        make: gives an empty search of some sizes.
    """

    def __init__(self, searches: Searches, key: Hashable, make: Callable[[Sizes], Search]) -> None:
        self._searches = searches
        self._key = key
        self._make = make
        self._search: Search | None = None

    @classmethod
    def of(cls, model: GenerativeModel, request: Request, searches: Searches, *, sharded: bool) -> Self:
        """An empty batch for requests like this one."""
        rules, added = rules_of(model, decoding_of(model, request.prompt), request.decoding), request.logits_processors
        device = next(model.parameters()).device
        make = partial(new_search, rules=rules, added=added, device=device, sharded=sharded)
        # What a caller brings along is not kept.
        return cls(searches, None if added or request.stop else batch_key(request), make)

    @property
    def search(self) -> Search:
        """The search; there is one when a text has joined."""
        return cast(Search, self._search)

    @property
    def texts(self) -> list[Running]:
        """The texts, in the order of their rows."""
        return [] if self._search is None else self._search.present

    def join(self, running: Sequence[Running], sizes: Sizes) -> None:
        """Add texts.

        Args:
            running: the texts, whose prompts have been read.
            sizes: what they need.
        """
        texts = self.texts
        needed = sizes if self._search is None else self._search.sizes | sizes
        needed = dataclasses.replace(needed, rows=len(texts) + len(running))
        if self._search is None or needed | self._search.sizes != self._search.sizes:
            self._move(self._searches.rounded(needed))
        search = self.search
        search.state.all_lanes()
        free = [row for row, text in enumerate(search.texts) if text is None][: len(running)]
        search.start(free, running)

    def leave(self, texts: Sequence[Running]) -> None:
        """Take texts out, and make the tensors smaller where that is worth it."""
        search = self.search
        search.state.all_lanes()
        search.leave([text.row for text in texts])
        if not self.texts:
            self._search = None
            self._searches.release(self._key, search)
            return
        # With room for some to come, so that a batch does not go to and fro between two sizes.
        rows = len(self.texts) + len(self.texts) // 8
        sizes = self._searches.rounded(dataclasses.replace(search.sizes, rows=rows))
        if sizes.rows < search.sizes.rows:
            self._move(dataclasses.replace(search.sizes, rows=sizes.rows))

    def _move(self, sizes: Sizes) -> None:
        search, before = self._searches.search(self._key, sizes, self._make), self._search
        if before is not None:
            before.state.all_lanes()
            kept = [row for row, text in enumerate(before.texts) if text is not None]
            search.take_rows(before, kept)
            before.leave(kept)
            self._searches.release(self._key, before)
        self._search = search
