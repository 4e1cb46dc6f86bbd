"""T5 and mT5: an encoder reads the text, a decoder writes."""

from collections.abc import Sequence
from typing import Any

import torch

from flagai.catalog.card import MODEL_TYPES
from flagai.data.prepare import encoder_decoder
from flagai.data.prepare.batch import Batch
from flagai.data.ragged import Ragged
from flagai.data.tokenizer import Tokenizer
from flagai.families.family import (
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


def _arguments(_: Any, inputs: ModelInputs) -> dict[str, Any]:
    return {"decoder_input_ids": inputs.ids}


def _configured_start(config: Any, tokenizer: Tokenizer) -> int | None:
    """T5s with a BERT vocabulary begin with [CLS], whatever they are configured to."""
    return config.start_token if tokenizer.kind == "t5" else None


def _rows(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> Ragged:
    return Ragged.of([prompt.ids for prompt in encoder_decoder.prompts(tokenizer, texts, max_length)])


def _packed_states(model: Any, arguments: dict[str, Any]) -> torch.Tensor:
    states: torch.Tensor = model.encode(arguments["input_ids"], lengths=arguments["lengths"])
    return states


def _label_batch(model: Any, tokenizer: Tokenizer, text: str, labels: LabelIds, max_length: int | None) -> Batch:
    batch = encoder_decoder.seq2seq(tokenizer, [text] * len(labels), list(labels), max_length)
    first = _configured_start(model.config, tokenizer)
    if first is not None:
        batch["decoder_input_ids"][:, 0] = first
    return batch


def _is_cut(tokenizer: Tokenizer, source: int, target: int, max_source: int, max_target: int) -> bool:
    return source + (1 if tokenizer.kind == "t5" else 2) > max_source or target + 1 > max_target


_TEXT = TextProtocol(
    encoder_decoder.prompts,
    stop=lambda tokenizer: (encoder_decoder.start_and_end(tokenizer)[1],),
    never_sampled=named_tokens("unk"),
    start=lambda tokenizer: (encoder_decoder.start_and_end(tokenizer)[0],),
    configured_ends=True,
    configured_start=_configured_start,
)
_WRITING = ("lm", "seq2seq", "title-generation", "poetry", "writing", "masklm", "semantic-matching", "classification")

FAMILY = Family(
    name="t5",
    classes=(
        ModelClass(
            "T5Model",
            tasks=(*_WRITING, "embedding"),
            methods=("write", "fill_blanks", "predict_cls_classifier", "predict_embedding"),
            architectures=("T5ForConditionalGeneration", "T5WithLMHeadModel", "MT5ForConditionalGeneration"),
        ),
    ),
    model_types=MODEL_TYPES["t5"],
    signature=("d_model", "d_kv"),
    text=lambda _name, _masked: _TEXT,
    decoding=DecodingProtocol(_arguments, starts=True, prefix=True, encoder=True),
    blanks="sentinels",
    embedding=EmbeddingProtocol(_rows, packed_states=_packed_states),
    label_batch=_label_batch,
    training=TrainingProtocol(pairs=encoder_decoder.seq2seq, is_cut=_is_cut),
)
