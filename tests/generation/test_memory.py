"""Keys and values: how much memory they take, when it is given back, and what happens where there is little."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from flagai.errors import InputError
from flagai.generation import Prompt
from flagai.generation.blocks import BLOCK
from flagai.generation.memory import CacheMemory
from flagai.generation.request import Request
from flagai.generation.scheduler import Scheduler
from tests.generation.mixing import answered_as_alone, finish, looking_late, mixed, run
from tests.generation.tape import taped
from tests.generation.writers import KINDS, PLAIN, SEARCHES, Writer, writer


def block_bytes(model: Any) -> int:
    return CacheMemory(model, 2**30).bytes_per_block


def in_use(scheduler: Scheduler) -> int:
    return scheduler.memory.blocks.num_blocks - 1 - scheduler.memory.blocks.num_free


def written(writing: Writer, lengths: Sequence[int], **options: Any) -> list[Request]:
    """Requests with answers of exactly these lengths."""
    return [
        Request(writing.prompts[number % 4], writing.decoding(max_new_tokens=length, stop_token_ids=(), **options))
        for number, length in enumerate(lengths)
    ]


# -- how much ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_counted_as_large_as_it_is(kind: str) -> None:
    writing = writer(kind)
    with Scheduler(writing.model) as scheduler:
        scheduler.submit(Request(writing.prompts[0], writing.decoding()))
        scheduler.step()
        memory = scheduler.memory
        assert memory.pool.nbytes == memory.blocks.num_blocks * memory.bytes_per_block


def test_answers_that_are_done_give_their_blocks_back_at_once() -> None:
    writing = writer("gpt2")
    requests = written(writing, (2, 5, 9, 30))
    with Scheduler(writing.model) as scheduler:
        scheduler.submit(*requests)
        held = []
        while scheduler.has_work:
            scheduler.step()
            held.append(in_use(scheduler))
    # Each has a block of its prompt, and those of its steps: its length and what is fed once more.
    assert held == [*[9] * 1, *[7] * 3, *[5] * 4, *[3] * 21, 0]


@pytest.mark.parametrize("search", ["greedy", "beams", "contrastive", "lookup"])
def test_a_request_holds_no_more_blocks_than_its_answer_needs(search: str) -> None:
    """Whatever drafts and candidates are thrown away on the way: their slots are used again."""
    writing = writer("gpt2")
    options = {**SEARCHES[search], "max_new_tokens": 25, "stop_token_ids": ()}
    request = Request(PLAIN[0], writing.decoding(**options))
    most = 1 + request.own_lanes * -(-(25 + 2 + options.get("prompt_lookup_num_tokens", 0)) // BLOCK)
    with Scheduler(writing.model, reserve_whole=False) as scheduler:
        scheduler.submit(request)
        while scheduler.has_work:
            scheduler.step()
            assert in_use(scheduler) <= most
    answered_as_alone(writing.model, [request])


def test_keys_stay_where_they_are_while_beams_are_reordered() -> None:
    writing = writer("gpt2")
    places = set()
    with Scheduler(writing.model) as scheduler:
        scheduler.submit(*written(writing, (20, 20), num_beams=5))
        while scheduler.has_work:
            scheduler.step()
            pool = scheduler.memory.pool
            places.add(tuple(layer.data_ptr() for layer in (*pool.keys, *pool.values) if layer is not None))
    assert len(places) == 1


def test_five_thousand_texts_hold_few_blocks_at_a_time() -> None:
    writing = writer("gpt2")
    requests = [Request(Prompt((3, 4, number % 37)), writing.decoding(max_new_tokens=1)) for number in range(5000)]
    most = 0
    with Scheduler(writing.model) as scheduler:
        scheduler.submit(*requests)
        while scheduler.has_work:
            scheduler.step()
            assert len(scheduler.running) <= 128
            most = max(most, scheduler.memory.blocks.num_blocks)
    assert most <= 3 * 128
    assert all(request.done for request in requests)


# -- little memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_requests_share_little_memory(kind: str, late: bool) -> None:
    """The youngest are put back and begin anew; answers are the same, and the limit holds at every step."""
    writing, chance = writer(kind), random.Random(5)
    requests = mixed(writing, kind, chance, 10, max_new_tokens=18 if kind != "glm-blanks" else 9)
    limit = 24 * block_bytes(writing.model)
    fresh: list[Request] = []
    with looking_late(late), Scheduler(writing.model, memory=limit, reserve_whole=False) as scheduler:
        for _ in run(scheduler, requests, chance):
            assert scheduler.memory.pool.nbytes <= limit
            fresh += [request for request in scheduler.running if request not in fresh]
        assert scheduler.memory.is_free
    answered_as_alone(writing.model, requests)


@pytest.mark.parametrize("captured", [False, True])
def test_the_youngest_is_put_back_and_begins_anew(captured: bool) -> None:
    """Each of three texts has three blocks at first, and needs a fourth; there are ten."""
    writing = writer("gpt2")
    requests = written(writing, (33, 33, 33))
    for request in requests:
        request.prompt = PLAIN[1]
    limit = (1 + 3 * 3 + 1) * block_bytes(writing.model)
    with (
        taped() if captured else looking_late(),
        Scheduler(writing.model, memory=limit, reserve_whole=False) as scheduler,
    ):
        scheduler.submit(*requests)
        most = []
        while scheduler.has_work:
            scheduler.step()
            most.append(len(scheduler.running))
        assert most[0] == 3
        assert 2 in most, "one was put back"
        assert scheduler.memory.is_free
    answered_as_alone(writing.model, requests)


def test_a_stream_that_is_put_back_tells_nothing_twice() -> None:
    writing = writer("gpt2")
    requests = written(writing, (33, 33, 33))
    told: dict[Request, list[tuple[int, ...]]] = {request: [] for request in requests}
    for request in requests:
        request.prompt, request.stream = PLAIN[1], True
    limit = 11 * block_bytes(writing.model)
    with Scheduler(writing.model, memory=limit, reserve_whole=False) as scheduler:
        scheduler.submit(*requests)
        while scheduler.has_work:
            for request in scheduler.step():
                told[request].append(request.certain[0] if request.certain else ())
    for request, beginnings in told.items():
        answer = request.hypotheses[0].ids
        assert all(answer[: len(ids)] == ids for ids in beginnings)
        assert beginnings[-1] == answer


@pytest.mark.parametrize("late", [False, True])
def test_the_last_one_waits_for_blocks_of_a_text_that_is_done(late: bool) -> None:
    """The older one has made its last step when the younger one needs blocks that are not there yet."""
    writing = writer("gpt2")
    for first in range(28, 34):
        # In a batch of its own.
        requests = [*written(writing, (first,), bad_words_ids=((5,),)), *written(writing, (33,))]
        for request in requests:
            request.prompt = PLAIN[1]
        limit = (1 + (1 + 2) + (1 + 2) + int(first > 30)) * block_bytes(writing.model)
        with looking_late(late), Scheduler(writing.model, memory=limit, reserve_whole=False) as scheduler:
            scheduler.submit(*requests)
            finish(scheduler)
        answered_as_alone(writing.model, requests)


def test_a_long_prompt_that_is_read_does_not_take_the_blocks_of_the_only_answer() -> None:
    """What is read in parts is put back like any other request."""
    writing = writer("gpt2")
    short, long = written(writing, (33, 4))
    short.prompt, long.prompt = PLAIN[1], Prompt(tuple(range(1, 33)))
    limit = (1 + (1 + 2) + (2 + 1)) * block_bytes(writing.model)
    with Scheduler(writing.model, memory=limit, reserve_whole=False, prompt_tokens=4) as scheduler:
        scheduler.submit(short)
        for _ in range(28):
            scheduler.step()
        scheduler.submit(long)
        finish(scheduler)
    answered_as_alone(writing.model, [short, long])


def _submitted_and_finished(scheduler: Scheduler, request: Request) -> None:
    scheduler.submit(request)
    finish(scheduler)


@pytest.mark.parametrize("whole", [False, True])
def test_a_request_that_is_too_large_even_alone_is_named(whole: bool) -> None:
    writing = writer("gpt2")
    size = block_bytes(writing.model)
    (request,) = written(writing, (33,), num_beams=3)
    with Scheduler(writing.model, memory=9 * size, reserve_whole=whole) as scheduler:
        named = f"6 ids, 3 answers .* 33 needs {10 * size} bytes .* memory for {9 * size}"
        with pytest.raises(InputError, match=named):
            _submitted_and_finished(scheduler, request)
        assert scheduler.memory.is_free
        assert not scheduler.has_work
    (small,) = written(writing, (3,))
    with Scheduler(writing.model, memory=9 * size) as scheduler:
        scheduler.submit(small)
        finish(scheduler)
    answered_as_alone(writing.model, [small])


def test_a_limit_without_a_block_is_named() -> None:
    model = writer("gpt2").model
    with (
        pytest.raises(InputError, match=f"memory=100 bytes hold no block.*one takes {block_bytes(model)}"),
        Scheduler(model, memory=100),
    ):
        pass


def test_a_pool_grows_with_what_is_in_it() -> None:
    memory = CacheMemory(writer("gpt2").model, None)
    assert memory.take(3) is not None
    key = torch.arange(2.0)[:, None, None].expand(2, 4, 8)
    memory.pool.write(0, torch.tensor([17, 18]), key + 1, key + 3)
    blocks, version = memory.blocks.num_blocks, memory.version
    assert memory.take(blocks) is not None
    assert memory.version > version
    keys, values = memory.pool.layer(0)
    assert len(keys) == memory.blocks.num_blocks * BLOCK
    assert keys[[17, 18], 0, 0].tolist() == [1, 2]
    assert values[[17, 18], 0, 0].tolist() == [3, 4]
