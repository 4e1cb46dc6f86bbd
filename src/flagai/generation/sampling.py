"""Greedy search and sampling: each beam continues by itself."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, ClassVar, cast

import numpy as np
import torch

from flagai.device_support import has_float64
from flagai.generation.decoding_state import DecodingState
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.request import Running
from flagai.generation.rows import Sizes
from flagai.generation.search import Search
from flagai.generation.types import Choice, Hypothesis, Spans, StepOutput


class SamplingSearch(Search):
    """Each beam takes its most probable token, or samples one.

    Scores are sums of what the tokens were chosen by: in greedy search, the processed log-probabilities (as in a beam
    search); in sampling, the model's own, so that samples drawn hot or cold compare.

    Args:
        sizes: the sizes of the batch.
        state: the answers so far.
        processors: from logits to scores.
    """

    reported: ClassVar[tuple[str, ...]] = ("score", "kept", "length", "stopped", "ended")
    streamed = ("kept",)

    def __init__(self, sizes: Sizes, state: DecodingState, processors: LogitsProcessorList) -> None:
        super().__init__(sizes, state, processors)
        answers = self.decoding.num_answers
        self.score = self.add("score", answers, dtype=torch.float32)
        self.kept = self.add("kept", answers)  # tokens without the stop token
        self.length = self.add("length", answers)  # tokens with it, which the length penalty counts
        self.ended = self.add(
            "ended", answers, dtype=torch.bool, fill=True
        )  # stopped, full, or every next token forbidden
        self.stopped = self.add("stopped", answers, dtype=torch.bool)  # by a stop token or the hook
        if self.decoding.do_sample:
            self.uniforms = self.add("uniforms", answers, sizes.steps, dtype=torch.float64)

    def fill(self, running: Sequence[Running]) -> None:
        """Put requests into their rows, with the random numbers of all their steps."""
        super().fill(running)
        self.put(ended=[False] * len(running))
        if self.decoding.do_sample:
            for staged, each in zip(self.staged("uniforms"), running, strict=True):
                staged[:, : each.request.limit] = _uniforms(each)

    def choose(self, output: StepOutput) -> Choice:
        """Choose the best token of each lane, or sample one."""
        plain, scores = self.processors(output.logits)
        tokens = self.pick(scores)
        return Choice(tokens, None, self.update_scores(tokens, plain, scores)[1])

    def pick(self, scores: torch.Tensor) -> torch.Tensor:
        """The token that follows in each lane, [R, W]; ``scores`` are [R, W, V]."""
        if not self.decoding.do_sample:
            return scores.argmax(-1)
        step = self.state.num_generated().clamp(0, self.uniforms.shape[2] - 1).expand(scores.shape[:2])
        uniforms = self.uniforms.expand(-1, scores.shape[1], -1).gather(2, step[..., None])
        return sample(scores, uniforms[..., 0])

    def update_scores(
        self, tokens: torch.Tensor, plain: torch.Tensor, scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Note scores and ends.

        Args:
            tokens: chosen, [B, W].
            plain: the model's own scores, [R, W, V].
            scores: those by which tokens were chosen, [R, W, V].

        Returns:
            Which tokens the answers gain, and where the hook ends spans (None without one); [B, W] each.
        """
        chosen = _value(scores, tokens)
        value = _value(plain, tokens) if self.decoding.do_sample else chosen
        return self.record(tokens, value, chosen == -torch.inf)

    def record(
        self, tokens: torch.Tensor, value: torch.Tensor, dead: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same, where it is known what tokens add to scores and where every token is forbidden, [B, W] each."""
        in_last_blank, is_stop = self.state.in_last_blank(), self.state.is_stop(tokens)
        is_full = in_last_blank & (self.state.span_length + 1 >= self.state.max_new_tokens[:, None])
        no_successor = is_stop | dead | is_full
        accepted, finishes = self.accepted(tokens, no_successor), in_last_blank & is_stop
        hook_stops = None
        if self.hooked:  # without one, a GPU is spared the kernels
            hook_stops = self.stopped_by_hook(tokens, None, accepted & ~is_stop & ~dead)
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
        """The answers of a row, one for each sample."""
        written, kept = self.state.generated()[row], self.kept[row].tolist()
        numbers = zip(self.score[row].tolist(), self.length[row].tolist(), self.stopped[row].tolist(), strict=True)
        found = [self.hypothesis(row, written[beam, : kept[beam]], *entry) for beam, entry in enumerate(numbers)]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)

    def candidates(self, row: int) -> list[list[int]]:
        """The answers of a row so far."""
        written = self.state.generated()
        return [written[row, lane, :kept].tolist() for lane, kept in enumerate(self.kept[row].tolist())]

    def certain(self, before: Sequence[Spans]) -> list[Spans]:
        """The ids that can no longer change: a single answer only grows, so that its new ids are enough."""
        if self.decoding.num_answers > 1 or self.state.protocol.spans:
            return super().certain(before)
        texts: list[tuple[int, ...]] = [spans[0] if spans else () for spans in before]
        written, kept = self.state.generated()[:, 0].numpy(), self.kept[:, 0].numpy()
        begun, steps = np.array([len(ids) for ids in texts]), np.arange(written.shape[1])
        new = iter(written[(steps >= begun[:, None]) & (steps < kept[:, None])].tolist())
        counts = np.maximum(kept - begun, 0).tolist()
        return [((*ids, *islice(new, count)),) for ids, count in zip(texts, counts, strict=True)]


class ShardedGreedySearch(SamplingSearch):
    """Greedy search over vocabulary-parallel logits: each rank finds the best of its tokens, no rank gathers logits."""

    def choose(self, output: StepOutput) -> Choice:
        """Choose the best token of logits that are sharded over the vocabulary."""
        from flagai.parallel.vocab_parallel import sharded_argmax  # imports torch.distributed, which takes seconds

        tokens, scores = sharded_argmax(cast(Any, output.logits))
        return Choice(tokens, None, self.record(tokens, scores, torch.zeros_like(self.ended))[1])


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
    if not has_float64(scores.device):  # then on the CPU, with the same tokens as everywhere
        return sample(scores.cpu(), uniforms.cpu()).to(scores.device)
    reached = scores.double().softmax(-1).cumsum(-1).expand(-1, uniforms.shape[1], -1).contiguous()
    # The number is taken as a share of the actual sum, so it stays below it; 24 bits leave room for rounding.
    wanted = uniforms * reached[..., -1]
    found = torch.searchsorted(reached, wanted[..., None], right=True)[..., 0]
    return found.clamp(max=scores.shape[-1] - 1)


def _uniforms(running: Running) -> np.ndarray[Any, Any]:
    """All random numbers of all answers to a text, [answers, steps].

    They are drawn before the first step, on the CPU and for each answer from its own seed: so a text's answer depends
    neither on its neighbours nor on the device, and no step waits for a random generator.
    """
    request, generator = running.request, torch.Generator()
    seeds = range(request.seed, request.seed + request.decoding.num_answers)
    return np.stack([torch.rand(request.limit, generator=generator.manual_seed(seed)).numpy() for seed in seeds])
