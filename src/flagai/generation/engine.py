"""The engine: one loop for all families and all ways of searching."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import cast

import torch

from flagai.data.prompt import Prompt
from flagai.generation.beam import BeamSearch
from flagai.generation.checks import memory_advice
from flagai.generation.contrastive import ContrastiveSearch
from flagai.generation.decoding_state import DecodingState
from flagai.generation.draft_state import DraftState
from flagai.generation.evaluating import evaluating
from flagai.generation.options import Decoding
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.prompt_lookup import PromptLookup
from flagai.generation.protocol import GenerativeModel
from flagai.generation.replay.steps import Step, is_replayed, recorded_steps
from flagai.generation.sampling import SamplingSearch, ShardedGreedySearch
from flagai.generation.search import Search, search_step
from flagai.generation.types import Event, Hypothesis, LogitsProcessor, StopHook

# Texts leave the batch when this share of it is finished: leaving copies the cache, so not for each one.
_IDLE = 0.5


def generate(
    model: GenerativeModel,
    prompts: Sequence[Prompt],
    decoding: Decoding | None = None,
    *,
    logits_processors: Sequence[LogitsProcessor] = (),
    stop: StopHook | None = None,
) -> list[list[Hypothesis]]:
    """Write answers to a batch of prompts.

    Row i of a batch has the answers that its text has alone.

    Args:
        model: a model that writes: GPT-2, GLM, BertForSeq2seq or T5.
        prompts: the texts as ids, of any lengths; all with blanks or all without.
        decoding: how to decode; default greedy.
        logits_processors: called as ``scores = processor(ids, scores)`` at every step, with ids [B, W, T] (text and
            answer, the last id at the end, -1 in front where a text is shorter) and log-probabilities [B, W, V]; they
            come after what is forbidden, and before what applies to drawing.
        stop: called as ``stop(row, ids of the piece)`` after every new id of an unfinished answer; a true result ends
            the piece with that id.

    Returns:
        For each prompt, its answers, best first.

    Raises:
        InputError: the options or a prompt do not go with the model.
    """
    found: dict[int, list[Hypothesis]] = {}
    for search, done in _steps(model, prompts, decoding or Decoding(), logits_processors, stop):
        found.update({search.state.prompt_numbers[row]: search.hypotheses(row) for row in done})
    return [found[row] for row in range(len(prompts))]


def stream(
    model: GenerativeModel,
    prompts: Sequence[Prompt],
    decoding: Decoding | None = None,
    *,
    logits_processors: Sequence[LogitsProcessor] = (),
    stop: StopHook | None = None,
) -> Iterator[Event]:
    """Write answers, and tell at every step which ids have become certain.

    In greedy search that is every id; with beams or several samples, what all answers have in common that may still
    become the best. The ids of all events of a row, joined, are those of its best answer.

    Args:
        model: see :func:`generate`.
        prompts: see :func:`generate`.
        decoding: see :func:`generate`.
        logits_processors: see :func:`generate`.
        stop: see :func:`generate`.

    Yields:
        Events; the last one of each row has its answers.

    Raises:
        InputError: see :func:`generate`.
    """
    emitted: list[list[int]] = [[] for _ in prompts]
    for search, done in _steps(model, prompts, decoding or Decoding(), logits_processors, stop, check_interval=1):
        state = search.state
        for row, number in enumerate(state.prompt_numbers):
            if row in done:
                hypotheses = search.hypotheses(row)
                yield from _new_events(number, hypotheses[0].pieces, emitted[number])
                yield Event(number, len(hypotheses[0].pieces) - 1, hypotheses=tuple(hypotheses))
            elif not search.done[row]:
                yield from _new_events(number, state.split_spans(_common(search.candidates(row))), emitted[number])


def _common(answers: list[list[int]]) -> list[int]:
    """What all answers begin with."""
    count = 0
    for ids in zip(*answers, strict=False):
        if len(set(ids)) > 1:
            break
        count += 1
    return answers[0][:count] if answers else []


def _new_events(row: int, pieces: tuple[tuple[int, ...], ...], emitted: list[int]) -> Iterator[Event]:
    """Events for what has become certain; ``emitted`` says how much of each piece is known, and is kept up to date."""
    emitted.extend([0] * (len(pieces) - len(emitted)))
    for number, piece in enumerate(pieces):
        if len(piece) > emitted[number]:
            yield Event(row, number, piece[emitted[number] :])
            emitted[number] = len(piece)


@torch.inference_mode()
def _steps(
    model: GenerativeModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    processors: Sequence[LogitsProcessor],
    stop: StopHook | None,
    check_interval: int | None = None,
) -> Iterator[tuple[Search, list[int]]]:
    """Run the search; yield it now and then, with the texts of the batch that have newly been finished."""
    if not prompts:
        return
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(memory_advice(len(prompts), decoding))
        search = _search(model, prompts, decoding, processors, stop)
        state, step = search.state, cast(Step, search_step)
        interval = check_interval or _done_check_interval(search)
        emitted: set[int] = set()
        steps = state.limit + search.latency_steps
        output = state.prefill()
        for number in range(1, steps + 1):
            step(search, output)  # state.append(search.choose(output))
            if number % interval == 0 or number == steps:
                done = search.done.tolist()
                finished = [row for row, is_done in enumerate(done) if is_done]
                yield search, [row for row in finished if state.prompt_numbers[row] not in emitted]
                if all(done):
                    return
                emitted.update(state.prompt_numbers[row] for row in finished)
                if len(finished) >= _IDLE * len(done) and state.recorded is None:
                    search.keep_rows((~search.done).nonzero()[:, 0])
            if number == 1 and is_replayed(search):
                step = stack.enter_context(recorded_steps(search))
            output = state.forward()


def _done_check_interval(search: Search) -> int:
    """In how many steps it is asked once whether rows are finished."""
    return 1 if search.state.device.type == "cpu" else search.done_check_interval


def _search(
    model: GenerativeModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    added: Sequence[LogitsProcessor],
    stop: StopHook | None,
) -> Search:
    if decoding.prompt_lookup_num_tokens:
        draft = DraftState(model, prompts, decoding, 1 + decoding.prompt_lookup_num_tokens)
        return PromptLookup(draft, LogitsProcessorList(decoding, added, draft), stop)
    state = DecodingState(model, prompts, decoding, decoding.lanes)
    processors = LogitsProcessorList(decoding, added, state)
    kind: type[Search] = SamplingSearch
    if decoding.penalty_alpha is not None:
        kind = ContrastiveSearch
    elif decoding.num_beams > 1:
        kind = BeamSearch
    elif not decoding.do_sample and processors.changes_nothing and state.keep_logits_sharded():
        kind = ShardedGreedySearch
    return kind(state, processors, stop)
