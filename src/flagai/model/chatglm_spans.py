"""Where the tokens of ChatGLM-6B and GLM-130B stand: [gMASK], [MASK] and <sop> say it."""

from dataclasses import dataclass

import torch

from flagai.errors import InputError
from flagai.model.chatglm_config import ChatGLMConfig
from flagai.model.layer import KVCache


@dataclass(frozen=True)
class Spans:
    """Texts as contexts and answers.

    Args:
        positions: the position of each token, and its position inside the answer, [B, 2, S].
        context: the number of columns before each answer, padding included, [B].
    """

    positions: torch.Tensor
    context: torch.Tensor


def read_spans(ids: torch.Tensor, valid: torch.Tensor | None, config: ChatGLMConfig, shift: int = 0) -> Spans:
    """Read texts: an answer begins with the first <sop>, and stands where the first [gMASK] is, or else [MASK].

    With one position for each token, those of an answer to [gMASK] run on instead. Without a mask, they do, too.

    Args:
        ids: [B, S]
        valid: True at tokens that are not padding, [B, S]; None for all.
        config: has the ids of the three tokens.
        shift: number of placeholders of a learned prefix in front, which positions and columns count.
    """
    count = ids.shape[1]
    columns = torch.arange(count, device=ids.device).expand_as(ids)
    padding = torch.zeros_like(ids[:, :1]) if valid is None else (valid.long().cumsum(1) == 0).sum(1, keepdim=True)
    running = (columns - padding).clamp(min=0)
    start, short, long = (
        _first(ids == token) for token in (config.bos_token_id, config.mask_token_id, config.gmask_token_id)
    )
    mask = torch.where(long < count, long, short)
    stays = (mask < count) & ((long == count) | torch.tensor(config.position_encoding_2d, device=ids.device))
    answer = columns >= start
    places = torch.where(answer & stays, (mask - padding).clamp(min=0), running) + shift
    blocks = (columns - start + 1).clamp(min=0)
    front = torch.arange(shift, device=ids.device).expand(len(ids), -1)
    places = torch.cat([front, places], dim=1)
    blocks = torch.cat([torch.zeros_like(front), blocks], dim=1)
    return Spans(torch.stack([places, blocks], dim=1), start[:, 0] + shift)


def continued(cache: KVCache | None, valid: torch.Tensor | None, count: int, config: ChatGLMConfig) -> torch.Tensor:
    """The positions of further tokens of an answer, [B, 2, count].

    Args:
        cache: has the positions of the earlier tokens.
        valid: True at tokens that are not padding, the new ones included, [B, past + count]; None for all.
        count: number of new tokens.
        config: the configuration.

    Raises:
        InputError: the cached tokens do not tell, since no answer has begun.
    """
    past = None if cache is None else cache.known_positions
    if cache is None or past is None or (past.device.type == "cpu" and not bool((past[:, -1, 1] > 0).all())):
        raise InputError(
            "The cached text has no <sop>, so nothing tells where further tokens stand. Read a text up to its <sop> "
            "in one call, or pass position_ids."
        )
    place, block = past[:, -1, :1], past[:, -1, 1:]
    steps = torch.arange(1, count + 1, device=place.device)
    if not config.position_encoding_2d:  # an answer to [gMASK] runs on: its last token stands where it is in the text
        index = past.shape[1] - 1 if valid is None else valid[:, : past.shape[1]].sum(1, keepdim=True) - 1
        return torch.stack([place + steps * (place == index), block + steps], dim=1)
    return torch.stack([place.expand(-1, count), block + steps], dim=1)


def _first(found: torch.Tensor) -> torch.Tensor:
    """The first column with a true value, or the number of columns, [B, S] -> [B, 1]."""
    columns = torch.arange(found.shape[1], device=found.device)
    return torch.where(found, columns, found.shape[1]).amin(1, keepdim=True)
