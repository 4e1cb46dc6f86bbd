"""Inputs of GLM: filling blanks, sequence to sequence, classification.

Source: Du et al. 2022, "GLM"; section 2 and 3.1 for blanks and their two-dimensional positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from flagai.data.prepare.batch import Batch, encoded, encoded_pairs, kept, last, padded, shortened
from flagai.data.prompt import Prompt
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError

MASKS = ("mask", "sMASK", "gMASK")


@dataclass(frozen=True)
class GLMInput:
    """One input of GLM.

    Args:
        ids: the tokens.
        positions: each token's position in the text; tokens of a blank have the position of their mask.
        blocks: 0 in the text; 1, 2, ... inside a blank.
        separator: how many tokens all queries attend to.
        targets: what each position predicts, 0 where nothing is asked for.
        weights: 1 where a target counts.
    """

    ids: list[int]
    positions: list[int]
    blocks: list[int]
    separator: int
    targets: list[int]
    weights: list[int]


# -- blanks ---------------------------------------------------------------------------------------------------


def context(tokenizer: Tokenizer, text: str, max_length: int | None = None) -> list[int]:
    """The tokens of a text with masks: ``[CLS] text <eos>``, without the last one after a final ``[gMASK]``.

    Args:
        tokenizer: a GLM's tokenizer.
        text: a text; one without any mask gets `` [gMASK]`` at its end, which asks for a continuation.
        max_length: how many tokens are allowed; the beginning of a text without masks is cut off.

    Raises:
        InputError: a text with masks is longer than that.
    """
    cls, tokens = tokenizer.get_command_id("cls"), tokenizer.encode(text)
    if not mask_positions(tokenizer, tokens):
        end = tokenizer.encode(_free_mask(tokenizer))
        ends = [] if end == [tokenizer.find_command_id("gMASK")] else [tokenizer.get_command_id("eos")]
        specials = 1 + len(end) + len(ends)
        end_of_text = tokens if max_length is None or not tokens else last(tokens, max_length - specials)
        return [cls, *end_of_text, *end, *ends]
    ids = [cls, *tokens]
    if not text.endswith("[gMASK]"):
        ids.append(tokenizer.get_command_id("eos"))
    if max_length is not None and len(ids) > max_length:
        raise InputError(f"A text has {len(ids)} tokens, more than {max_length}. Shorten it around its masks.")
    return ids


def _free_mask(tokenizer: Tokenizer) -> str:
    return "[gMASK]" if tokenizer.find_command_id("gMASK") is not None else "[MASK]"


def mask_positions(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Where the masks ([MASK], [sMASK], [gMASK]) of a row are, in ascending order."""
    masks = {tokenizer.find_command_id(name) for name in MASKS}
    return [position for position, token in enumerate(ids) if token in masks]


def blank_prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """Texts whose blanks shall be filled; see :func:`context`."""
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
        fillings: (position of the mask, tokens) in the order in which they shall be written.
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
    """Texts with masks and what they stand for, for training.

    Args:
        tokenizer: a GLM's tokenizer.
        texts: texts with masks.
        answers: for each text, one answer per mask.
        max_length: how many tokens a text may have.

    Returns:
        As :func:`collate`.

    Raises:
        InputError: a text has more or fewer masks than answers.
    """
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

    Args:
        rows: from :func:`blank_row` or :func:`causal_row`.
        pad_id: the padding token.

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

    Args:
        tokenizer: a GLM's tokenizer.
        source: tokens of what is read.
        target: tokens of what is written; None for a prompt.
    """
    given = [tokenizer.get_command_id("sop"), *source, tokenizer.get_command_id("sep")]
    whole = given if target is None else [*given, *target, tokenizer.get_command_id("eop")]
    ids = given if target is None else whole[:-1]
    counts = [0] * (len(given) - 1) + [1] * (len(ids) - len(given) + 1)
    return GLMInput(
        ids=ids,
        positions=[*range(len(ids))],
        blocks=[0] * len(ids),
        separator=0,
        targets=whole[1:] if target is not None else [],
        weights=counts if target is not None else [],
    )


def causal_prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """Texts to which something shall be written: ``<sop> text [SEP]``.

    Args:
        tokenizer: a GLM's tokenizer.
        texts: the texts.
        max_length: how many tokens a prompt may have; the end of the text is cut off.
    """
    rows = (kept(tokenizer, encoding.ids, max_length, 2) for encoding in tokenizer.encode_batch(texts))
    return [Prompt(tuple(causal_row(tokenizer, ids, None).ids)) for ids in rows]


def seq2seq(
    tokenizer: Tokenizer,
    sources: Sequence[str],
    targets: Sequence[str],
    max_source_length: int | None = None,
    max_target_length: int | None = None,
) -> Batch:
    """Texts to read and texts to write, for training; see :func:`causal_row`.

    Args:
        tokenizer: a GLM's tokenizer.
        sources: texts to read.
        targets: texts to write.
        max_source_length: how many tokens a source may have with ``<sop>`` and ``[SEP]``.
        max_target_length: how many tokens a target may have with ``<eop>``.

    Returns:
        As :func:`collate`; every token of the target and its ``<eop>`` count, nothing else.
    """
    rows = []
    for source, target in zip(encoded(tokenizer, sources), encoded(tokenizer, targets), strict=True):
        read = kept(tokenizer, source.ids, max_source_length, 2)
        written = kept(tokenizer, target.ids, max_target_length, 1)
        rows.append(causal_row(tokenizer, read, written))
    pad = tokenizer.get_command_id("pad")
    batch = collate(rows, pad)
    width = batch["input_ids"].shape[1]
    # As FlagAI's collators: positions count on over padding, whose block position is 1; targets are padding there.
    batch["position_ids"][:, 0] = torch.arange(width)
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
    """Texts or pairs to be classified: ``[CLS] text <eos>``, ``[CLS] first [SEP] second <eos>``.

    Args:
        tokenizer: a GLM's tokenizer.
        texts: each a text or a pair.
        classes: the right class of each, for training.
        max_length: how many tokens a row may have.

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
    """The rows of :func:`classification`; all tokens attend to all."""
    cls, sep, eos = (tokenizer.get_command_id(name) for name in ("cls", "sep", "eos"))
    rows = []
    for encodings in encoded_pairs(tokenizer, texts):
        parts, between = [encoding.ids for encoding in encodings], [sep] * (len(encodings) - 1)
        if max_length is not None:
            parts = shortened(tokenizer, parts, max_length - 2 - len(between))
        ids = [cls, *parts[0], *between, *chain.from_iterable(parts[1:]), eos]
        rows.append(GLMInput(ids, [*range(len(ids))], [0] * len(ids), len(ids), [], []))
    return rows
