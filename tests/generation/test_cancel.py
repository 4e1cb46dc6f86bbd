"""Requests that nobody waits for any more leave a scheduler at any time; the others are answered as before."""

import random
from contextlib import nullcontext

import pytest

from flagai.generation import Prompt
from flagai.generation.request import Request
from flagai.generation.scheduler import Scheduler
from tests.generation.mixing import answered_as_alone, finish, looking_late, mixed, run
from tests.generation.tape import taped
from tests.generation.writers import KINDS, PLAIN, writer


@pytest.mark.parametrize("way", ["plain", "late", "captured"])
@pytest.mark.parametrize("kind", KINDS)
def test_canceled_requests_leave_and_the_others_are_answered(kind: str, way: str) -> None:
    writing, chance = writer(kind), random.Random(3)
    requests, canceled = mixed(writing, kind, chance, 16), set()
    context = {"plain": nullcontext, "late": looking_late, "captured": taped}[way]()
    with context, Scheduler(writing.model, prompt_tokens=5) as scheduler:
        for _ in run(scheduler, requests, chance):
            dropped = [each for each in (*scheduler.running, *scheduler.waiting) if chance.random() < 0.1]
            scheduler.cancel(*dropped)
            canceled.update(dropped)
        assert scheduler.memory.is_free
    assert 0 < len(canceled) < len(requests)
    assert [request for request in requests if request.done] == [each for each in requests if each not in canceled]
    answered_as_alone(writing.model, [request for request in requests if request.done])


def test_a_request_is_canceled_where_it_waits_runs_or_is_read() -> None:
    writing = writer("gpt2")
    short, other = (Request(PLAIN[1], writing.decoding(stop_token_ids=(), max_new_tokens=9)) for _ in range(2))
    long, last = Request(Prompt((3, 4, 5) * 6), writing.decoding()), Request(PLAIN[0], writing.decoding())
    with Scheduler(writing.model, prompt_tokens=3) as scheduler:
        scheduler.submit(short)
        scheduler.step()
        scheduler.submit(long, other, last)
        scheduler.step()
        assert short in scheduler.running
        assert other in scheduler.waiting
        scheduler.cancel(other, long, short)
        assert list(scheduler.waiting) == [last]
        assert scheduler.memory.is_free
        finish(scheduler)
        scheduler.cancel(last, short, Request(PLAIN[0], writing.decoding()))
    answered_as_alone(writing.model, [last])
    assert not any(request.done for request in (short, long, other))
