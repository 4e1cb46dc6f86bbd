"""The meaning of texts as vectors: the mean of the last hidden states, with any family."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from flagai.data.prepare import bert, causal, encoder_decoder, glm
from flagai.data.prepare.batch import checked_texts, padded
from flagai.data.ragged import Ragged
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.packing import Pack, check_lengths, rows_packed
from flagai.model.predictor.arguments import known_ids, read_length, strange_ids
from flagai.model.predictor.prefetch import in_windows
from flagai.model.predictor.sentence_folder import SentenceSettings
from flagai.model.predictor.unknown import UnknownTokens
from flagai.model.t5_model import T5Model

# Tokens of one padded batch; texts are sorted by length first, so there is little padding.
_BATCH_TOKENS = 4096


@torch.inference_mode()
def text_vectors(
    model: BaseModel, tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None, *, strict: bool = False
) -> torch.Tensor:
    """The vectors of texts, [N, width], float32 on the CPU.

    Args:
        model: any model; its backbone is used.
        tokenizer: its tokenizer.
        texts: the texts.
        max_length: how many tokens of a text are read, special ones included.
        strict: whether a text that the vocabulary does not know is an error, or a warning.

    Raises:
        InputError: an element is not text, or of a language that the model does not know.
        ConfigError: the folder asks for another way to embed.
    """
    texts = checked_texts(texts)
    backbone: Any = model.backbone
    settings = SentenceSettings.read(tokenizer.description.folder)
    max_length = read_length("maxlen", settings.max_length if max_length is None else max_length, backbone)
    texts = [text.lower() for text in texts] if settings.lower else texts
    if not texts:
        return torch.empty(0, backbone.embed.token.embedding_dim)
    unknown = UnknownTokens(tokenizer.find_command_id("unk"), 2 * (backbone.config.family == "bert"), strict=strict)
    vectors = _vectors(backbone, tokenizer, texts, max_length, unknown)
    unknown.report(len(texts))
    return vectors


def _vectors(
    backbone: Any, tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None, unknown: UnknownTokens
) -> torch.Tensor:
    if backbone.config.family == "bert":
        strange = strange_ids(tokenizer, backbone)
        other = tokenizer.get_command_id("unk")

        def read(part: Sequence[str]) -> Ragged:
            return unknown.look(part, bert.id_rows(tokenizer, part, max_length).replaced(strange, other))

        return in_windows(texts, read, partial(_bert_means, backbone), backbone.device)
    rows = [known_ids(row, tokenizer, backbone) for row in _rows(backbone, tokenizer, texts, max_length)]
    unknown.look(texts, Ragged.of(rows))
    if isinstance(backbone, T5Model):
        return in_windows(rows, Ragged.of, partial(_t5_means, backbone), backbone.device)
    mask = _one_at_real_tokens if isinstance(backbone, GPT2Model) else _separators
    return _padded_means(backbone, rows, tokenizer.get_command_id("pad"), mask)


@torch.inference_mode()
def packed_means(model: BaseModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The vectors of texts that are token ids already, [N, width], float32 on the CPU; for BERT.

    Args:
        model: a BERT.
        rows: the ids of each text, special ones included.

    Raises:
        InputError: a text is empty or longer than the model's positions.
    """
    if not rows:
        return torch.empty(0, model.config.hidden_size)
    for row in rows:
        if isinstance(row, str | bytes) or not hasattr(row, "__getitem__") or getattr(row, "shape", None) == ():
            raise InputError(f"Expected rows of token ids, but found {row!r:.80}.")
    check_lengths([len(row) for row in rows], model.config.longest_text)
    return in_windows(rows, Ragged.of, partial(_bert_means, model), model.device)


def _bert_means(model: BaseModel, rows: Ragged) -> torch.Tensor:
    def run(pack: Pack) -> torch.Tensor:
        return pack.row.mean(model(**pack.arguments)["hidden_states"])

    return rows_packed(rows, run, device=model.device, limit=model.config.longest_text)


def _t5_means(model: T5Model, rows: Ragged) -> torch.Tensor:
    def run(pack: Pack) -> torch.Tensor:
        return pack.row.mean(model.encode(pack.input_ids, lengths=pack.row))

    return rows_packed(rows, run, device=model.device)


def _rows(
    model: BaseModel, tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None
) -> Sequence[Sequence[int]]:
    """The tokens of texts, as a family other than BERT reads them."""
    if isinstance(model, GPT2Model):
        return [prompt.ids for prompt in causal.prompts(tokenizer, texts, max_length)]
    if isinstance(model, T5Model):
        return [prompt.ids for prompt in encoder_decoder.prompts(tokenizer, texts, max_length)]
    return [row.ids for row in glm.classification_rows(tokenizer, texts, max_length)]


def _one_at_real_tokens(lengths: torch.Tensor, width: int) -> torch.Tensor:
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).long()


def _separators(lengths: torch.Tensor, _width: int) -> torch.Tensor:
    """GLM: everybody sees the text, nobody the padding after it."""
    return lengths


def _padded_means(
    model: BaseModel,
    rows: Sequence[Sequence[int]],
    pad: int,
    attention_mask: Callable[[torch.Tensor, int], torch.Tensor],
) -> torch.Tensor:
    """The means of the real tokens' states; ``attention_mask`` makes of lengths and width what the model takes."""
    found: dict[int, torch.Tensor] = {}
    for indices in _batches([len(row) for row in rows]):
        ids = padded([rows[index] for index in indices], pad).to(model.device)
        lengths = torch.tensor([len(rows[index]) for index in indices], device=model.device)
        hidden = model(ids, attention_mask=attention_mask(lengths, ids.shape[1]))["hidden_states"].float()
        real = _one_at_real_tokens(lengths, ids.shape[1])[..., None]
        means = (hidden * real).sum(1) / lengths[:, None]
        found.update(zip(indices, means.cpu(), strict=True))
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
