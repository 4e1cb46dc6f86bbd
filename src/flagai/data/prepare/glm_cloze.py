"""Inputs of GLM's cloze heads: texts with one mask and the answers to choose from."""

from collections.abc import Sequence

import torch

from flagai.data.prepare.batch import Batch
from flagai.data.prepare.glm import GLMInput, blank_row, collate, context, mask_positions
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError


def multi_token_cloze(tokenizer: Tokenizer, texts: Sequence[str], choices: Sequence[Sequence[str]]) -> Batch:
    """Texts with one mask each and the same number of answers for each, for :class:`GLMForMultiTokenCloze`.

    Returns:
        ``input_ids``, ``target_ids``, ``logit_mask`` [B, C, S]; ``position_ids`` [B, C, 2, S]; ``attention_mask``
        [B, C].
    """
    counts = sorted({len(answers) for answers in choices})
    if len(counts) != 1 or not counts[0]:
        raise InputError(f"The texts have {counts} answers; expected the same number, at least one, for each.")
    rows = []
    for text, answers in zip(texts, choices, strict=True):
        ids, position = _one_mask(tokenizer, text)
        rows += [blank_row(tokenizer, ids, [(position, tokenizer.encode(answer))]) for answer in answers]
    batch = collate(rows, tokenizer.get_command_id("pad"))
    batch["logit_mask"] = batch.pop("loss_mask")
    return {name: tensor.unflatten(0, (-1, counts[0])) for name, tensor in batch.items()}


def single_token_cloze(tokenizer: Tokenizer, texts: Sequence[str], candidates: Sequence[str]) -> Batch:
    """Texts with one mask each and single tokens to choose from, for :class:`GLMForSingleTokenCloze`.

    Returns:
        ``input_ids`` [B, S], ``position_ids`` [B, 2, S], ``attention_mask`` [B], ``target_ids`` [B, C].
    """
    sop = tokenizer.get_command_id("sop")
    rows = []
    for text in texts:
        ids, position = _one_mask(tokenizer, text)
        rows.append(GLMInput([*ids, sop], [*range(len(ids)), position], [*[0] * len(ids), 1], len(ids), [0], [0]))
    batch = collate(rows, tokenizer.get_command_id("pad"))
    del batch["loss_mask"]
    targets = torch.tensor([_single_token(tokenizer, candidate) for candidate in candidates])
    return {**batch, "target_ids": targets.expand(len(rows), -1)}


def _one_mask(tokenizer: Tokenizer, text: str) -> tuple[list[int], int]:
    ids = context(tokenizer, text)
    positions = mask_positions(tokenizer, ids)
    if len(positions) != 1:
        raise InputError(f"A cloze question needs one mask; {text!r} has {len(positions)}.")
    return ids, positions[0]


def _single_token(tokenizer: Tokenizer, candidate: str) -> int:
    ids = tokenizer.encode(candidate)
    if len(ids) != 1:
        raise InputError(
            f"{candidate!r} is {len(ids)} tokens; a single-token cloze needs one. Use the multi-token form."
        )
    return ids[0]
