"""Inputs of T5: what the encoder reads and what the decoder shall write."""

from collections.abc import Sequence

from flagai.data.prepare.batch import Batch, encoded, kept, padded
from flagai.data.prompt import Prompt
from flagai.data.tokenizer import Tokenizer


def start_and_end(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens between which the decoder writes: ``[CLS]`` and ``[SEP]`` in a BERT vocabulary, else T5's own."""
    if tokenizer.kind == "t5":
        return tokenizer.get_command_id("pad"), tokenizer.get_command_id("eos")
    return tokenizer.get_command_id("cls"), tokenizer.get_command_id("sep")


def prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """What the encoder reads: ``[CLS] text [SEP]`` in a BERT vocabulary, else ``text </s>``.

    Args:
        tokenizer: the model's tokenizer.
        texts: the texts.
        max_length: how many tokens a prompt may have; the end is cut off.

    Raises:
        InputError: ``max_length`` leaves no room.
    """
    return [Prompt(tuple(row)) for row in _framed(tokenizer, texts, max_length)]


def seq2seq(
    tokenizer: Tokenizer,
    sources: Sequence[str],
    targets: Sequence[str] | None = None,
    max_source_length: int | None = 512,
    max_target_length: int | None = 128,
) -> Batch:
    """Texts to read and, for training, texts to write.

    Args:
        tokenizer: the model's tokenizer.
        sources: texts to read.
        targets: texts to write.
        max_source_length: how many tokens the encoder may read.
        max_target_length: how many tokens the decoder may write.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, S]; with ``targets`` also ``decoder_input_ids`` and ``labels``
        [B, T], -100 at padding.
    """
    rows = _framed(tokenizer, sources, max_source_length)
    pad = tokenizer.get_command_id("pad")
    batch = {"input_ids": padded(rows, pad), "attention_mask": padded([[1] * len(row) for row in rows], 0)}
    if targets is None:
        return batch
    start, end = start_and_end(tokenizer)
    written = [[*kept(tokenizer, row.ids, max_target_length, 1), end] for row in encoded(tokenizer, targets)]
    return {
        **batch,
        "decoder_input_ids": padded([[start, *row[:-1]] for row in written], pad),
        "labels": padded(written, -100),
    }


def _framed(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    start, end = start_and_end(tokenizer)
    front = [] if tokenizer.kind == "t5" else [start]
    encodings = encoded(tokenizer, texts)
    return [[*front, *kept(tokenizer, encoding.ids, max_length, len(front) + 1), end] for encoding in encodings]
