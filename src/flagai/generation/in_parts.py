"""Greedy search in a sharded vocabulary: no rank gathers logits."""

import torch

from flagai.generation.decoding_state import Scored
from flagai.generation.sampling import IndependentLanes
from flagai.generation.search import Choice
from flagai.parallel.vocab_parallel import sharded_argmax


class LanesInParts(IndependentLanes):
    """Each rank finds the best of its tokens, and they compare; see the base class."""

    def choose(self, scored: Scored) -> Choice:
        """See the base class; the logits are sharded."""
        tokens, scores = (each.expand(-1, self.decoding.width) for each in sharded_argmax(scored.logits))  # type: ignore[arg-type]
        parents = torch.zeros_like(tokens) if scored.logits.shape[1] < tokens.shape[1] else None
        return Choice(tokens, parents, self.note(tokens, scores, torch.zeros_like(self.ended), parents)[1])
