"""Greedy search and sampling: lanes that do not know of each other."""

import torch

from flagai.errors import InputError
from flagai.generation.processors import Pipeline
from flagai.generation.search import Choice, Search
from flagai.generation.tree import Scored, Tree
from flagai.generation.types import Hypothesis, StopHook


class IndependentLanes(Search):
    """Each lane takes its best token, or draws one.

    Scores are sums of what the tokens were chosen by: in greedy search, the processed log-probabilities (as in a beam
    search); in sampling, the model's own, so that samples drawn hot or cold compare.

    Args:
        tree: the texts.
        pipeline: from logits to scores.
        hook: ends pieces; None for none.

    Raises:
        InputError: there is not one seed per text.
    """

    def __init__(self, tree: Tree, pipeline: Pipeline, hook: StopHook | None) -> None:
        super().__init__(tree, pipeline, hook)
        batch, width = len(tree.ids), tree.width
        self.score = torch.zeros(batch, width, device=tree.device)
        self.kept = torch.zeros(batch, width, dtype=torch.long, device=tree.device)
        self.length = torch.zeros_like(self.kept)
        self.ended = torch.zeros_like(self.kept, dtype=torch.bool)
        self.stopped = torch.zeros_like(self.ended)
        self.uniforms = _uniforms(tree) if self.decoding.do_sample else self.score[..., None]

    def state(self) -> dict[str, torch.Tensor]:
        """See the base class."""
        names = ("score", "kept", "length", "ended", "stopped", "uniforms")
        return {name: getattr(self, name) for name in names}

    def choose(self, scored: Scored) -> Choice:
        """See the base class."""
        plain, scores = self.pipeline(scored.logits)
        if self.decoding.do_sample:
            step = self.tree.clock - int(self.tree.family.starts)
            tokens = draw(scores, self.uniforms.index_select(2, step)[..., 0])
        else:
            plain, tokens = scores, scores.argmax(-1).expand(-1, self.tree.width)
        # Only at the first step there is one lane for all.
        parents = torch.zeros_like(tokens) if scores.shape[1] < self.tree.width else None
        closes = self._account(tokens, _value(plain, tokens), _value(scores, tokens) == -torch.inf, parents)
        self.done = self.ended.all(1)
        return Choice(tokens, parents, closes)

    def _account(
        self, tokens: torch.Tensor, value: torch.Tensor, dead: torch.Tensor, parents: torch.Tensor | None
    ) -> torch.Tensor:
        """Note scores and ends; ``dead`` is where every token is forbidden. Returns where the hook ends pieces."""
        last = self.tree.in_last_blank()
        active = ~self.ended & ~dead
        stops = active & last & self.tree.stops(tokens)
        closes = self.hooked(tokens, parents, active & ~self.tree.stops(tokens))
        full = self.tree.lanes.piece + 1 >= self.decoding.max_new_tokens
        self.score = self.score + value.masked_fill(~active, 0)
        self.length = self.length + active
        self.kept = self.kept + (active & ~stops)
        self.stopped = self.stopped | stops | (closes & last)
        self.ended = self.ended | dead | stops | (last & (full | closes))
        return closes

    def hypotheses(self, row: int) -> list[Hypothesis]:
        """See the base class."""
        written, kept = self.tree.written()[row], self.kept[row].tolist()
        numbers = zip(self.score[row].tolist(), self.length[row].tolist(), self.stopped[row].tolist(), strict=True)
        found = [self.hypothesis(row, written[lane, : kept[lane]], *entry) for lane, entry in enumerate(numbers)]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)

    def possible(self, row: int) -> list[list[int]]:
        """See the base class."""
        written = self.tree.written()[row].tolist()
        return [ids[:kept] for ids, kept in zip(written, self.kept[row].tolist(), strict=True)]


def _value(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The scores of tokens, [B, W]; ``scores`` are [B, 1 or W, V]."""
    return scores.expand(-1, tokens.shape[1], -1).gather(-1, tokens[..., None])[..., 0]


def draw(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw a token from each distribution by inverting its cumulative sum; a forbidden token is never drawn.

    Args:
        scores: [B, 1 or W, V]
        uniforms: numbers in [0, 1), [B, W].

    Shape:
        -> [B, W]
    """
    reached = scores.double().softmax(-1).cumsum(-1).expand(-1, uniforms.shape[1], -1).contiguous()
    # The number is taken as a share of the actual sum, so it stays below it; 24 bits leave room for rounding.
    wanted = uniforms * reached[..., -1]
    found = torch.searchsorted(reached, wanted[..., None], right=True)[..., 0]
    return found.clamp(max=scores.shape[-1] - 1)


def _uniforms(tree: Tree) -> torch.Tensor:
    """All random numbers of all lanes, [B, W, steps].

    They are drawn before the first step, on the CPU and for each lane from its own seed: so a text's answer depends
    neither on its neighbours nor on the device, and no step waits for a random generator.
    """
    decoding, batch = tree.decoding, len(tree.ids)
    seeds = decoding.seeds
    if seeds is None:
        one = [decoding.seed] * batch if decoding.seed is not None else None
        seeds = tuple(one or _any_seeds(tree).tolist())
    if len(seeds) != batch:
        raise InputError(f"seeds has {len(seeds)} entries for {batch} prompts; give one per prompt.")
    lanes = [
        [torch.rand(tree.limit, generator=torch.Generator().manual_seed(seed + lane)) for lane in range(tree.width)]
        for seed in seeds
    ]
    return torch.stack([torch.stack(row) for row in lanes]).double().to(tree.device)


def _any_seeds(tree: Tree) -> torch.Tensor:
    """Seeds by chance; ranks that share a model must draw the same."""
    seeds = torch.randint(2**62, [len(tree.ids)])
    layout = getattr(tree.model, "layout", None)
    return seeds if layout is None else layout.agreed(seeds)
