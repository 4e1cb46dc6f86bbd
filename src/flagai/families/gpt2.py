"""GPT-2: texts are continued."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from flagai.data.prepare import causal
from flagai.data.prepare.batch import Batch
from flagai.data.ragged import Ragged
from flagai.data.tokenizer import Tokenizer
from flagai.families.family import (
    IGNORED,
    DecodingProtocol,
    EmbeddingProtocol,
    Family,
    LabelIds,
    ModelClass,
    ModelInputs,
    TextProtocol,
    TrainingProtocol,
    named_tokens,
)


def causal_arguments(_: Any, inputs: ModelInputs) -> dict[str, Any]:
    """Ids and positions."""
    return {"input_ids": inputs.ids, "position_ids": inputs.positions[:, 0]}


def next_tokens(tokens: torch.Tensor) -> torch.Tensor:
    """Each position's next token, [B, S] -> [B, S]."""
    return F.pad(tokens[:, 1:], (0, 1), value=IGNORED)


def _rows(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> Ragged:
    return Ragged.of([prompt.ids for prompt in causal.prompts(tokenizer, texts, max_length)])


def _label_batch(_: Any, tokenizer: Tokenizer, text: str, labels: LabelIds, max_length: int | None) -> Batch:
    batch = causal.pairs(tokenizer, [text] * len(labels), list(labels), max_length)
    return batch | {"labels": next_tokens(batch["labels"])}


def _pairs(
    tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], max_source: int, max_target: int
) -> Batch:
    return causal.pairs(tokenizer, sources, targets, max_source + max_target)


_CONTINUATION = TextProtocol(
    causal.prompts,
    stop=lambda tokenizer: (tokenizer.token_end_id,),
    never_sampled=named_tokens("unk"),
    configured_ends=True,
)
_WRITING = ("lm", "seq2seq", "title-generation", "poetry", "writing", "semantic-matching", "classification")

FAMILY = Family(
    name="gpt2",
    classes=(
        ModelClass(
            "GPT2Model",
            tasks=(*_WRITING, "embedding"),
            methods=("write", "predict_cls_classifier", "predict_embedding"),
            architectures=("GPT2LMHeadModel",),
        ),
    ),
    signature=("n_embd", "n_layer"),
    text=lambda _name, _masked: _CONTINUATION,
    decoding=DecodingProtocol(causal_arguments, masks_padding=True),
    embedding=EmbeddingProtocol(
        _rows,
        attention_mask=lambda lengths, width: (torch.arange(width, device=lengths.device) < lengths[:, None]).long(),
    ),
    label_batch=_label_batch,
    training=TrainingProtocol(
        pairs=_pairs,
        continuation=causal.windows,
        is_cut=lambda tokenizer, source, target, max_source, max_target: (
            source + target + len(causal.start(tokenizer)) + 2 > max_source + max_target
        ),
    ),
)
