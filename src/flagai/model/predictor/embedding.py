"""Texts as vectors: pooled hidden states, with any family."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from flagai.data.prepare.batch import checked_texts, padded
from flagai.data.ragged import Ragged
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import EmbeddingProtocol
from flagai.model.base_model import BaseModel
from flagai.model.layer.packed_row import PackedRow
from flagai.model.packing import PackedBatch, check_lengths, run_packed_rows
from flagai.model.predictor.arguments import out_of_vocab_ids, read_length
from flagai.model.predictor.capabilities import require
from flagai.model.predictor.pooling import Pooling
from flagai.model.predictor.prefetch import pipelined
from flagai.model.predictor.sentence_folder import SentenceSettings
from flagai.model.predictor.unknown import UnknownTokens

# Tokens of one padded batch; texts are sorted by length first, so there is little padding.
_BATCH_TOKENS = 4096


@torch.inference_mode()
def text_vectors(
    model: BaseModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    max_length: int | None,
    *,
    strict: bool = False,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> torch.Tensor:
    """The vectors of texts as their folder asks for, [N, width], float32 on the CPU; by default the mean of all tokens.

    Args:
        model: any model; its backbone is used.
        tokenizer: its tokenizer.
        texts: the texts.
        max_length: how many tokens of a text are read, special ones included.
        strict: whether a text that the vocabulary does not know is an error, or a warning.
        prompt_name: the name of the prompt before every text; default the folder's default.
        prompt: the prompt itself.

    Raises:
        InputError: an element is not text, or of a language that the model does not know.
        ConfigError: the folder asks for another way to embed.
    """
    embedding, backbone = _embedding_of(model), model.backbone
    texts = checked_texts(texts)
    settings = SentenceSettings.read(tokenizer.description.folder)
    max_length = read_length("maxlen", settings.max_length if max_length is None else max_length, backbone)
    before, pooling = settings.prompt(prompt_name, prompt), settings.pooling
    texts = [before + text for text in texts] if before else texts
    texts = [text.lower() for text in texts] if settings.lower else texts
    if not texts:
        return torch.empty(0, pooling.width(backbone.hidden_width))
    # The prompt's tokens behind the special one at the beginning, without the one at the end.
    length = int(embedding.rows(tokenizer, [before], None).lengths[0]) - embedding.specials // 2 if before else 0
    unknown = tokenizer.find_command_id("unk")
    counter = UnknownTokens(unknown, embedding.specials, strict=strict)
    outside = [] if unknown is None else out_of_vocab_ids(tokenizer, backbone)
    pad = tokenizer.get_command_id("pad") if embedding.packed_states is None else 0

    def read(part: Sequence[str]) -> Ragged:
        return counter.look(part, embedding.rows(tokenizer, part, max_length).replaced(outside, unknown or 0))

    vectors = pipelined(
        texts, read, lambda rows: _pooled(backbone, embedding, rows, pooling, length, pad), backbone.device
    )
    counter.report(len(texts))
    return vectors


@torch.inference_mode()
def packed_means(
    model: BaseModel,
    rows: Sequence[Sequence[int]],
    pooling: Pooling = Pooling(),  # noqa: B008 - it never changes
) -> torch.Tensor:
    """The vectors of texts that are token ids already, [N, width], float32 on the CPU.

    Args:
        model: a BERT, or another model that runs packed texts.
        rows: the texts.
        pooling: what becomes of the hidden states; default their mean.

    Raises:
        InputError: a text is empty or longer than the model's positions.
    """
    embedding, backbone = _embedding_of(model), model.backbone
    if not rows:
        return torch.empty(0, pooling.width(backbone.hidden_width))
    for row in rows:
        if isinstance(row, str | bytes) or not hasattr(row, "__getitem__") or getattr(row, "shape", None) == ():
            raise InputError(f"Expected rows of token ids, but found {row!r:.80}.")
    if embedding.packed_states is None:
        raise InputError(f"A {type(model).__name__} embeds texts only, not token ids.")
    check_lengths([len(row) for row in rows], backbone.max_positions)
    return pipelined(rows, Ragged.of, lambda part: _pooled(backbone, embedding, part, pooling), backbone.device)


def _embedding_of(model: BaseModel) -> EmbeddingProtocol:
    family, _ = require(model.backbone, "predict_embedding")
    if family.embedding is None:
        raise InputError(f"A {type(model).__name__} cannot embed texts.")
    return family.embedding


def _pooled(
    model: BaseModel,
    embedding: EmbeddingProtocol,
    rows: Ragged,
    pooling: Pooling,
    prompt_length: int = 0,
    pad: int = 0,
) -> torch.Tensor:
    """The vector of each row, [N, width]."""
    states = embedding.packed_states
    if states is None:
        return _padded(model, embedding, rows, pooling, prompt_length, pad)

    def run(pack: PackedBatch) -> torch.Tensor:
        return pooling(states(model, pack.arguments), pack.row, prompt_length)

    vectors: torch.Tensor = run_packed_rows(rows, run, device=model.device, limit=model.max_positions)
    return vectors


def _padded(
    model: BaseModel, embedding: EmbeddingProtocol, rows: Ragged, pooling: Pooling, prompt_length: int, pad: int
) -> torch.Tensor:
    found: dict[int, torch.Tensor] = {}
    ids = [row.tolist() for row in np.split(rows.values, rows.starts[1:])]
    for indices in _batches(rows.lengths.tolist()):
        batch = padded([ids[index] for index in indices], pad).to(model.device)
        row = PackedRow(tuple(len(ids[index]) for index in indices))
        lengths = torch.tensor(row.lengths, device=model.device)
        mask = None if embedding.attention_mask is None else embedding.attention_mask(lengths, batch.shape[1])
        hidden = model(batch, attention_mask=mask)["hidden_states"]
        vectors = pooling(hidden[row.valid(model.device)][None], row, prompt_length)
        found.update(zip(indices, vectors, strict=True))
    return torch.stack([found[index] for index in range(len(rows))])


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Indices sorted by length, in batches of at most ``_BATCH_TOKENS`` tokens with padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
