"""Language models as classifiers: the class is the one whose name the model finds most probable.

Source: Schick and Schuetze 2021, "Exploiting Cloze Questions for Few Shot Text Classification" (verbalisers).
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from flagai.data.prepare import bert, causal, encoder_decoder, glm
from flagai.data.prepare.batch import Batch, checked_pairs
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertForSeq2seq
from flagai.model.glm_model import GLMForSeq2Seq
from flagai.model.gpt2_model import GPT2Model
from flagai.model.predictor.arguments import read_length
from flagai.model.predictor.protocol import first_token
from flagai.model.t5_model import T5Model

_IGNORED = -100


@torch.inference_mode()
def label_scores(
    model: BaseModel,
    tokenizer: Tokenizer,
    texts: Sequence[str | Sequence[str]],
    labels: Sequence[str],
    max_length: int | None,
) -> torch.Tensor:
    """The log-probability of each label as the answer to each text, [N, labels].

    Args:
        model: a language model.
        tokenizer: its tokenizer.
        texts: texts, with a mask where a GLM shall put the label (default: at the end), or pairs.
        labels: the names of the classes, in words that the model knows.
        max_length: how many tokens of a text are read.

    Raises:
        InputError: there are no labels, or the vocabulary does not know one, or does not tell two apart.
    """
    if not labels:
        raise InputError("A language model classifies by the names of the classes: give labels=['good', 'bad'].")
    _check_known(tokenizer, labels)
    sources = [" ".join(pair) for pair in checked_pairs(texts)]
    max_length = read_length("maxlen", max_length, model)
    found = []
    for source in sources:
        batch = _batch(model, tokenizer, [source] * len(labels), list(labels), max_length)
        targets = batch.pop("labels")
        logits = model(**{name: value.to(model.device) for name, value in batch.items()})["logits"]
        found.append(_sums(logits, targets.to(logits.device)).cpu())
    return torch.stack(found)


def _check_known(tokenizer: Tokenizer, labels: Sequence[str]) -> None:
    # SentencePiece writes a blank before an unknown word.
    unknown = {tokenizer.find_command_id("unk"), tokenizer.find_token("<unk>"), tokenizer.find_token("▁")}
    rows = dict(zip(labels, map(tuple, tokenizer.encode_many(labels)), strict=True))
    strange = [label for label, ids in rows.items() if unknown.issuperset(ids)]
    if strange:
        raise InputError(
            f"labels has {strange!r:.200}, which the model's vocabulary does not know. Name the classes in words of "
            "the model's language."
        )
    equal = [label for label, ids in rows.items() if list(rows.values()).count(ids) > 1]
    if equal:
        raise InputError(f"labels has {equal!r:.200}, which are the same tokens to the model. Name them otherwise.")


def _batch(
    model: BaseModel, tokenizer: Tokenizer, sources: list[str], labels: list[str], max_length: int | None
) -> Batch:
    """Inputs, and as ``labels`` what each position shall predict, -100 where nothing is asked for."""
    if isinstance(model, T5Model):
        batch, first = encoder_decoder.seq2seq(tokenizer, sources, labels, max_length), first_token(model, tokenizer)
        if first is not None:
            batch["decoder_input_ids"][:, 0] = first
        return batch
    if isinstance(model, GPT2Model):
        batch = causal.pairs(tokenizer, sources, labels, max_length)
        return batch | {"labels": _next(batch["labels"])}
    if isinstance(model, BertForSeq2seq):
        batch = bert.seq2seq(tokenizer, sources, labels, max_length)
        written = batch["input_ids"].masked_fill(batch["segment_ids"] == 0, _IGNORED)
        return batch | {"labels": _next(written)}
    # Beside the text, the label and its <sop> need positions (for a blank: the mask's own and those of [CLS], <eos>).
    room = None if max_length is None else max_length - max(len(tokenizer.encode(label)) for label in labels) - 1
    if isinstance(model, GLMForSeq2Seq):
        batch = glm.seq2seq(tokenizer, sources, labels, room)
    else:
        (source,) = set(sources)
        if tokenizer.has_command(source, glm.MASKS):
            answers = [[label] for label in labels]
            batch = glm.blank_filling(tokenizer, [source] * len(labels), answers, max_length)
        else:
            batch = _asked_at_the_end(tokenizer, source, labels, room)
    targets, weights = batch.pop("target_ids"), batch.pop("loss_mask")
    return batch | {"labels": targets.masked_fill(weights == 0, _IGNORED)}


def _asked_at_the_end(tokenizer: Tokenizer, source: str, labels: Sequence[str], room: int | None) -> Batch:
    """A blank behind as much of a text as there is room for, beside [CLS], the mask and <eos>."""
    *tokens, mask = tokenizer.encode(f"{source} [MASK]")
    kept = tokens if room is None else tokens[: max(room - 3, 1)]
    ids = [tokenizer.get_command_id("cls"), *kept, mask, tokenizer.get_command_id("eos")]
    rows = [glm.blank_row(tokenizer, ids, [(len(kept) + 1, tokenizer.encode(label))]) for label in labels]
    return glm.collate(rows, tokenizer.get_command_id("pad"))


def _next(tokens: torch.Tensor) -> torch.Tensor:
    """Each position's next token, [B, S] -> [B, S]."""
    return F.pad(tokens[:, 1:], (0, 1), value=_IGNORED)


def _sums(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum of the targets' log-probabilities, [B, S, V] and [B, S] -> [B]."""
    losses = F.cross_entropy(logits.float().transpose(1, 2), targets, ignore_index=_IGNORED, reduction="none")
    return -losses.sum(-1)
