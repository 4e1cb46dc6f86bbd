"""Filling blanks: what was written for each mask, put back into the text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flagai.data.prepare import bert
from flagai.data.prepare.batch import checked_texts
from flagai.data.tokenizer import Tokenizer
from flagai.data.tokenizer.commands import SENTINELS
from flagai.errors import InputError
from flagai.families.family import Family
from flagai.generation import Hypothesis
from flagai.model.base_model import BaseModel
from flagai.model.predictor.options import Options
from flagai.model.predictor.results import Filled
from flagai.model.predictor.text_generation import TextGenerator, TextRequest

_MASKS = re.compile(r"\[(?:MASK|sMASK|gMASK)\]")


def has_blank(text: str) -> bool:
    """Whether a text has a mask to fill."""
    return _MASKS.search(text) is not None


@dataclass(eq=False)
class BlankRequest(TextRequest):
    """A text with blanks on its way through a scheduler."""

    text: str
    sentinels: Sequence[int]  # T5's, which its output repeats; none for a GLM

    def filled(self) -> list[Filled]:
        """The fillings, best first; none before it is done."""
        return [self._filled(hypothesis) for hypothesis in self.request.hypotheses]

    def _filled(self, answer: Hypothesis) -> Filled:
        spans = _after(self.sentinels, answer.ids) if self.sentinels else answer.pieces
        return put_back(self.text, [self.generator.piece(span, self.options) for span in spans], answer.score)


def fill_masks(
    generator: TextGenerator, family: Family, texts: Sequence[str], options: Options, num_return_sequences: int
) -> list[list[Filled]]:
    """The best fillings of each text, as many as ``num_return_sequences``.

    Raises:
        InputError: a text has no mask.
    """
    if family.blanks == "tokens":
        options.refuse_all_but(
            "num_return_sequences", "num_beams", reason="a BERT fills each blank with its best token"
        )
        texts = checked_blanks(texts)
        return [_fill_tokens(generator.model, generator.tokenizer, text, num_return_sequences) for text in texts]
    asked = blank_requests(generator, family, texts, options)
    generator.answer([each.request for each in asked])
    return [each.filled() for each in asked]


def blank_requests(
    generator: TextGenerator, family: Family, texts: Sequence[str], options: Options
) -> list[BlankRequest]:
    """What a scheduler takes for texts with blanks, for families that write their fillings.

    Raises:
        InputError: a text has no mask.
    """
    texts = checked_blanks(texts)
    model, tokenizer = generator.model, generator.tokenizer
    options, protocol = generator.seeded(options, len(texts)), generator.protocol(masked=True)
    sentinels = _sentinels(model, tokenizer) if family.blanks == "sentinels" else []
    prompts = protocol.prompts(tokenizer, [_with_sentinels(text) for text in texts] if sentinels else texts, None)
    made = generator.blank_requests(protocol, prompts, options)
    return [
        BlankRequest(request, generator, options, text, sentinels) for text, request in zip(texts, made, strict=True)
    ]


def checked_blanks(texts: Sequence[str]) -> list[str]:
    """The texts, each of which has a mask.

    Raises:
        InputError: one has none.
    """
    texts = checked_texts(texts)
    for index, text in enumerate(texts):
        if not has_blank(text):
            raise InputError(
                f"Text {index} has no blank: put [MASK] where something is to be filled in: {text[:60]!r}."
            )
    return texts


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
def _fill_tokens(model: BaseModel, tokenizer: Tokenizer, text: str, width: int) -> list[Filled]:
    """One token per mask, from left to right, each seeing what was filled in before it: a beam search."""
    row = bert.rows(tokenizer, [_MASKS.sub("[MASK]", text)], model.max_positions)[0]
    mask = tokenizer.get_command_id("mask")
    places = [place for place, token in enumerate(row.ids) if token == mask]
    if len(places) < len(_MASKS.findall(text)):
        raise InputError(
            f"Only {len(places)} of the blanks are among the {model.max_positions} tokens that the model reads. "
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


def _with_sentinels(text: str) -> str:
    """T5's own form: each mask is a sentinel, and the output repeats the sentinels before what they stand for."""
    numbers = iter(range(SENTINELS))
    return _MASKS.sub(lambda _: f"<extra_id_{next(numbers)}>", text)


def _sentinels(model: BaseModel, tokenizer: Tokenizer) -> list[int]:
    if tokenizer.kind != "t5":
        raise InputError(f"This {type(model).__name__} has no sentinels (<extra_id_0>), so it cannot fill blanks.")
    return tokenizer.convert_tokens_to_ids([f"<extra_id_{number}>" for number in range(SENTINELS)])


def _after(sentinels: Sequence[int], ids: Sequence[int]) -> list[list[int]]:
    """What follows each sentinel, in order."""
    pieces: list[list[int]] = []
    for token in ids:
        if token in sentinels:
            pieces.append([])
        elif pieces:
            pieces[-1].append(token)
    return pieces
