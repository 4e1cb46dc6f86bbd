"""How often characters recur in a poem: what is forbidden, and what costs."""

from dataclasses import dataclass

import torch

from flagai.poetry.tables import VerseTables

# What a character that was there before loses, in nats: poems then repeat about as much as those of the collection.
_PENALTY = 1.5


@dataclass(frozen=True)
class Recurrences:
    """Tokens that bring characters again.

    Args:
        forbidden: those that would break a limit, [N, V].
        penalty: what to take from scores, [N, V].
    """

    forbidden: torch.Tensor
    penalty: torch.Tensor


def recurrences(
    characters: torch.Tensor, length: torch.Tensor, limits: torch.Tensor, tables: VerseTables
) -> Recurrences:
    """Which tokens bring characters again.

    Args:
        characters: of the poems so far, [N, P]; 0 behind the last one.
        length: how many there are, [N].
        limits: uses, again and doubled, [N, 3].
        tables: of the vocabulary.
    """
    verse = (characters > 0) & ~tables.is_mark[characters]
    uses = torch.zeros(len(characters), len(tables.is_mark), dtype=torch.long, device=characters.device)
    uses.scatter_add_(1, characters, verse.long())
    earlier = (characters[:, :, None] == characters[:, None]).tril(-1).any(2) & verse
    follows = torch.zeros_like(verse)
    follows[:, 1:] = characters[:, 1:] == characters[:, :-1]
    left = limits - torch.stack(
        [torch.zeros_like(length), (earlier & ~follows).sum(1), (verse & follows).sum(1)], dim=1
    )
    last = characters.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0]
    again = torch.zeros(len(characters), len(tables.counts), dtype=torch.long, device=characters.device)
    doubled, too_often = torch.zeros_like(again), torch.zeros_like(again, dtype=torch.bool)
    before: list[torch.Tensor] = []
    for step in range(tables.characters.shape[1]):
        own = tables.characters[:, step]
        is_verse = (own > 0) & ~tables.is_mark[own]
        inside = sum((own == each).long() for each in before) if before else 0
        had = (uses[:, own] + inside) * is_verse
        double = (own == before[-1] if before else own == last[:, None]) & (had > 0)
        too_often |= had >= limits[:, :1]
        again += (had > 0) & ~double
        doubled += double
        before.append(own)
    forbidden = too_often | (again > left[:, 1:2]) & (again > 0) | (doubled > left[:, 2:]) & (doubled > 0)
    return Recurrences(forbidden, again * _PENALTY)
