"""The engine: one loop for all families and all ways of searching."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch

from flagai.data.prompt import Prompt
from flagai.generation.beam import BeamSearch
from flagai.generation.checks import memory_advice
from flagai.generation.contrastive import ContrastiveSearch
from flagai.generation.decoding_state import Tree
from flagai.generation.draft_state import Chain
from flagai.generation.evaluating import evaluating
from flagai.generation.family import GenerativeModel
from flagai.generation.options import Decoding
from flagai.generation.processors import Pipeline
from flagai.generation.prompt_lookup import PromptLookup
from flagai.generation.sampling import IndependentLanes
from flagai.generation.search import Search
from flagai.generation.stepper import Stepper
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
            answer, the newest id last, -1 in front where a text is shorter) and log-probabilities [B, W, V]; they
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
        found.update({search.tree.numbers[row]: search.hypotheses(row) for row in done})
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
    told: list[list[int]] = [[] for _ in prompts]
    for search, done in _steps(model, prompts, decoding or Decoding(), logits_processors, stop, patience=1):
        tree = search.tree
        for row, number in enumerate(tree.numbers):
            if row in done:
                hypotheses = search.hypotheses(row)
                yield from _news(number, hypotheses[0].pieces, told[number])
                yield Event(number, len(hypotheses[0].pieces) - 1, hypotheses=tuple(hypotheses))
            elif not search.done[row]:
                yield from _news(number, tree.pieces(_common(search.possible(row))), told[number])


def _common(answers: list[list[int]]) -> list[int]:
    """What all answers begin with."""
    count = 0
    for ids in zip(*answers, strict=False):
        if len(set(ids)) > 1:
            break
        count += 1
    return answers[0][:count] if answers else []


def _news(row: int, pieces: tuple[tuple[int, ...], ...], told: list[int]) -> Iterator[Event]:
    """Events for what has become certain; ``told`` says how much of each piece is known, and is kept up to date."""
    told.extend([0] * (len(pieces) - len(told)))
    for number, piece in enumerate(pieces):
        if len(piece) > told[number]:
            yield Event(row, number, piece[told[number] :])
            told[number] = len(piece)


@torch.inference_mode()
def _steps(
    model: GenerativeModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    processors: Sequence[LogitsProcessor],
    stop: StopHook | None,
    patience: int | None = None,
) -> Iterator[tuple[Search, list[int]]]:
    """Run the search; yield it now and then, with the texts of the batch that have newly been finished."""
    if not prompts:
        return
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(memory_advice(len(prompts), decoding))
        search = _search(model, prompts, decoding, processors, stop)
        tree = search.tree
        patience = patience or _patience(search)
        told: set[int] = set()
        stepper = Stepper(search, stack)
        steps = tree.limit + search.late
        for step in range(steps):
            stepper.grow()
            if step % patience == patience - 1 or step == steps - 1:
                done = search.done.tolist()
                yield search, [row for row, is_done in enumerate(done) if is_done and tree.numbers[row] not in told]
                if all(done):
                    return
                told.update(number for number, is_done in zip(tree.numbers, done, strict=True) if is_done)
                if sum(done) >= _IDLE * len(done) and tree.static is None:
                    search.select((~search.done).nonzero()[:, 0])
            stepper.run()


def _patience(search: Search) -> int:
    """In how many steps it is asked once whether texts are finished."""
    return 1 if search.tree.device.type == "cpu" else search.patience


def _search(
    model: GenerativeModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    processors: Sequence[LogitsProcessor],
    stop: StopHook | None,
) -> Search:
    if decoding.prompt_lookup_num_tokens:
        chain = Chain(model, prompts, decoding, 1 + decoding.prompt_lookup_num_tokens)
        return PromptLookup(chain, Pipeline(decoding, processors, chain), stop)
    contrastive = decoding.penalty_alpha is not None
    tree = Tree(model, prompts, decoding, decoding.lanes)
    pipeline = Pipeline(decoding, processors, tree)
    kind: type[Search] = IndependentLanes
    if contrastive:
        kind = ContrastiveSearch
    elif decoding.num_beams > 1:
        kind = BeamSearch
    elif not decoding.do_sample and pipeline.changes_nothing and tree.keep_logits_sharded():
        from flagai.generation.in_parts import LanesInParts  # with torch.distributed, which takes seconds

        kind = LanesInParts
    return kind(tree, pipeline, stop)
