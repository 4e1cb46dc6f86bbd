"""Filling blanks: what was written for each mask, put back into the text."""

import re
from collections.abc import Sequence

import torch

from flagai.data.prepare import bert
from flagai.data.prepare.batch import checked_texts
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertForMaskLM
from flagai.model.predictor.options import Options
from flagai.model.predictor.protocol import BLANKS, ENCODER_DECODER
from flagai.model.predictor.results import Filled
from flagai.model.predictor.text_generation import Writer
from flagai.model.t5_model import T5Model

_MASKS = re.compile(r"\[(?:MASK|sMASK|gMASK)\]")


def has_blank(text: str) -> bool:
    """Whether a text has a mask to fill."""
    return _MASKS.search(text) is not None


def fill(writer: Writer, texts: Sequence[str], options: Options, num_return_sequences: int) -> list[list[Filled]]:
    """The best fillings of each text.

    Args:
        writer: with a GLM, a T5 or a BERT with its masked-word head.
        texts: texts with masks: [MASK], and for GLM [sMASK] (a sentence) and [gMASK] (a long end).
        options: how to write.
        num_return_sequences: how many fillings of each text.

    Raises:
        InputError: a text has no mask.
    """
    texts = checked_texts(texts)
    for index, text in enumerate(texts):
        if not has_blank(text):
            raise InputError(
                f"Text {index} has no blank: put [MASK] where something shall be filled in: {text[:60]!r}."
            )
    if isinstance(writer.model, BertForMaskLM):
        options.refuse_all_but("num_return_sequences", "num_beams", who="a BERT fills each blank with its best token")
        return [_fill_words(writer.model, writer.tokenizer, text, num_return_sequences) for text in texts]
    options = writer.seeded(options, len(texts))
    if isinstance(writer.model, T5Model):
        return _fill_sentinels(writer, texts, options)
    prompts = BLANKS.prompts(writer.tokenizer, texts, None)
    answers = writer.answers(BLANKS, prompts, options)
    return [
        [
            put_back(text, [writer.piece(piece, options) for piece in hypothesis.pieces], hypothesis.score)
            for hypothesis in hypotheses
        ]
        for text, hypotheses in zip(texts, answers, strict=True)
    ]


def put_back(text: str, fillings: Sequence[str], score: float) -> Filled:
    """Replace the masks of a text, one after the other; masks beyond the fillings become empty."""
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    length = end = 0
    given = iter(fillings)
    used = []
    for mask in _MASKS.finditer(text):
        filling = next(given, "")
        before = text[end : mask.start()]
        spans.append((length + len(before), length + len(before) + len(filling)))
        used.append(filling)
        parts += [before, filling]
        length = spans[-1][1]
        end = mask.end()
    return Filled("".join([*parts, text[end:]]), tuple(spans), tuple(used), score)


@torch.inference_mode()
def _fill_words(model: BertForMaskLM, tokenizer: Tokenizer, text: str, width: int) -> list[Filled]:
    """One token per mask, from left to right, each seeing what was filled in before it: a beam search."""
    row = bert.rows(tokenizer, [_MASKS.sub("[MASK]", text)], model.config.longest_text)[0]
    mask = tokenizer.get_command_id("mask")
    places = [place for place, token in enumerate(row.ids) if token == mask]
    if len(places) < len(_MASKS.findall(text)):
        raise InputError(
            f"Only {len(places)} of the blanks are among the {model.config.longest_text} tokens that the model reads. "
            f"Shorten the text: {text[:60]!r}."
        )
    rows = tokenizer.rows_without_token(model.config.vocab_size)
    never = torch.tensor(sorted({*tokenizer.command_ids, *rows}), device=model.device)
    beams = torch.tensor([row.ids], device=model.device)
    scores = torch.zeros(1, device=model.device)
    for place in places:
        logits = model(beams, segment_ids=torch.zeros_like(beams))["logits"][:, place].float()
        logits[:, never[never < logits.shape[1]]] = -torch.inf
        joint = scores[:, None] + logits.log_softmax(-1)
        scores, best = joint.flatten().topk(min(width, joint.numel()))
        beams = beams[best // joint.shape[1]]
        beams[:, place] = best % joint.shape[1]
    return [
        put_back(text, [tokenizer.decode([int(beam[place])]) for place in places], float(score))
        for beam, score in zip(beams, scores, strict=True)
    ]


def _fill_sentinels(writer: Writer, texts: Sequence[str], options: Options) -> list[list[Filled]]:
    """T5's own form: each mask is a sentinel, and the answer repeats the sentinels before what they stand for."""
    sentinels = _sentinels(writer.model, writer.tokenizer)
    prompts = []
    for text in texts:
        numbers = iter(range(len(sentinels)))
        asked = _MASKS.sub(lambda _: f"<extra_id_{next(numbers)}>", text)  # noqa: B023 - used up within the call
        prompts += ENCODER_DECODER.prompts(writer.tokenizer, [asked], None)
    answers = writer.answers(ENCODER_DECODER, prompts, options)
    return [
        [
            put_back(text, [writer.piece(piece, options) for piece in _cut(answer.ids, sentinels)], answer.score)
            for answer in hypotheses
        ]
        for text, hypotheses in zip(texts, answers, strict=True)
    ]


def _sentinels(model: BaseModel, tokenizer: Tokenizer) -> list[int]:
    if tokenizer.kind != "t5":
        raise InputError(f"This {type(model).__name__} has no sentinels (<extra_id_0>), so it cannot fill blanks.")
    return tokenizer.convert_tokens_to_ids([f"<extra_id_{number}>" for number in range(100)])


def _cut(ids: Sequence[int], sentinels: Sequence[int]) -> list[list[int]]:
    """What follows each sentinel, in order."""
    pieces: list[list[int]] = []
    for token in ids:
        if token in sentinels:
            pieces.append([])
        elif pieces:
            pieces[-1].append(token)
    return pieces
