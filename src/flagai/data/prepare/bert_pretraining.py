"""BERT's own training: some tokens are masked and predicted.

Source: Devlin et al. 2019, "BERT", section 3.1.
"""

import random
from collections.abc import Sequence

from flagai.data.prepare.batch import Batch, padded
from flagai.data.prepare.bert import collate, rows
from flagai.data.tokenizer import Tokenizer

# Tokens to predict; of these, the share that [MASK] replaces, and the share that another token replaces.
_SHARE, _MASKED, _REPLACED = 0.15, 0.8, 0.1


def masked(tokenizer: Tokenizer, texts: Sequence[str], rng: random.Random, max_length: int | None = 512) -> Batch:
    """Texts with some tokens masked: as :func:`bert.collate`, with ``labels`` [B, S], -100 where none is predicted."""
    mask, size = tokenizer.get_command_id("mask"), tokenizer.vocab_size
    found = rows(tokenizer, texts, max_length)
    labels = []
    for row in found:
        inner = range(1, len(row.ids) - 1)
        chosen = rng.sample(inner, min(len(inner), max(1, round(len(inner) * _SHARE))))
        wanted = [-100] * len(row.ids)
        for place in chosen:
            wanted[place] = row.ids[place]
            kind = rng.random()
            if kind < _MASKED:
                row.ids[place] = mask
            elif kind < _MASKED + _REPLACED:
                row.ids[place] = rng.randrange(size)
        labels.append(wanted)
    return {**collate(found, tokenizer.get_command_id("pad")), "labels": padded(labels, -100)}
