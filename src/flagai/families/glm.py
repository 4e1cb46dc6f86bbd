"""GLM, the original series: blanks are filled, and texts are read as prefixes.

Source: Du et al. 2022, "GLM: General Language Model Pretraining with Autoregressive Blank Infilling".
"""

from collections.abc import Iterable, Sequence
from typing import Any

from flagai.data.prepare import glm, glm_pretraining
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
    TokenIds,
    TrainingProtocol,
    named_tokens,
)


def _arguments(model: Any, inputs: ModelInputs) -> dict[str, Any]:
    positions = inputs.positions if model.config.block_position_encoding else inputs.positions[:, 0]
    return {"input_ids": inputs.ids, "position_ids": positions}


def _commands_except(*names: str) -> TokenIds:
    kept = named_tokens(*names)
    return lambda tokenizer: tuple(sorted(tokenizer.command_ids - set(kept(tokenizer))))


_BLANKS = TextProtocol(
    glm.blank_prompts,
    named_tokens("eop", "eos"),
    _commands_except("eop", "eos"),
    start=named_tokens("sop"),
    spans=True,
)
_SEQ2SEQ = TextProtocol(
    glm.causal_prompts,  # the prompt is read causally, too, as in FlagAI
    named_tokens("eop"),
    _commands_except("eop"),
    # FlagAI's order for GLM's seq2seq, unlike that of its other families.
    order=("temperature", "top_p", "repetition_penalty", "top_k"),
)


def _text(class_name: str, masked: bool) -> TextProtocol:
    """Masks are filled; a plain GLM continues other texts as a blank at their end, which is how it was pretrained.

    GLMForSeq2Seq writes them in the form in which titles and poems are trained.
    """
    return _SEQ2SEQ if class_name == "GLMForSeq2Seq" and not masked else _BLANKS


def _rows(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> Ragged:
    return Ragged.of([row.ids for row in glm.classification_rows(tokenizer, texts, max_length)])


def _label_batch(model: Any, tokenizer: Tokenizer, text: str, labels: LabelIds, max_length: int | None) -> Batch:
    # The label and its <sop> need positions besides the text's (a blank: those of its mask, [CLS] and <eos>, too).
    room = None if max_length is None else max_length - max(map(len, labels.values())) - 1
    texts = [text] * len(labels)
    if FAMILY.row_of(model) is FAMILY.by_name["GLMForSeq2Seq"]:
        batch = glm.seq2seq(tokenizer, texts, list(labels), room)
    elif tokenizer.has_command(text, glm.MASKS):
        batch = glm.blank_filling(tokenizer, texts, [[label] for label in labels], max_length)
    else:
        batch = _blank_at_the_end(tokenizer, text, labels.values(), room)
    targets, weights = batch.pop("target_ids"), batch.pop("loss_mask")
    return batch | {"labels": targets.masked_fill(weights == 0, IGNORED)}


def _blank_at_the_end(tokenizer: Tokenizer, text: str, labels: Iterable[Sequence[int]], room: int | None) -> Batch:
    """A blank behind as much of a text as there is room for, beside [CLS], the mask and <eos>."""
    *tokens, mask = tokenizer.encode(f"{text} [MASK]")
    kept = tokens if room is None else tokens[: max(room - 3, 1)]
    ids = [tokenizer.get_command_id("cls"), *kept, mask, tokenizer.get_command_id("eos")]
    rows = [glm.blank_row(tokenizer, ids, [(len(kept) + 1, label)]) for label in labels]
    return glm.collate(rows, tokenizer.get_command_id("pad"))


_WRITES = ("write", "fill_blanks", "predict_cls_classifier", "predict_embedding")

FAMILY = Family(
    name="glm",
    classes=(
        ModelClass("GLMModel", ("lm", "writing", "masklm", "embedding"), _WRITES, ("GLMForConditionalGeneration",)),
        ModelClass("GLMForSeq2Seq", ("seq2seq", "title-generation", "poetry"), _WRITES),
        ModelClass(
            "GLMForSequenceClassification",
            ("semantic-matching", "classification"),
            ("predict_cls_classifier",),
            head="multichoice_head.weight",
        ),
        ModelClass("GLMForSingleTokenCloze"),
        ModelClass("GLMForMultiTokenCloze"),
        ModelClass("GLMForMultiTokenClozeFast"),
    ),
    signature=("max_sequence_length", "block_position_encoding"),
    text=_text,
    masks=glm.MASKS,
    decoding=DecodingProtocol(_arguments),
    span_decoding=DecodingProtocol(_arguments, starts=True, spans=True, prefix=True),
    blanks="spans",
    embedding=EmbeddingProtocol(_rows, attention_mask=lambda lengths, _width: lengths),  # separators
    label_batch=_label_batch,
    class_rows=glm.classification_rows,
    class_batch=glm.classification_batch,
    training=TrainingProtocol(
        pairs=glm.seq2seq,
        is_cut=lambda _, source, target, max_source, max_target: source + 2 > max_source or target + 1 > max_target,
        classification=glm.classification,
        masking=glm_pretraining.pretraining,
        lower=True,  # the published GLM was trained on lower-cased text; other vocabularies ignore case by themselves
    ),
    command_rows=True,
)
