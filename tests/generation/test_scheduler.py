"""Requests come and go; each is answered as it is alone."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from flagai.errors import InputError
from flagai.generation import Prompt, generate, stream
from flagai.generation.request import Request
from flagai.generation.scheduler import Scheduler
from tests.generation.mixing import alone, answered_as_alone, finish, looking_late, mixed, run, same
from tests.generation.tape import taped
from tests.generation.writers import BLANKS, KINDS, PLAIN, SEARCHES, writer

# -- mixed requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_requests_are_answered_as_alone(kind: str) -> None:
    check_mixed(kind, seed=1, count=16)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_mixed_requests_are_answered_as_alone(kind: str) -> None:
    for seed in range(17):
        check_mixed(kind, seed, count=100)


def check_mixed(kind: str, seed: int, count: int) -> None:
    writing, chance = writer(kind, seed % 3), random.Random(seed)
    requests = mixed(writing, kind, chance, count)
    with Scheduler(writing.model, prompt_tokens=chance.choice((5, 20, None))) as scheduler:
        for _ in run(scheduler, requests, chance):
            pass
        assert scheduler.memory.is_free
    answered_as_alone(writing.model, requests)


@pytest.mark.parametrize("kind", ["glm", "glm-blanks", "t5"])
def test_mixed_requests_are_answered_as_alone_where_answers_are_looked_at_late(kind: str) -> None:
    writing, chance = writer(kind), random.Random(2)
    requests = mixed(writing, kind, chance, 16)
    with looking_late(), Scheduler(writing.model) as scheduler:
        for _ in run(scheduler, requests, chance):
            pass
        assert scheduler.memory.is_free
    answered_as_alone(writing.model, requests)


@pytest.mark.parametrize("kind", ["glm-blanks", "t5"])
def test_mixed_requests_are_answered_as_alone_by_captured_steps(kind: str) -> None:
    writing, chance = writer(kind), random.Random(3)
    requests = mixed(writing, kind, chance, 12)
    with taped(), looking_late(), Scheduler(writing.model) as scheduler:
        for _ in run(scheduler, requests, chance):
            pass
        assert scheduler.memory.is_free
    answered_as_alone(writing.model, requests)


def test_texts_with_and_without_blanks_go_together() -> None:
    """They are decoded by different protocols of one model."""
    writing = writer("glm-blanks")
    prompts = [prompt for pair in zip(PLAIN, BLANKS, strict=True) for prompt in pair]
    for search in ("greedy", "beams", "lookup", "contrastive"):
        requests = [Request(prompt, writing.decoding(**SEARCHES[search])) for prompt in prompts]
        with Scheduler(writing.model) as scheduler:
            scheduler.submit(*requests)
            finish(scheduler)
        answered_as_alone(writing.model, requests)


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", ["greedy", "contrastive", "lookup"])
def test_a_long_prompt_is_read_in_parts(kind: str, search: str) -> None:
    """Where tokens attend only to those before them; the others are read at once all the same."""
    writing = writer(kind)
    ids = (3, 5, 0, 9, 3, 5, 11, 4, 7, 7, 0, 0, 0, 0, 2, 8, 12)
    prompts = [Prompt(ids, (4, 9) if kind == "glm-blanks" else ()), writing.prompts[1], writing.prompts[2]]
    requests = [Request(prompt, writing.decoding(**SEARCHES[search])) for prompt in prompts]
    lengths: list[int] = []
    hook = writing.model.register_forward_pre_hook(
        lambda _, __, named: lengths.append(len(named["cache"].slot_mapping)), with_kwargs=True
    )
    with Scheduler(writing.model, prompt_tokens=3) as scheduler:
        scheduler.submit(*requests)
        scheduler.step()
        assert kind != "gpt2" or max(lengths[:1]) <= 3
        finish(scheduler)
    hook.remove()
    answered_as_alone(writing.model, requests)


def test_texts_go_on_while_a_long_prompt_is_read() -> None:
    writing = writer("gpt2")
    short = Request(PLAIN[1], writing.decoding(stop_token_ids=(), max_new_tokens=20), stream=True)
    long = Request(Prompt((3, 4, 5) * 6), writing.decoding(stop_token_ids=(), max_new_tokens=2))
    with Scheduler(writing.model, prompt_tokens=3) as scheduler:
        scheduler.submit(short)
        scheduler.step()
        scheduler.submit(long)
        for steps in range(2, 6):
            scheduler.step()
            assert len(short.certain[0]) == steps
            assert long not in scheduler.running
        finish(scheduler)
    answered_as_alone(writing.model, [short, long])


def test_a_bad_request_is_refused_and_the_others_of_its_call_are_not_added() -> None:
    writing = writer("gpt2")
    good, bad = Request(PLAIN[0], writing.decoding()), Request(Prompt((3, 999)), writing.decoding())
    with Scheduler(writing.model) as scheduler:
        with pytest.raises(InputError, match="999"):
            scheduler.submit(good, bad)
        assert not scheduler.has_work
        scheduler.submit(good)
        finish(scheduler)
    answered_as_alone(writing.model, [good])


# -- what goes wrong, and who goes early ------------------------------------------------------------------------------


def modes(model: torch.nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("ending", ["abandoned", "hook", "processor"])
def test_a_call_that_ends_early_leaves_the_model_as_it_was(ending: str) -> None:
    writing = writer("glm")
    wanted = generate(writing.model, writing.prompts, writing.decoding())
    writing.model.train()
    writing.model.get_submodule("model.blocks").eval()
    before = modes(writing.model)

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    if ending == "abandoned":
        events = stream(writing.model, writing.prompts, writing.decoding(stop_token_ids=()))
        next(events)
        assert modes(writing.model) != before
        events.close()  # type: ignore[attr-defined]
    else:
        options = {"stop": fail} if ending == "hook" else {"logits_processors": [fail]}
        with pytest.raises(ZeroDivisionError):
            generate(writing.model, writing.prompts, writing.decoding(stop_token_ids=()), **options)
    assert modes(writing.model) == before
    for ours, theirs in zip(generate(writing.model, writing.prompts, writing.decoding()), wanted, strict=True):
        same(ours, theirs)


@pytest.mark.parametrize("captured", [False, True])
def test_a_scheduler_may_be_left_with_work(captured: bool) -> None:
    """What waits, runs or is read then goes without answers, and its blocks are free."""
    writing = writer("gpt2")
    requests = [Request(PLAIN[0], writing.decoding(stop_token_ids=(), max_new_tokens=9)) for _ in range(3)]
    long = Request(Prompt((3, 4, 5) * 6), writing.decoding())
    for _ in range(2):
        with taped() if captured else looking_late(), Scheduler(writing.model, prompt_tokens=6) as scheduler:
            scheduler.submit(*requests[:2], long, requests[2])
            for _ in range(3):
                scheduler.step()
            assert scheduler.running
            assert scheduler.waiting
        assert scheduler.memory.is_free
    assert not any(request.done for request in requests)
    answered = Request(PLAIN[0], writing.decoding())
    with Scheduler(writing.model) as scheduler:
        scheduler.submit(answered)
        finish(scheduler)
    answered_as_alone(writing.model, [answered])


def test_threads_write_with_one_model_at_once() -> None:
    writing = writer("glm-blanks")
    requests = mixed(writing, "glm-blanks", random.Random(4), 8)
    wanted = [alone(writing.model, request) for request in requests]
    writing.model.train()
    found: dict[int, Any] = {}

    def answer(number: int) -> None:
        found[number] = alone(writing.model, requests[number])

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answers in enumerate(wanted):
        same(found[number], answers)
    assert writing.model.training


# -- misuse and errors ------------------------------------------------------------------------------------------------


def test_after_an_error_the_requests_begin_anew() -> None:
    writing = writer("gpt2")
    failing = iter([True])

    def fail_once(*_: Any) -> None:
        if next(failing, False):
            raise KeyboardInterrupt

    requests = [Request(prompt, writing.decoding()) for prompt in PLAIN]
    with writing_hook(writing.model, fail_once), Scheduler(writing.model) as scheduler:
        scheduler.submit(*requests)
        with pytest.raises(KeyboardInterrupt):
            scheduler.step()
        finish(scheduler)
        assert scheduler.memory.is_free
    answered_as_alone(writing.model, requests)


@contextmanager
def writing_hook(model: Any, hook: Any) -> Iterator[None]:
    handle = model.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_a_request_is_submitted_once_and_in_a_with_statement() -> None:
    writing = writer("gpt2")
    request, scheduler = Request(PLAIN[0], writing.decoding()), Scheduler(writing.model)
    with pytest.raises(InputError, match="with statement"):
        scheduler.submit(request)
    with scheduler:
        with pytest.raises(InputError, match="twice"):
            scheduler.submit(request, request)
        scheduler.submit(request)
        with pytest.raises(InputError, match="twice"):
            scheduler.submit(request)
        finish(scheduler)
        with pytest.raises(InputError, match="twice"):
            scheduler.submit(request)
        assert scheduler.memory.is_free
    with pytest.raises(InputError, match="with statement"):
        scheduler.step()


@pytest.mark.parametrize("options", [{"memory": "1GB"}, {"memory": True}, {"prompt_tokens": -1}])
def test_sizes_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected an integer"):
        Scheduler(writer("gpt2").model, **options)
