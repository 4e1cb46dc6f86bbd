"""Captured steps give what steps give that are run as they are; CUDA graphs are played by a tape of operations."""

import copy
import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch

from flagai.generation import Prompt, generate, stream
from flagai.generation.replay.forward import Addresses
from flagai.generation.replay.steps import CapturedSteps, captured_steps
from flagai.generation.request import Request
from flagai.generation.scheduler import Scheduler
from tests.generation.mixing import finish
from tests.generation.tape import TapeRecorder, taped
from tests.generation.writers import GRID, SEARCHES, Writer, writer


@pytest.fixture
def tape() -> Iterator[TapeRecorder]:
    with taped() as recorder:
        yield recorder


def same(got: Any, wanted: Any) -> None:
    for ours, theirs in zip(got, wanted, strict=True):
        assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        assert [answer.finished for answer in ours] == [answer.finished for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-4)


def plain(writing: Writer, prompts: Sequence[Prompt] | None = None, **options: Any) -> Any:
    return generate(
        writing.model,
        writing.prompts if prompts is None else prompts,
        writing.decoding(**options, cuda_graphs=False),
    )


@pytest.mark.parametrize(("kind", "search"), GRID)
def test_replayed_steps_write_the_same(kind: str, search: str, tape: TapeRecorder) -> None:
    writing = writer(kind)
    options = {**SEARCHES[search], "max_new_tokens": 12}
    wanted = plain(writing, **options)
    assert not tape.recorded
    same(generate(writing.model, writing.prompts, writing.decoding(**options)), wanted)
    assert tape.replayed
    before = tape.recorded
    # What the first call has captured serves the second, which captures a size that the first had in one step only.
    same(generate(writing.model, writing.prompts, writing.decoding(**options)), wanted)
    assert tape.recorded - before <= 3
    assert len(captured_steps(writing.model)) == 1


def test_recordings_serve_other_texts_of_like_size(tape: TapeRecorder) -> None:
    """The second text is shorter: what the first one left in the buffers must not be seen."""
    writing = writer("bert")
    for prompts in (writing.prompts[2:3], writing.prompts[1:2], writing.prompts[2:3]):
        same(generate(writing.model, prompts, writing.decoding()), plain(writing, prompts))
    assert tape.recorded == 4, "the forward pass, the search step, its inputs, and a prompt"


def test_answers_of_any_length_up_to_a_bucket_share_recordings(tape: TapeRecorder) -> None:
    writing = writer("gpt2")
    for length in (4, 7, 15):
        options = {"max_new_tokens": length, "stop_token_ids": ()}
        same(generate(writing.model, writing.prompts, writing.decoding(**options)), plain(writing, **options))
    assert tape.recorded == 4, "the forward pass, the search step, its inputs, and prompts"


def test_texts_that_come_and_go_are_replayed(tape: TapeRecorder) -> None:
    """Rows are empty, filled and empty again between replays."""
    writing = writer("glm")
    lengths = (3, 11, 5, 8, 2, 9)
    prompts = [writing.prompts[number % 4] for number in range(len(lengths))]
    decodings = [writing.decoding(max_new_tokens=length, stop_token_ids=()) for length in lengths]
    requests = [Request(*each) for each in zip(prompts, decodings, strict=True)]
    waiting = list(requests)
    with Scheduler(writing.model) as scheduler:
        while waiting or scheduler.has_work:
            if waiting:
                scheduler.submit(waiting.pop(0))
            scheduler.step()
    for request, prompt, length in zip(requests, prompts, lengths, strict=True):
        same([request.hypotheses], plain(writing, [prompt], max_new_tokens=length, stop_token_ids=()))
    assert tape.recorded <= 2 * 4, "batches of 1, 2, 4 and 8 rows"


@pytest.mark.usefixtures("tape")
def test_batches_of_different_searches_share_a_forward_pass() -> None:
    writing = writer("glm")
    searches = [SEARCHES[name] for name in ("greedy", "beams", "sampling", "contrastive", "lookup", "greedy")]
    requests = [
        Request(writing.prompts[number % 4], writing.decoding(**{**options, "max_new_tokens": 4 + number}))
        for number, options in enumerate(searches)
    ]
    with Scheduler(writing.model) as scheduler:
        scheduler.submit(*requests)
        finish(scheduler)
    for request in requests:
        decoding = replace(request.decoding, cuda_graphs=False)
        same([request.hypotheses], generate(writing.model, [request.prompt], decoding))


def test_a_cache_that_grows_is_captured_anew(tape: TapeRecorder) -> None:
    """It lies elsewhere then; texts that are running go on."""
    writing = writer("gpt2")
    first, *others = (
        Request(writing.prompts[number % 4], writing.decoding(max_new_tokens=18, stop_token_ids=(), num_beams=4))
        for number in range(16)
    )
    with Scheduler(writing.model) as scheduler:
        scheduler.submit(first)
        for _ in range(6):
            scheduler.step()
        version, recorded = scheduler.memory.version, tape.recorded
        scheduler.submit(*others)
        finish(scheduler)
        assert scheduler.memory.version > version
        assert tape.recorded > recorded
    for request in (first, *others):
        wanted = plain(writing, [request.prompt], max_new_tokens=18, stop_token_ids=(), num_beams=4)
        same([request.hypotheses], wanted)


def test_other_weights_are_recorded_anew(tape: TapeRecorder) -> None:
    writing = writer("gpt2")
    generate(writing.model, writing.prompts, writing.decoding())
    weight = writing.model.blocks[0].attention.q.weight
    with torch.no_grad():
        weight.mul_(-3)  # in place: the recording reads the new values
    before = tape.recorded
    same(generate(writing.model, writing.prompts, writing.decoding()), plain(writing))
    assert tape.recorded == before
    weight.data = -weight.detach()  # elsewhere: it would read the old ones
    same(generate(writing.model, writing.prompts, writing.decoding()), plain(writing))
    assert tape.recorded > before
    assert len(captured_steps(writing.model)) == 1


@pytest.mark.usefixtures("tape")
def test_two_streams_of_one_model_do_not_meet() -> None:
    writing = writer("glm")
    options = {"num_beams": 3, "stop_token_ids": ()}
    wanted = plain(writing, **options)
    generate(writing.model, writing.prompts, writing.decoding(**options))
    both = [stream(writing.model, writing.prompts, writing.decoding(**options)) for _ in range(2)]
    ends: list[dict[int, Any]] = [{}, {}]
    for events in zip(*both, strict=True):
        for found, event in zip(ends, events, strict=True):
            if event.hypotheses:
                found[event.row] = list(event.hypotheses)
    for found in ends:
        same([found[row] for row in range(len(wanted))], wanted)


@pytest.mark.usefixtures("tape")
def test_hooks_are_asked_at_every_step() -> None:
    writing = writer("gpt2")

    def longest(row: int, ids: tuple[int, ...]) -> bool:
        return len(ids) == row + 2

    answers = generate(writing.model, writing.prompts, writing.decoding(stop_token_ids=()), stop=longest)
    assert [len(row[0].ids) for row in answers] == [2, 3, 4, 5]


@pytest.mark.usefixtures("tape")
def test_steps_are_not_used_again_after_an_error() -> None:
    """Who has which block, and what the buffers hold, is not known then; nor are those of an abandoned stream."""
    writing = writer("gpt2")
    decoding = writing.decoding(stop_token_ids=())
    generate(writing.model, writing.prompts, decoding)
    (before,) = captured_steps(writing.model)

    def fail(row: int, ids: tuple[int, ...]) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(writing.model, writing.prompts, decoding, stop=fail)
    assert before not in captured_steps(writing.model)
    events = stream(writing.model, writing.prompts, decoding)
    next(events)
    events.close()  # type: ignore[attr-defined]
    same(generate(writing.model, writing.prompts, decoding), plain(writing, stop_token_ids=()))
    (after,) = captured_steps(writing.model)
    assert after.memory.is_free


def test_whoever_listens_to_a_module_is_called_at_every_step(tape: TapeRecorder) -> None:
    """A recording of before knows nothing of them, and one with them in it would go on when they have left."""
    writing, heard = writer("gpt2"), []

    def turned(_: Any, __: Any, output: Any) -> Any:
        heard.append(1)
        return -output

    decoding = writing.decoding(stop_token_ids=())
    generate(writing.model, writing.prompts, decoding)
    before = tape.recorded
    handle = writing.model.blocks[1].register_forward_hook(turned)
    wanted = plain(writing, stop_token_ids=())
    calls = len(heard)
    same(generate(writing.model, writing.prompts, decoding), wanted)
    assert len(heard) == 2 * calls
    handle.remove()
    same(generate(writing.model, writing.prompts, decoding), plain(writing, stop_token_ids=()))
    assert tape.recorded == before, "the captured steps of before are there still"


@pytest.mark.usefixtures("tape")
def test_two_threads_take_no_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, lent, meeting = writer("gpt2"), [], threading.Barrier(2)
    wanted = plain(writing)
    generate(writing.model, writing.prompts, writing.decoding())
    equal, entered = Addresses.__eq__, Scheduler.__enter__

    def compared(self: Addresses, other: object) -> bool:
        with suppress(threading.BrokenBarrierError):  # nobody comes while one is looking
            meeting.wait(0.3)
        return equal(self, other)

    def noted(self: Scheduler) -> Scheduler:
        entered(self)
        lent.append(self._steps)
        return self

    monkeypatch.setattr(Addresses, "__eq__", compared)
    monkeypatch.setattr(Scheduler, "__enter__", noted)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(generate(writing.model, writing.prompts, writing.decoding())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lent[0] is not lent[1]
    for answers in found:
        same(answers, wanted)
    assert len(found) == 2


@pytest.mark.usefixtures("tape")
def test_recordings_go_with_the_model_and_not_with_its_copies() -> None:
    writing = writer("gpt2")
    model = writing.model
    generate(model, writing.prompts, writing.decoding())
    assert len(captured_steps(model)) == 1
    assert not captured_steps(copy.deepcopy(model))
    gone = weakref.ref(captured_steps(model)[0])
    gc.disable()
    try:
        del model, writing
        assert gone() is None, "nothing but the model holds its recordings, and they do not hold it"
    finally:
        gc.enable()


@pytest.mark.usefixtures("tape")
def test_few_sizes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flagai.generation.replay.steps.KEPT", 4)
    writing = writer("gpt2")
    for size in range(1, 4):
        for beams in (1, 2, 3):
            generate(writing.model, writing.prompts[:size], writing.decoding(num_beams=beams))
    (steps,) = captured_steps(writing.model)
    assert isinstance(steps, CapturedSteps)
    assert len(steps.forwards) <= 4
