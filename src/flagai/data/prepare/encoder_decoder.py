"""Inputs of T5: what the encoder reads and what the decoder writes."""

from collections.abc import Sequence

from flagai.data.prepare.batch import Batch, encoded, kept, ones, padded
from flagai.data.prompt import Prompt
from flagai.data.tokenizer import Tokenizer


def start_and_end(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens between which the decoder writes: ``[CLS]`` and ``[SEP]`` in a BERT vocabulary, else T5's own."""
    names = ("pad", "eos") if tokenizer.kind == "t5" else ("cls", "sep")
    return tokenizer.get_command_id(names[0]), tokenizer.get_command_id(names[1])


def prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """What the encoder reads: ``[CLS] text [SEP]`` in a BERT vocabulary, else ``text </s>``."""
    return [Prompt(tuple(row)) for row in _framed(tokenizer, texts, max_length)]


def seq2seq(
    tokenizer: Tokenizer,
    sources: Sequence[str],
    targets: Sequence[str] | None = None,
    max_source_length: int | None = 512,
    max_target_length: int | None = 128,
) -> Batch:
    """Texts to read and, for training, texts to write.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, S]; with ``targets`` also ``decoder_input_ids`` and ``labels``
        [B, T], -100 at padding.
    """
    rows, pad = _framed(tokenizer, sources, max_source_length), tokenizer.get_command_id("pad")
    batch = {"input_ids": padded(rows, pad), "attention_mask": ones(rows)}
    if targets is None:
        return batch
    start, end = start_and_end(tokenizer)
    written = [[*kept(tokenizer, [ids], max_target_length, 1)[0], end] for ids in encoded(tokenizer, targets)]
    begun = padded([[start, *row[:-1]] for row in written], pad)
    return {**batch, "decoder_input_ids": begun, "labels": padded(written, -100)}


def _framed(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    start, end = start_and_end(tokenizer)
    front = [] if tokenizer.kind == "t5" else [start]
    rows = encoded(tokenizer, texts)
    return [[*front, *kept(tokenizer, [ids], max_length, len(front) + 1)[0], end] for ids in rows]
