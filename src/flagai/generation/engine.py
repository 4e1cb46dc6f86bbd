"""Answers to prompts: all of them go to a scheduler."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice

from flagai.data.prompt import Prompt
from flagai.errors import InputError
from flagai.generation.checks import check_types, memory_advice
from flagai.generation.options import Decoding
from flagai.generation.protocol import GenerativeModel
from flagai.generation.request import Request
from flagai.generation.scheduler import Scheduler
from flagai.generation.types import Event, Hypothesis, LogitsProcessor, StopHook

# Requests of an endless list that are under way: enough that none waits for an answer that takes long.
_AHEAD = 4096


def generate(
    model: GenerativeModel,
    prompts: Iterable[Prompt],
    decoding: Decoding | None = None,
    *,
    logits_processors: Sequence[LogitsProcessor] = (),
    stop: StopHook | None = None,
    memory: int | None = None,
) -> list[list[Hypothesis]]:
    """Write answers to a batch of prompts.

    Row i of a batch has the answers that its text has alone.

    Args:
        model: a model that writes: GPT-2, GLM, BertForSeq2seq or T5.
        prompts: the texts as ids, of any lengths.
        decoding: how to decode; default greedy.
        logits_processors: called as ``scores = processor(ids, scores)`` at every step, with ids [B, W, T] (text and
            answer, the last id at the end, -1 in front where a text is shorter) and log-probabilities [B, W, V]; they
            come after what is forbidden, and before what applies to drawing.
        stop: called as ``stop(row, ids of the piece)`` after every new id of an unfinished answer; a true result ends
            the piece with that id.
        memory: the most bytes of keys and values; default a share of what is free.

    Returns:
        For each prompt, its answers, best first.

    Raises:
        InputError: the options or a prompt do not fit the model.

    Example:
        >>> answers = generate(model, [Prompt((1, 2, 3))], Decoding(max_new_tokens=8))
        >>> answers[0][0].ids
    """
    requests = _requests(prompts, decoding or Decoding(), logits_processors, stop)
    return [list(request.hypotheses) for request in generate_each(model, requests, memory=memory)]


def generate_each(
    model: GenerativeModel, requests: Iterable[Request], *, memory: int | None = None
) -> Iterator[Request]:
    """Answer any number of requests, in their order and in bounded memory.

    Args:
        model: see :func:`generate`.
        requests: those of a list are all checked before the first one is answered; others are taken as they are needed.
        memory: the most bytes of keys and values; default a share of what is free.

    Yields:
        The requests, with their answers.

    Raises:
        InputError: see :func:`generate`.

    Example:
        >>> requests = (Request(prompt) for prompt in prompts)
        >>> for request in generate_each(model, requests):
        ...     print(request.hypotheses[0].ids)
    """
    if not isinstance(requests, Iterable):
        raise InputError(f"requests is {requests!r:.60}; expected requests: a list of Request(prompt, decoding).")
    count = len(requests) if isinstance(requests, Sequence) else _AHEAD
    coming, pending = iter(requests), deque[Request]()
    pending.extend(islice(coming, count))
    if not pending:
        return
    with _running(model, pending, memory) as scheduler:
        while pending:
            while not pending[0].done:
                scheduler.step()
            yield pending.popleft()
            new = list(islice(coming, count - len(pending)))
            scheduler.submit(*new)
            pending.extend(new)


def stream(
    model: GenerativeModel,
    prompts: Iterable[Prompt],
    decoding: Decoding | None = None,
    *,
    logits_processors: Sequence[LogitsProcessor] = (),
    stop: StopHook | None = None,
    memory: int | None = None,
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
        memory: see :func:`generate`.

    Yields:
        Events; the last one of each row has its answers.

    Raises:
        InputError: see :func:`generate`.

    Example:
        >>> for event in stream(model, prompts, Decoding(max_new_tokens=8)):
        ...     print(event.row, event.ids)
    """
    requests = _requests(prompts, decoding or Decoding(), logits_processors, stop)
    for request in requests:
        request.stream = True
    emitted: list[list[int]] = [[] for _ in requests]
    with _running(model, requests, memory) as scheduler:
        while scheduler.has_work:
            for request in scheduler.step():
                number = request.number
                yield from _new_events(number, request.certain, emitted[number])
                if request.done:
                    yield Event(number, len(request.certain) - 1, hypotheses=request.hypotheses)


@contextmanager
def _running(model: GenerativeModel, requests: Sequence[Request], memory: int | None) -> Iterator[Scheduler]:
    """A scheduler with these requests."""
    with ExitStack() as stack:
        check_types(requests)
        if requests:
            stack.enter_context(memory_advice(len(requests), requests[0].decoding))
        graphs = all(request.decoding.cuda_graphs for request in requests)
        scheduler = stack.enter_context(Scheduler(model, memory=memory, graphs=graphs))
        scheduler.submit(*requests)
        yield scheduler


def _requests(
    prompts: Iterable[Prompt], decoding: Decoding, processors: Sequence[LogitsProcessor], stop: StopHook | None
) -> list[Request]:
    """One for each prompt, with its own seed.

    Raises:
        InputError: these are no prompts, or there is not one seed for each.
    """
    if isinstance(prompts, Prompt | str | bytes) or not isinstance(prompts, Iterable):
        raise InputError(f"prompts is {prompts!r:.60}; expected prompts: a list of Prompt(ids).")
    prompts = list(prompts)
    if not isinstance(decoding, Decoding):
        raise InputError(f"decoding is {decoding!r:.60}; expected Decoding(max_new_tokens=...).")
    own = decoding.of_texts(len(prompts))
    return [
        Request(prompt, each, processors, stop, number)
        for number, (prompt, each) in enumerate(zip(prompts, own, strict=True))
    ]


def _new_events(row: int, pieces: tuple[tuple[int, ...], ...], emitted: list[int]) -> Iterator[Event]:
    """Events for what has become certain; ``emitted`` says how much of each piece is known, and is kept up to date."""
    emitted.extend([0] * (len(pieces) - len(emitted)))
    for number, piece in enumerate(pieces):
        if len(piece) > emitted[number]:
            yield Event(row, number, piece[emitted[number] :])
            emitted[number] = len(piece)
