"""Greedy search and sampling: each beam continues by itself."""

from typing import Any, cast

import torch

from flagai.errors import InputError
from flagai.generation.decoding_state import DecodingState
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.search import Search
from flagai.generation.types import Choice, Hypothesis, StepOutput, StopHook


class SamplingSearch(Search):
    """Each beam takes its most probable token, or samples one.

    Scores are sums of what the tokens were chosen by: in greedy search, the processed log-probabilities (as in a beam
    search); in sampling, the model's own, so that samples drawn hot or cold compare.

    Args:
        state: the prompts and answers.
        processors: from logits to scores.
        hook: ends spans; None for none.

    Raises:
        InputError: there is not one seed per text.
    """

    def __init__(self, state: DecodingState, processors: LogitsProcessorList, hook: StopHook | None) -> None:
        super().__init__(state, processors, hook)
        batch, num_answers = len(state.ids), self.decoding.num_answers
        self.score = torch.zeros(batch, num_answers, device=state.device)
        self.kept = torch.zeros(
            batch, num_answers, dtype=torch.long, device=state.device
        )  # tokens without the stop token
        self.length = torch.zeros_like(self.kept)  # tokens with it, which the length penalty counts
        self.ended = torch.zeros_like(self.kept, dtype=torch.bool)  # stopped, full, or every next token forbidden
        self.stopped = torch.zeros_like(self.ended)  # by a stop token or the hook
        self.uniforms = _uniforms(state, num_answers) if self.decoding.do_sample else self.score[..., None]

    def row_tensors(self) -> dict[str, torch.Tensor]:
        """See the base class."""
        names = ("score", "kept", "length", "ended", "stopped", "uniforms")
        return {name: getattr(self, name) for name in names}

    def choose(self, output: StepOutput) -> Choice:
        """See the base class."""
        plain, scores = self.processors(output.logits)
        tokens = self.pick(scores)
        # Only at the first step there is one beam for all.
        parents = torch.zeros_like(tokens) if scores.shape[1] < tokens.shape[1] else None
        return Choice(tokens, parents, self.update_scores(tokens, plain, scores, parents)[1])

    def pick(self, scores: torch.Tensor) -> torch.Tensor:
        """The token that follows in each beam, [B, W]; ``scores`` are [B, 1 or W, V]."""
        num_answers = max(scores.shape[1], self.decoding.num_answers)
        if not self.decoding.do_sample:
            return scores.argmax(-1).expand(-1, num_answers)
        step = (self.state.num_tokens() - int(self.state.protocol.starts)).clamp(max=self.state.limit - 1)
        uniforms = self.uniforms.expand(-1, num_answers, -1)
        return sample(scores, uniforms.gather(2, step.expand(len(scores), num_answers)[..., None])[..., 0])

    def update_scores(
        self, tokens: torch.Tensor, plain: torch.Tensor, scores: torch.Tensor, parents: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Note scores and ends.

        Args:
            tokens: chosen, [B, W].
            plain: the model's own scores, [B, 1 or W, V].
            scores: those by which tokens were chosen, [B, 1 or W, V].
            parents: the beams that the tokens continue, [B, W]; None if each continues its own.

        Returns:
            Which tokens the answers gain, and where the hook ends spans (None without one); [B, W] each.
        """
        chosen = _value(scores, tokens)
        value = _value(plain, tokens) if self.decoding.do_sample else chosen
        return self.record(tokens, value, chosen == -torch.inf, parents)

    def record(
        self, tokens: torch.Tensor, value: torch.Tensor, dead: torch.Tensor, parents: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same, where it is known what tokens add to scores and where every token is forbidden, [B, W] each."""
        in_last_blank, is_stop = self.state.in_last_blank(), self.state.is_stop(tokens)
        is_full = in_last_blank & (self.state.beams.span_length + 1 >= self.decoding.max_new_tokens)
        no_successor = is_stop | dead | is_full
        accepted, finishes = self.accepted(tokens, no_successor), in_last_blank & is_stop
        hook_stops = None
        if self.hook is not None:  # without one, a GPU is spared the kernels
            hook_stops = self.stopped_by_hook(tokens, parents, accepted & ~is_stop & ~dead)
            accepted = self.accepted(tokens, no_successor | hook_stops)
            finishes = in_last_blank & (is_stop | hook_stops)
        counted = accepted & ~dead  # an accepted token adds to the score, unless every token is forbidden
        self.score = self.score + self.sum_over_draft(value.masked_fill(~counted, 0))
        self.length = self.length + self.sum_over_draft(counted)
        self.kept = self.kept + self.sum_over_draft(counted & ~(in_last_blank & is_stop))
        self.stopped = self.stopped | (self.sum_over_draft(counted & finishes) > 0)
        self.ended = self.ended | (self.sum_over_draft(accepted & (finishes | dead | is_full)) > 0)
        self.done = self.ended.all(1)
        return accepted, hook_stops

    def accepted(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Which of these tokens the answers gain; ``ends`` is where nothing may follow; [B, W] each."""
        return ~self.ended

    def sum_over_draft(self, beams: torch.Tensor) -> torch.Tensor:
        """What the beams of each answer have together, [B, W] -> [B, answers]."""
        return beams

    def hypotheses(self, row: int) -> list[Hypothesis]:
        """See the base class."""
        written, kept = self.state.generated()[row], self.kept[row].tolist()
        numbers = zip(self.score[row].tolist(), self.length[row].tolist(), self.stopped[row].tolist(), strict=True)
        found = [self.hypothesis(row, written[beam, : kept[beam]], *entry) for beam, entry in enumerate(numbers)]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)

    def candidates(self, row: int) -> list[list[int]]:
        """See the base class."""
        written = self.state.generated()[row].tolist()
        return [ids[:kept] for ids, kept in zip(written, self.kept[row].tolist(), strict=True)]


class ShardedGreedySearch(SamplingSearch):
    """Greedy search over vocabulary-parallel logits: each rank finds the best of its tokens, no rank gathers logits."""

    def choose(self, output: StepOutput) -> Choice:
        """See the base class; the logits are sharded."""
        from flagai.parallel.vocab_parallel import sharded_argmax  # imports torch.distributed, which takes seconds

        tokens, scores = (
            each.expand(-1, self.decoding.num_answers) for each in sharded_argmax(cast(Any, output.logits))
        )
        parents = torch.zeros_like(tokens) if output.logits.shape[1] < tokens.shape[1] else None
        return Choice(tokens, parents, self.record(tokens, scores, torch.zeros_like(self.ended), parents)[1])


def _value(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The scores of tokens, [B, W]; ``scores`` are [B, 1 or W, V]."""
    return scores.expand(-1, tokens.shape[1], -1).gather(-1, tokens[..., None])[..., 0]


def sample(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
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


def _uniforms(state: DecodingState, num_answers: int) -> torch.Tensor:
    """All random numbers of all answers, [B, num_answers, steps].

    They are drawn before the first step, on the CPU and for each beam from its own seed: so a text's answer depends
    neither on its neighbours nor on the device, and no step waits for a random generator.
    """
    decoding, batch = state.decoding, len(state.ids)
    seeds = decoding.seeds
    if seeds is None:
        one = [decoding.seed] * batch if decoding.seed is not None else None
        seeds = tuple(one or _any_seeds(state).tolist())
    if len(seeds) != batch:
        raise InputError(f"seeds has {len(seeds)} entries for {batch} prompts; give one per prompt.")
    beams = [
        [torch.rand(state.limit, generator=torch.Generator().manual_seed(seed + beam)) for beam in range(num_answers)]
        for seed in seeds
    ]
    return torch.stack([torch.stack(row) for row in beams]).double().to(state.device)


def _any_seeds(state: DecodingState) -> torch.Tensor:
    """Seeds by chance; ranks that share a model must sample the same."""
    seeds = torch.randint(2**62, [len(state.ids)])
    sharding = getattr(state.model, "sharding", None)
    return seeds if sharding is None else sharding.broadcast(seeds)
