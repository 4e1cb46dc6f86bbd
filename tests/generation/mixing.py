"""Requests by chance, which come to a scheduler by chance, and what each of them is answered alone."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from flagai.generation import Hypothesis, Prompt, generate
from flagai.generation.answers import Answers
from flagai.generation.request import Request
from flagai.generation.scheduler import Scheduler
from tests.generation.writers import SEARCHES, Writer


def same(ours: Sequence[Hypothesis], theirs: Sequence[Hypothesis]) -> None:
    assert [(answer.pieces, answer.finished) for answer in ours] == [
        (answer.pieces, answer.finished) for answer in theirs
    ]
    assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], rel=1e-3, abs=1e-3)


def ends_at_sevens(row: int, ids: tuple[int, ...]) -> bool:
    """A stop hook that knows nothing of numbers of rows."""
    return sum(ids) % 7 == 0


def mixed(writing: Writer, kind: str, chance: random.Random, count: int, **options: Any) -> list[Request]:
    """Requests with any text, search, length and hook."""
    found = []
    for number in range(count):
        ids = tuple(chance.randint(0, 12) for _ in range(chance.randint(1, 14)))
        blanks = ()
        if kind == "glm-blanks":
            blanks = tuple(sorted(chance.randrange(len(ids)) for _ in range(chance.randint(1, 3))))
        search = dict(chance.choice(list(SEARCHES.values())))
        if search.get("do_sample"):
            search |= {"seed": chance.randint(0, 99), "temperature": chance.choice((0.7, 1.5))}
        search |= {"max_new_tokens": chance.randint(1, 9), "min_new_tokens": chance.randint(0, 1), **options}
        stop = ends_at_sevens if chance.random() < 0.2 else None
        found.append(Request(Prompt(ids, blanks), writing.decoding(**search), stop=stop, number=number))
    return found


def run(scheduler: Scheduler, requests: Sequence[Request], chance: random.Random) -> Iterator[None]:
    """Some come before every step; yields after each."""
    waiting = list(requests)
    while waiting or scheduler.has_work:
        for _ in range(min(chance.randint(0, 4), len(waiting))):
            scheduler.submit(waiting.pop(0))
        scheduler.step()
        yield


def finish(scheduler: Scheduler) -> None:
    """Answer all that have been submitted."""
    while scheduler.has_work:
        scheduler.step()


def alone(model: Any, request: Request) -> list[Hypothesis]:
    """What it is answered in a call of its own, step by step."""
    decoding = replace(request.decoding, cuda_graphs=False)
    return generate(model, [request.prompt], decoding, stop=request.stop)[0]


def answered_as_alone(model: Any, requests: Sequence[Request]) -> None:
    for request in requests:
        same(request.hypotheses, alone(model, request))


@contextmanager
def looking_late(late: bool = True) -> Iterator[None]:
    """As on a GPU: whether a text is done is known one step later, and it is fed on until then."""
    begin = Answers.__init__

    def begun(self: Answers, device: Any) -> None:
        begin(self, device)
        self._lag = int(late)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answers, "__init__", begun)
        yield
