"""BERT and RoBERTa-base-ch: texts are read; with UniLM's segments also written."""

from collections.abc import Sequence
from typing import Any

import torch

from flagai.catalog.card import MODEL_TYPES
from flagai.data.prepare import bert
from flagai.data.prepare.batch import Batch
from flagai.data.prompt import Prompt
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
from flagai.families.gpt2 import causal_arguments, next_tokens


def _arguments(model: Any, inputs: ModelInputs) -> dict[str, Any]:
    return {**causal_arguments(model, inputs), "segment_ids": inputs.generated.long()}


def _prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> list[Prompt]:
    return [Prompt(tuple(row.ids)) for row in bert.rows(tokenizer, texts, max_length)]


def _packed_states(model: Any, arguments: dict[str, Any]) -> torch.Tensor:
    states: torch.Tensor = model(**arguments)["hidden_states"]
    return states


def _label_batch(_: Any, tokenizer: Tokenizer, text: str, labels: LabelIds, max_length: int | None) -> Batch:
    batch = bert.seq2seq(tokenizer, [text] * len(labels), list(labels), max_length)
    written = batch["input_ids"].masked_fill(batch["segment_ids"] == 0, IGNORED)
    return batch | {"labels": next_tokens(written)}


def _pairs(
    tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], max_source: int, max_target: int
) -> Batch:
    return bert.seq2seq(tokenizer, sources, targets, max_source + max_target)


_UNILM = TextProtocol(_prompts, named_tokens("sep"), never_sampled=named_tokens("unk"))
_WRITES = ("write", "fill_blanks", "predict_masklm", "predict_cls_classifier", "predict_embedding")

FAMILY = Family(
    name="bert",
    classes=(
        ModelClass("BertModel", ("lm",), ("predict_embedding",), ("RobertaModel",)),
        ModelClass("BertForEmbedding", ("embedding",), ("predict_embedding",)),
        ModelClass(
            "BertForMaskLM",
            ("masklm",),
            ("fill_blanks", "predict_masklm"),
            ("BertForMaskedLM", "BertForPreTraining"),
            head="cls.predictions.transform.dense.weight",
            head_classes=False,
            head_first=False,
        ),
        ModelClass("BertForSeq2seq", ("seq2seq", "title-generation", "poetry", "writing"), _WRITES),
        ModelClass(
            "BertForSequenceLabelingCRF",
            ("ner-crf",),
            ("predict_ner",),
            head="crf_layer.trans",
            entities="crf",
        ),
        ModelClass(
            "BertForSequenceLabelingGP",
            ("ner-gp",),
            ("predict_ner",),
            head="gp.dense.weight",
            head_classes=False,
            entities="spans",
        ),
        ModelClass(
            "BertForSequenceLabeling",
            ("ner",),
            ("predict_ner",),
            ("BertForTokenClassification",),
            head="final_dense.weight",
            entities="tags",
        ),
        ModelClass(
            "BertForClsClassifier",
            ("semantic-matching", "classification"),
            ("predict_cls_classifier",),
            ("BertForSequenceClassification",),
            head="out_layer.weight",
        ),
    ),
    model_types=MODEL_TYPES["bert"],
    signature=("num_hidden_layers", "type_vocab_size"),
    text=lambda _name, _masked: _UNILM,
    decoding=DecodingProtocol(_arguments, prefix=True, masks_padding=True),
    blanks="tokens",
    embedding=EmbeddingProtocol(bert.id_rows, packed_states=_packed_states, specials=2),
    label_batch=_label_batch,
    training=TrainingProtocol(
        pairs=_pairs,
        is_cut=lambda _, source, target, max_source, max_target: source + target + 3 > max_source + max_target,
        specials=lambda tokenizer, texts: tokenizer.frames[texts - 1].specials,
        classification=bert.classification,
        masking=bert.masked,
        embedding=bert.embedding,
        packs=True,
    ),
)
