"""Any number of requests, answered in their order."""

import gc
import itertools
import random
import weakref
from collections.abc import Iterator

import pytest

from flagai.errors import InputError
from flagai.generation import Prompt, Request, generate_each
from flagai.generation.memory import CacheMemory
from tests.generation.mixing import answered_as_alone, mixed
from tests.generation.writers import PLAIN, writer


@pytest.mark.parametrize("blocks", [None, 26])
def test_answers_come_in_the_order_of_the_requests(blocks: int | None) -> None:
    """Whichever is done first, and however little memory there is."""
    writing = writer("glm-blanks")
    requests = mixed(writing, "glm-blanks", random.Random(6), 12)
    memory = None if blocks is None else blocks * CacheMemory(writing.model, 2**30).bytes_per_block
    assert list(generate_each(writing.model, iter(requests), memory=memory)) == requests
    answered_as_alone(writing.model, requests)


def test_no_requests_have_no_answers() -> None:
    writing = writer("gpt2")
    assert list(generate_each(writing.model, [])) == []
    assert list(generate_each(writing.model, iter(()))) == []


def test_an_endless_list_is_taken_as_it_is_needed_and_what_is_answered_is_let_go() -> None:
    writing, taken = writer("gpt2"), 0
    alive: weakref.WeakSet[Request] = weakref.WeakSet()

    def endless() -> Iterator[Request]:
        nonlocal taken
        for taken in itertools.count(1):
            request = Request(PLAIN[taken % 4], writing.decoding(max_new_tokens=1 + taken % 3), number=taken)
            alive.add(request)
            yield request

    writing.model.train()
    answers = generate_each(writing.model, endless())
    first = next(answers)
    ahead, longest = taken, 0
    for number in range(2, 700):
        assert next(answers).number == number
        assert taken <= ahead + number
        longest = max(longest, len(alive))
    assert longest <= ahead + 3
    answers.close()  # type: ignore[attr-defined]
    assert writing.model.training
    answered_as_alone(writing.model, [first])
    gc.collect()
    assert len(alive) == 1


def test_a_list_is_checked_before_the_first_answer() -> None:
    writing = writer("gpt2")
    requests = [Request(prompt, writing.decoding(), number=number) for number, prompt in enumerate(PLAIN)]
    requests.append(Request(Prompt((999,)), writing.decoding(), number=4))
    with pytest.raises(InputError, match="Prompt 4 has the id 999"):
        next(generate_each(writing.model, requests))
    assert not any(request.done for request in requests)
