"""What the families' ``forward`` methods have in common: reading ids and masks, and the form of the result."""

import difflib
import functools
import inspect
import logging
from typing import Any

import torch
from torch import nn

from flagai.errors import InputError
from flagai.model.layer.cache import KVCache
from flagai.model.layer.mask import Causal, Dense, Mask, Padding
from flagai.model.layer.packed_row import Lengths, PackedRow

logger = logging.getLogger(__name__)
# Arguments that no model here takes, but that change what transformers' models of the same kind compute.
_COUNTS_ELSEWHERE = ("token_type_ids", "inputs_embeds", "decoder_inputs_embeds", "encoder_hidden_states")
Output = dict[str, Any]


def result(logits: torch.Tensor, hidden_states: Any, **others: Any) -> Output:
    """What ``forward`` returns: the two entries that are always there, and those of the others that are not None."""
    present = {name: value for name, value in others.items() if value is not None}
    return {"logits": logits, "hidden_states": hidden_states, **present}


def checked_ids(
    input_ids: torch.Tensor | None, dimensions: tuple[int, ...] = (2,), name: str = "input_ids"
) -> torch.Tensor:
    """Return token ids if they are a tensor with one of the numbers of dimensions and at least one position.

    Raises:
        InputError: they are absent or have another form.
    """
    if not isinstance(input_ids, torch.Tensor):
        found = "missing" if input_ids is None else f"of type {type(input_ids).__name__}"
        raise InputError(f"{name} are {found}; expected a tensor of token ids.")
    if input_ids.dim() not in dimensions or not input_ids.shape[-1]:
        shapes = " or ".join({2: "[B, S]", 3: "[B, C, S]"}[count] for count in dimensions)
        raise InputError(f"{name} have shape {list(input_ids.shape)}; expected {shapes} with S of at least 1.")
    return input_ids


def as_bool_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """Read a mask of zeros and ones, of any dtype, as booleans.

    Raises:
        InputError: it is not a tensor, or (checked on a CPU) holds other numbers, as additive masks do.
    """
    if not isinstance(attention_mask, torch.Tensor):
        raise InputError(f"attention_mask is of type {type(attention_mask).__name__}; expected a tensor of 0 and 1.")
    checked = attention_mask.device.type == "cpu" and not torch.compiler.is_compiling()
    if checked and attention_mask.dtype is not torch.bool:
        odd = attention_mask[(attention_mask != 0) & (attention_mask != 1)]
        if odd.numel():
            raise InputError(
                f"attention_mask holds {odd.flatten()[0].item()}; expected 1 where a token is seen, else 0."
            )
    return attention_mask.bool()


def non_padding(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, pad_token_id: int | None, past: int = 0
) -> torch.Tensor | None:
    """Which tokens are not padding: those that a two-dimensional mask names, else all but the padding token.

    Args:
        input_ids: [B, S]
        attention_mask: [B, S] or [B, past + S], or a matrix of three or four dimensions, which says nothing about
            padding.
        pad_token_id: the padding token; None if the model has none.
        past: number of cached tokens.

    Returns:
        Booleans, [B, S or past + S], or None if no token is padding.

    Raises:
        InputError: the mask's shape does not fit the tokens.
    """
    if attention_mask is not None and attention_mask.dim() == 2:
        rows, count = input_ids.shape
        if attention_mask.shape[0] != rows or attention_mask.shape[1] not in (count, past + count):
            after = f" after {past} cached ones" if past else ""
            raise InputError(f"attention_mask {list(attention_mask.shape)} does not fit tokens {[rows, count]}{after}.")
        return as_bool_mask(attention_mask)
    return None if pad_token_id is None else input_ids != pad_token_id


def padding_and_matrix(
    valid: torch.Tensor | None, attention_mask: torch.Tensor | None, cache: KVCache | None, count: int
) -> Mask | None:
    """Join the padding (of cached tokens too) and a matrix that the user gave.

    Args:
        valid: from :func:`non_padding`.
        attention_mask: what the user gave; only matrices, [B, S, K] and [B, 1 or H, S, K], count here.
        cache: the cache in use; it remembers which tokens are padding.
        count: number of new tokens, S.

    Raises:
        InputError: the mask is neither a row per text nor a matrix.
    """
    if cache is not None:
        valid = cache.valid(valid, count)
    mask: Mask | None = None if valid is None else Padding(valid)
    if attention_mask is None or attention_mask.dim() == 2:
        return mask
    if attention_mask.dim() not in (3, 4):
        raise InputError(f"attention_mask has shape {list(attention_mask.shape)}; expected 2, 3 or 4 dimensions.")
    keys = count if cache is None else cache.length + count
    if attention_mask.shape[-1] != keys or attention_mask.shape[-2] not in (1, count):
        raise InputError(
            f"attention_mask {list(attention_mask.shape)} is not a matrix of {count} queries and {keys} keys."
        )
    attn_mask = as_bool_mask(attention_mask)
    matrix = Dense(attn_mask[:, None] if attn_mask.dim() == 3 else attn_mask)
    return matrix if mask is None else matrix & mask


def decoder_mask(
    valid: torch.Tensor | None, attention_mask: torch.Tensor | None, cache: KVCache | None, count: int
) -> Mask | None:
    """The same for a decoder, joined with the causal mask."""
    return join(Causal(), padding_and_matrix(valid, attention_mask, cache, count))


def gather_positions(hidden: torch.Tensor, logits_at: torch.Tensor | None) -> torch.Tensor:
    """The hidden states at some positions, or all of them.

    Args:
        hidden: [B, S, width]
        logits_at: positions, [B, N]; None for all.

    Shape:
        -> [B, N, width]
    """
    if logits_at is None:
        return hidden
    return hidden.gather(1, logits_at[:, :, None].expand(-1, -1, hidden.shape[2]))


def join(first: Mask, second: Mask | None) -> Mask:
    """Both masks, if there are two."""
    return first if second is None else first & second


def packed_row(input_ids: torch.Tensor, lengths: Lengths | None, **others: Any) -> PackedRow | None:
    """Where the texts of a packed row lie; None if the ids are not packed.

    Args:
        input_ids: [1, T]
        lengths: number of tokens of each text, [N]; None for padded rows.
        **others: arguments that do not fit packed texts, by name.

    Raises:
        InputError: the lengths do not add up to the row, or one of the others is given.
    """
    if lengths is None:
        return None
    row = PackedRow.of(lengths)
    if input_ids.shape != (1, row.total):
        raise InputError(
            f"lengths add up to {row.total} tokens, but input_ids have shape {list(input_ids.shape)}; "
            f"expected one row, [1, {row.total}]."
        )
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(f"Packed texts (lengths=) cannot be combined with {', '.join(given)}.")
    return row


@functools.cache
def warn_of_near_miss(cls: type[nn.Module], name: str) -> None:
    """Warn, once, if an argument that a model ignores looks like a misspelt one, or counts in transformers."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    known = [entry.name for entry in parameters if entry.kind is not entry.VAR_KEYWORD]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    if name in _COUNTS_ELSEWHERE:
        logger.warning("%s ignores the argument %r; a model of transformers may not.", cls.__name__, name)
    elif near:
        logger.warning("%s ignores the argument %r. Did you mean %r?", cls.__name__, name, near[0])
