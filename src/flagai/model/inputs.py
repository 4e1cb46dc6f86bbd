"""What the families' ``forward`` methods have in common: reading ids and masks, and the form of the result."""

from typing import Any

import torch

from flagai.errors import InputError
from flagai.model.layer.cache import KVCache
from flagai.model.layer.mask import Dense, Mask, Padding

Output = dict[str, Any]


def result(logits: torch.Tensor, hidden_states: Any, **others: Any) -> Output:
    """What ``forward`` returns: the two entries that are always there, and those of the others that are not None."""
    present = {name: value for name, value in others.items() if value is not None}
    return {"logits": logits, "hidden_states": hidden_states, **present}


def checked_ids(
    input_ids: torch.Tensor | None, dimensions: tuple[int, ...] = (2,), name: str = "input_ids"
) -> torch.Tensor:
    """Return token ids if they have one of the numbers of dimensions.

    Raises:
        InputError: they are absent or have another shape.
    """
    if input_ids is None or input_ids.dim() not in dimensions:
        found = "missing" if input_ids is None else f"of shape {list(input_ids.shape)}"
        raise InputError(f"{name} are {found}; expected {' or '.join(map(str, dimensions))} dimensions.")
    return input_ids


def real_tokens(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, pad_token_id: int | None
) -> torch.Tensor | None:
    """Say which tokens are real: those that a two-dimensional mask names, else those that are not padding.

    Args:
        input_ids: [B, S]
        attention_mask: [B, S or more], or a matrix of three or four dimensions, which says nothing about padding.
        pad_token_id: the padding token; None if the model has none.

    Returns:
        Booleans, [B, S or more], or None if all tokens are real.

    Raises:
        InputError: the mask's shape does not go with the tokens.
    """
    if attention_mask is not None and attention_mask.dim() == 2:
        rows, count = input_ids.shape
        if attention_mask.shape[0] != rows or attention_mask.shape[1] < count:
            raise InputError(f"attention_mask {list(attention_mask.shape)} does not go with tokens {[rows, count]}.")
        return attention_mask.bool()
    return None if pad_token_id is None else input_ids != pad_token_id


def padding_and_matrix(
    valid: torch.Tensor | None, attention_mask: torch.Tensor | None, cache: KVCache | None, count: int
) -> Mask | None:
    """Join the padding (of cached tokens too) and a matrix that the user gave.

    Args:
        valid: from :func:`real_tokens`.
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
    visible = attention_mask.bool()
    matrix = Dense(visible[:, None] if visible.dim() == 3 else visible)
    return matrix if mask is None else matrix & mask


def join(first: Mask, second: Mask | None) -> Mask:
    """Both masks, if there are two."""
    return first if second is None else first & second
