"""Encoders at work: many texts through a BERT head, packed without padding, one result per text."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from flagai.data.prepare import bert
from flagai.data.tokenizer import Tokenizer
from flagai.model.base_model import BaseModel
from flagai.model.layer import PackedRow
from flagai.model.packing import Pack, run_packed
from flagai.model.predictor.arguments import known_ids, read_length

Text = str | Sequence[str]


def rows(model: BaseModel, tokenizer: Tokenizer, texts: Sequence[Text], max_length: int | None) -> list[bert.Row]:
    """The tokens of texts or pairs, cut to ``max_length`` and to what the model has positions for."""
    found = bert.rows(tokenizer, texts, read_length("maxlen", max_length, model))
    return [replace(row, ids=known_ids(row.ids, tokenizer, model)) for row in found]


def per_token(model: BaseModel, found: Sequence[bert.Row]) -> list[torch.Tensor]:
    """The logits of each text's tokens, [S, ...]."""
    return _run(model, found, lambda row, logits: row.split(logits))


def per_text(model: BaseModel, found: Sequence[bert.Row]) -> torch.Tensor:
    """The logits of each text, [N, classes]."""
    return torch.stack(_run(model, found, lambda _, logits: logits.unbind(0)))


def per_span(model: BaseModel, found: Sequence[bert.Row]) -> list[torch.Tensor]:
    """The logits of each text's spans, [classes, S, S]."""

    def cut(row: PackedRow, logits: torch.Tensor) -> list[torch.Tensor]:
        return [scores[:, :length, :length] for scores, length in zip(logits, row.lengths, strict=True)]

    return _run(model, found, cut)


@torch.inference_mode()
def _run(
    model: BaseModel,
    found: Sequence[bert.Row],
    cut: Callable[[PackedRow, torch.Tensor], Sequence[torch.Tensor]],
) -> list[torch.Tensor]:
    def run(pack: Pack) -> list[torch.Tensor]:
        # One copy to the host per pack, not one per text.
        values = model(**pack.arguments)["logits"].float().cpu()
        return list(cut(pack.row, values))

    return run_packed(
        [row.ids for row in found],
        run,
        device=model.device,
        token_type_ids=[row.segments for row in found],
    )
