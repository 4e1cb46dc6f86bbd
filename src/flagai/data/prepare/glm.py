"""Inputs of GLM: filling blanks, sequence to sequence, classification.

Source: Du et al. 2022, "GLM"; section 2 and 3.1 for blanks and their two-dimensional positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from flagai.data.prepare.batch import Batch, encoded, encoded_pairs, kept, kept_end, padded
from flagai.data.prompt import Prompt
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError

MASKS = ("mask", "sMASK", "gMASK")


@dataclass(frozen=True)
class GLMInput:
    """One input of GLM."""

    ids: list[int]
    positions: list[int]  # each token's position in the text; tokens of a blank have the position of their mask
    blocks: list[int]  # 0 in the text; 1, 2, ... inside a blank
    separator: int  # how many tokens all queries attend to
    targets: list[int]  # what each position predicts, 0 where nothing is asked for
    weights: list[int]  # 1 where a target counts


# -- blanks ---------------------------------------------------------------------------------------------------


def context(tokenizer: Tokenizer, text: str, max_length: int | None = None) -> list[int]:
    """The tokens of a text with masks: ``[CLS] text <eos>``, without the last one after a final ``[gMASK]``.

    A text without any mask gets `` [gMASK]`` at its end, which asks for a continuation; its beginning is dropped if it
    is too long.

    Raises:
        InputError: a text with masks is too long.
    """
    cls, tokens = tokenizer.get_command_id("cls"), tokenizer.encode(text)
    if not mask_positions(tokenizer, tokens):
        g_mask = tokenizer.find_command_id("gMASK")
        end = tokenizer.encode("[MASK]" if g_mask is None else "[gMASK]")
        ends = [] if end == [g_mask] else [tokenizer.get_command_id("eos")]
        return [cls, *(kept_end(tokens, max_length, 1 + len(end) + len(ends)) if tokens else []), *end, *ends]
    ids = [cls, *tokens]
    if not text.endswith("[gMASK]"):
        ids.append(tokenizer.get_command_id("eos"))
    if max_length is not None and len(ids) > max_length:
        raise InputError(f"A text has {len(ids)} tokens, more than {max_length}. Shorten it around its masks.")
    return ids


def mask_positions(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Where the masks ([MASK], [sMASK], [gMASK]) of a row are, in ascending order."""
    masks = {tokenizer.find_command_id(name) for name in MASKS}
    return [position for position, token in enumerate(ids) if token in masks]


def blank_prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """Texts whose blanks are to be filled; see :func:`context`."""
    rows = [context(tokenizer, text, max_length) for text in texts]
    return [Prompt(tuple(row), tuple(mask_positions(tokenizer, row))) for row in rows]


def blank_row(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    fillings: Sequence[tuple[int, Sequence[int]]],
    *,
    block_positions: bool = True,
) -> GLMInput:
    """A text followed by what its masks stand for, each as ``<sop> tokens`` and to be predicted as ``tokens <eop>``.

    Args:
        tokenizer: a GLM's tokenizer.
        ids: the text with its masks.
        fillings: (position of the mask, tokens) in the order in which they are written.
        block_positions: count inside blanks; else every token of a blank has the block position 1.
    """
    sop, eop = tokenizer.get_command_id("sop"), tokenizer.get_command_id("eop")
    row = GLMInput([*ids], [*range(len(ids))], [0] * len(ids), len(ids), [0] * len(ids), [0] * len(ids))
    for position, tokens in fillings:
        count = len(tokens) + 1
        row.ids.extend([sop, *tokens])
        row.positions.extend([position] * count)
        row.blocks.extend(range(1, count + 1) if block_positions else [1] * count)
        row.targets.extend([*tokens, eop])
        row.weights.extend([1] * count)
    return row


def blank_filling(
    tokenizer: Tokenizer, texts: Sequence[str], answers: Sequence[Sequence[str]], max_length: int | None = None
) -> Batch:
    """Texts with masks and, for each, one answer per mask, for training; see :func:`collate`."""
    rows = []
    contexts = {text: context(tokenizer, text, max_length) for text in dict.fromkeys(texts)}
    for index, (text, fillings) in enumerate(zip(texts, answers, strict=True)):
        positions = mask_positions(tokenizer, ids := contexts[text])
        if len(positions) != len(fillings):
            raise InputError(f"Text {index} has {len(positions)} masks, but {len(fillings)} answers: {text!r}.")
        tokens = [tokenizer.encode(answer) for answer in fillings]
        rows.append(blank_row(tokenizer, ids, list(zip(positions, tokens, strict=True))))
    return collate(rows, tokenizer.get_command_id("pad"))


def collate(rows: Sequence[GLMInput], pad_id: int) -> Batch:
    """Pad rows.

    Returns:
        ``input_ids``, ``target_ids`` and ``loss_mask`` [B, S]; ``position_ids`` [B, 2, S]; ``attention_mask`` [B],
        the separators.
    """
    positions = padded([row.positions for row in rows], 0)
    blocks = padded([row.blocks for row in rows], 0)
    return {
        "input_ids": padded([row.ids for row in rows], pad_id),
        "position_ids": torch.stack([positions, blocks], dim=1),
        "attention_mask": torch.tensor([row.separator for row in rows]),
        "target_ids": padded([row.targets for row in rows], 0),
        "loss_mask": padded([row.weights for row in rows], 0),
    }


# -- sequence to sequence ---------------------------------------------------------------------------------------


def causal_row(tokenizer: Tokenizer, source: Sequence[int], target: Sequence[int] | None) -> GLMInput:
    """``<sop> source [SEP] target <eop>`` as FlagAI trains titles and poems: causal, running positions, no blocks.

    Without a target it is a prompt.
    """
    given = [tokenizer.get_command_id("sop"), *source, tokenizer.get_command_id("sep")]
    if target is None:
        return GLMInput(given, [*range(len(given))], [0] * len(given), 0, [], [])
    *ids, end = [*given, *target, tokenizer.get_command_id("eop")]
    counts = [0] * (len(given) - 1) + [1] * (len(ids) - len(given) + 1)
    return GLMInput(ids, [*range(len(ids))], [0] * len(ids), 0, [*ids[1:], end], counts)


def causal_prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """Texts to which something is to be written: ``<sop> text [SEP]``."""
    rows = (kept(tokenizer, [ids], max_length, 2)[0] for ids in tokenizer.encode_many(texts))
    return [Prompt(tuple(causal_row(tokenizer, ids, None).ids)) for ids in rows]


def seq2seq(
    tokenizer: Tokenizer,
    sources: Sequence[str],
    targets: Sequence[str],
    max_source_length: int | None = None,
    max_target_length: int | None = None,
) -> Batch:
    """Texts to read (with ``<sop>`` and ``[SEP]``) and to write (with ``<eop>``), for training; see `causal_row`.

    Returns:
        As :func:`collate`; every token of the target and its ``<eop>`` count, nothing else.
    """
    rows = []
    for source, target in zip(encoded(tokenizer, sources), encoded(tokenizer, targets), strict=True):
        (read,), (written,) = (
            kept(tokenizer, [source], max_source_length, 2),
            kept(tokenizer, [target], max_target_length, 1),
        )
        rows.append(causal_row(tokenizer, read, written))
    pad = tokenizer.get_command_id("pad")
    batch = collate(rows, pad)
    # As FlagAI's collators: positions count on over padding, whose block position is 1; targets are padding there.
    batch["position_ids"][:, 0] = torch.arange(batch["input_ids"].shape[1])
    batch["position_ids"][:, 1] = padded([row.blocks for row in rows], 1)
    batch["target_ids"] = padded([row.targets for row in rows], pad)
    return batch


# -- classification ---------------------------------------------------------------------------------------------


def classification(
    tokenizer: Tokenizer,
    texts: Sequence[str | Sequence[str]],
    classes: Sequence[int] | None = None,
    max_length: int | None = 512,
) -> Batch:
    """Texts or pairs to be classified and, for training, the right class of each.

    Returns:
        ``input_ids`` [B, S], ``position_ids`` [B, 2, S], ``attention_mask`` [B], the lengths; ``labels`` [B].
    """
    batch = classification_batch(tokenizer, classification_rows(tokenizer, texts, max_length))
    return batch if classes is None else {**batch, "labels": torch.tensor(list(classes))}


def classification_batch(tokenizer: Tokenizer, rows: Sequence[GLMInput]) -> Batch:
    """Rows of :func:`classification_rows` as a batch."""
    batch = collate(rows, tokenizer.get_command_id("pad"))
    return {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask")}


def classification_rows(
    tokenizer: Tokenizer, texts: Sequence[str | Sequence[str]], max_length: int | None = None
) -> list[GLMInput]:
    """Rows ``[CLS] text <eos>`` and ``[CLS] first [SEP] second <eos>``; all tokens attend to all."""
    cls, sep, eos = (tokenizer.get_command_id(name) for name in ("cls", "sep", "eos"))
    rows = []
    for encodings in encoded_pairs(tokenizer, texts):
        between = [sep] * (len(encodings) - 1)
        parts = kept(tokenizer, [encoding.ids for encoding in encodings], max_length, 2 + len(between))
        ids = [cls, *parts[0], *between, *chain.from_iterable(parts[1:]), eos]
        rows.append(GLMInput(ids, [*range(len(ids))], [0] * len(ids), len(ids), [], []))
    return rows
