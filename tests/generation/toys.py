"""Models whose logits are the closed formula of the golden files, driven through the real cache and masks.

A slot of the cache holds an id and its place in the text as "keys", so what a token's history is must be found
through the slot table that the engine gives: a wrong slot changes every logit.
"""

from typing import Any

import torch

from flagai.model.layer import KVCache
from flagai.model.layer.paged_cache import PagedStep
from tests import tiny

VOCABULARY = 12


class _Toy:
    """Put before a real class: the same arguments of ``forward``, other logits."""

    seed: int
    answer_block: int  # what stands for the answer's block positions, to imitate the reference's GLM

    def _logits(self, ids: torch.Tensor, place: torch.Tensor, block: torch.Tensor, cache: PagedStep) -> Any:
        """The formula; ``place`` [1, T] is where a token stands in its text."""
        entries = torch.stack([ids.double(), place.double()], dim=-1)[:, None]
        history = cache.append(0, entries, entries[..., :1])[0]
        table = cache.attn_mask.table
        if table is None:  # prompts, whose logits nobody wants
            return torch.zeros(*ids.shape, VOCABULARY)
        seen = torch.arange(table.slots.shape[1]) < table.lengths[:, None]
        history = history[table.slots.long(), 0]  # [T, L, 2]
        summed = (seen * (history[..., 1] + 1) * history[..., 0]).sum(-1)
        return formula(self.seed, summed[None] % 13, place, block)

    def new_cache(self, capacity: int = 0) -> KVCache:
        return KVCache(1, capacity)

    def forward(self, input_ids: Any = None, **given: Any) -> dict[str, Any]:
        return self.read(input_ids, **given)


def formula(seed: int, p: torch.Tensor, q: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """See the ``formula`` of the golden files; [B, S] each -> [B, S, V]."""
    v = torch.arange(VOCABULARY, dtype=torch.float64)
    p, q, b = (value.double()[..., None] for value in (p, q, b))
    logits = 3 * torch.sin((seed + 1) * (p + 1) * 0.731 + (v + 1) * (1.17 + 0.013 * seed) * (p + 2))
    logits = logits + 0.7 * torch.cos(0.9 * q * (v + 1) + seed) + 0.4 * torch.sin(1.3 * b * (v + 2))
    return logits.float()


class _DecoderToy(_Toy):
    prompt_end = 0  # of the last prompt

    def read(self, ids: Any, position_ids: Any, cache: PagedStep, **others: Any) -> dict[str, Any]:
        blocked = position_ids.dim() == 3
        place = position_ids[:, 0] if blocked else position_ids
        block = position_ids[:, 1] if blocked else torch.zeros_like(place)
        if cache.attn_mask.table is None:
            self.prompt_end = int(place.max()) + 1
        block = torch.where(place > self.prompt_end, block + self.answer_block, block)
        logits = self._logits(ids, place, block, cache)
        return {"logits": logits, "hidden_states": logits}


class _EncoderToy(_Toy):
    def encode(self, ids: Any, **others: Any) -> torch.Tensor:
        return torch.zeros(*ids.shape, VOCABULARY)

    def cache_memory(self, memory: torch.Tensor, cache: PagedStep) -> None:
        pass

    def read(self, ids: Any, decoder_input_ids: Any, cache: PagedStep, **others: Any) -> dict[str, Any]:
        place = (cache.attn_mask.table.lengths - 1)[None]
        logits = self._logits(decoder_input_ids, place, torch.zeros_like(place), cache)
        return {"logits": logits, "hidden_states": logits}


CLASSES = {"bert": "BertForSeq2seq", "gpt": "GPT2Model", "t5": "T5Model", "glm": "GLMModel"}


def toy(family: str, seed: int, answer_block: int = 0) -> Any:
    """A model of the family that knows the formula and nothing else."""
    real = tiny.CLASSES[CLASSES[family]]
    kind = type("Toy", (_EncoderToy if family == "t5" else _DecoderToy, real), {})
    changes = {"pad_token_id": None} if family in ("gpt", "bert") else {}
    model = kind(tiny.config(CLASSES[family], vocab_size=VOCABULARY, **changes))
    model.seed, model.answer_block = seed, answer_block
    return model.eval()
