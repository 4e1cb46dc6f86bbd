"""What is particular to a family in decoding: four values, and the names of its arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flagai.data.prompt import Prompt
from flagai.errors import InputError
from flagai.model.bert_model import BertForSeq2seq
from flagai.model.glm_model import GLMForSeq2Seq, GLMModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.t5_model import T5Model


@dataclass(frozen=True)
class Places:
    """Tokens and where they stand.

    Args:
        ids: [B, S]
        position: positions in the text, [B, S].
        block: GLM's positions inside of a span, [B, S].
        real: which tokens are no padding, [B, S]; given with prompts only.
        seen: which cached keys each token sees, [B, 1, S, K]; given with answers only.
        prefix: the tokens see each other, those of a prompt; else each sees what came before.
        apart: the rows of an answer's tokens stand at positions of their own; else each column at one.
        both: positions and blocks in one tensor, [B, 2, S], where they lie side by side.
    """

    ids: torch.Tensor
    position: torch.Tensor
    block: torch.Tensor
    real: torch.Tensor | None = None
    seen: torch.Tensor | None = None
    prefix: bool = False
    apart: bool = False
    both: torch.Tensor | None = None


Arguments = Callable[[Any, Places], dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """How a family decodes.

    Args:
        starts: an answer begins with a token of its own; else the prompt's last token predicts the first one.
        spans: new tokens stand at the position of their blank and count inside of it; else positions run on.
        prefix: the prompt's tokens see each other; else they see what came before.
        encoder: the prompt goes to an encoder; the answer begins at position 0.
        arguments: the arguments of ``forward``.
    """

    starts: bool
    spans: bool
    prefix: bool
    encoder: bool
    arguments: Arguments


def _without_padding(model: Any, places: Places) -> torch.Tensor | None:
    """What GPT-2 and BERT see: the matrix of an answer; of a prompt, all but padding and padding ids, as always."""
    pad = model.config.pad_token_id
    if places.real is None:
        return places.seen
    return places.real if pad is None else places.real & (places.ids != pad)


def _gpt2(model: Any, places: Places) -> dict[str, Any]:
    return {
        "input_ids": places.ids,
        "position_ids": places.position,
        "attention_mask": _without_padding(model, places),
    }


def _bert(model: Any, places: Places) -> dict[str, Any]:
    segment = torch.zeros_like if places.seen is None else torch.ones_like
    return {**_gpt2(model, places), "segment_ids": segment(places.ids)}


def _glm(model: Any, places: Places) -> dict[str, Any]:
    mask = places.seen
    if mask is None and places.real is not None:
        # A separator of 0 is a causal mask; padding on the right needs no other.
        mask = places.real[:, None, None, :] if places.prefix else places.real.new_zeros(1, dtype=torch.long)
    position = places.position
    if model.config.block_position_encoding:
        position = torch.stack([position, places.block], dim=1) if places.both is None else places.both
    return {"input_ids": places.ids, "position_ids": position, "attention_mask": mask}


def _t5(_: Any, places: Places) -> dict[str, Any]:
    # Where tokens of one call stand at one position in all rows, one row of the bias serves the batch.
    return {
        "decoder_input_ids": places.ids,
        "decoder_position_ids": places.position if places.apart else places.position[:1],
        "decoder_attention_mask": places.seen,
    }


_GLM = Family(starts=False, spans=False, prefix=False, encoder=False, arguments=_glm)
_GLM_BLANKS = Family(starts=True, spans=True, prefix=True, encoder=False, arguments=_glm)

# class: (for a plain continuation, for blanks)
FAMILIES: dict[type, tuple[Family, Family | None]] = {
    GPT2Model: (Family(starts=False, spans=False, prefix=False, encoder=False, arguments=_gpt2), None),
    BertForSeq2seq: (Family(starts=False, spans=False, prefix=True, encoder=False, arguments=_bert), None),
    GLMModel: (_GLM, _GLM_BLANKS),
    GLMForSeq2Seq: (_GLM, _GLM_BLANKS),
    T5Model: (Family(starts=True, spans=False, prefix=True, encoder=True, arguments=_t5), None),
}


def family_of(model: Any, prompts: Sequence[Prompt]) -> Family:
    """How to decode these prompts with this model.

    Raises:
        InputError: the class of the model writes nothing, or has no blanks to fill, or only some prompts have blanks.
    """
    found = next((family for kind, family in FAMILIES.items() if isinstance(model, kind)), None)
    if found is None:
        names = ", ".join(kind.__name__ for kind in FAMILIES)
        raise InputError(f"A {type(model).__name__} cannot generate text; load one of {names}.")
    plain, blanks = found
    with_blanks = sum(bool(prompt.blanks) for prompt in prompts)
    if not with_blanks:
        return plain
    if blanks is None:
        raise InputError(f"Only GLM fills blanks; a {type(model).__name__} continues prompts without blanks.")
    if with_blanks < len(prompts):
        raise InputError(
            f"{with_blanks} of {len(prompts)} prompts have blanks; put the others into a call of their own."
        )
    return blanks


def remaining_positions(model: Any, prompt: Prompt) -> int | None:
    """The largest ``max_new_tokens`` for which a model has positions; None if there is no limit.

    The newest token is not fed, so an answer of n tokens takes n - 1 positions after the prompt. In a blank, n + 2
    positions inside of the span are taken: 0 by the context, 1 by the start token.

    Args:
        model: the model.
        prompt: the text; its answer has no room, 0, if it alone is too long.
    """
    rows: int | None = model.max_positions
    if rows is None:
        return None
    if len(prompt.ids) > rows:
        return 0
    return rows - 2 if prompt.blanks else rows - len(prompt.ids) + 1
