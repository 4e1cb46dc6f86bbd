"""Models whose logits are the closed formula of the golden files, driven through the real cache and masks.

A slot of the cache holds an id and its place in the text as "keys", so what a token's history is must be found
through the mask that the engine gives: a wrong ancestor changes every logit.
"""

from typing import Any

import torch

from flagai.model.layer import KVCache
from tests import tiny

VOCABULARY = 12


class _Toy:
    """Put before a real class: the same arguments of ``forward``, other logits."""

    seed: int
    answer_block: int  # what stands for the answer's block positions, to imitate the reference's GLM

    def _logits(self, ids: torch.Tensor, place: torch.Tensor, block: torch.Tensor, seen: Any, cache: KVCache) -> Any:
        """The formula; ``place`` [B, S] is where a token stands in its text."""
        entries = torch.stack([ids.double(), place.expand_as(ids).double()], dim=-1)[:, None]
        history = cache.append(0, entries, entries[..., :1])[0][:, 0]
        cache.advance(ids.shape[1])
        summed = (seen * ((history[..., 1] + 1) * history[..., 0])[:, None, :]).sum(-1)
        return formula(self.seed, summed % 13, place.expand_as(ids), block.expand_as(ids))

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


def _causal(count: int, past: int) -> torch.Tensor:
    return torch.ones(count, past + count).tril(past)[None]


class _DecoderToy(_Toy):
    def read(
        self, ids: Any, position_ids: Any, attention_mask: Any, cache: KVCache, logits_at: Any = None, **others: Any
    ) -> dict[str, Any]:
        blocked = position_ids.dim() == 3
        place = position_ids[:, 0] if blocked else position_ids
        block = position_ids[:, 1] if blocked else torch.zeros_like(place)
        first = not cache.length
        block = block if first else block + self.answer_block
        seen = _causal(ids.shape[1], 0) if first else attention_mask[:, 0]
        logits = self._logits(ids, place, block, seen, cache)
        picked = logits if logits_at is None else logits[torch.arange(len(ids))[:, None], logits_at]
        return {"logits": picked, "hidden_states": logits}


class _EncoderToy(_Toy):
    def encode(self, ids: Any, mask: Any) -> torch.Tensor:
        return torch.zeros(*ids.shape, VOCABULARY)

    def read(
        self,
        ids: Any,
        decoder_input_ids: Any,
        decoder_position_ids: Any,
        decoder_attention_mask: Any,
        cache: KVCache,
        **others: Any,
    ) -> dict[str, Any]:
        block = torch.zeros_like(decoder_position_ids)
        seen = decoder_attention_mask[:, 0]
        logits = self._logits(decoder_input_ids, decoder_position_ids, block, seen, cache)
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
