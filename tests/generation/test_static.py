"""Decoding by replay gives what decoding step by step gives; CUDA graphs are played by a tape of operations."""

import copy
import gc
import threading
import weakref
from contextlib import suppress
from typing import Any

import pytest
import torch

from flagai.generation import generate, stream
from flagai.generation.decoding_state import DecodingState
from flagai.generation.replay import cuda_graph
from flagai.generation.replay.forward import StepKey
from flagai.generation.replay.step_pool import StepPool, step_pool
from flagai.model.layer.static_cache import bucket
from tests.generation.tape import TapeRecorder
from tests.generation.writers import GRID, SEARCHES, writer


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> TapeRecorder:
    recorder = TapeRecorder()
    monkeypatch.setattr(cuda_graph, "recorder_for", lambda _: recorder)
    monkeypatch.setattr(cuda_graph, "can_record", lambda _: True)
    return recorder


def same(got: Any, wanted: Any) -> None:
    for ours, theirs in zip(got, wanted, strict=True):
        assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        assert [answer.finished for answer in ours] == [answer.finished for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-4)


@pytest.mark.parametrize(("kind", "search"), GRID)
def test_replayed_steps_write_the_same(kind: str, search: str, tape: TapeRecorder) -> None:
    writing = writer(kind)
    # Room for all lanes in the tiny vocabularies, and steps enough for replays.
    options = {**SEARCHES[search], "max_new_tokens": 12}
    plain = writing.decoding(**options, cuda_graphs=False)
    wanted = generate(writing.model, writing.prompts, plain)
    assert not tape.recorded
    same(generate(writing.model, writing.prompts, writing.decoding(**options)), wanted)
    assert tape.replayed
    before = tape.recorded
    # The model's step is kept; only the choice is recorded anew.
    same(generate(writing.model, writing.prompts, writing.decoding(**options)), wanted)
    assert tape.recorded - before <= 1
    assert len(step_pool(writing.model).ready) == 1


def test_recordings_serve_other_texts_of_like_size(tape: TapeRecorder) -> None:
    """The second text is shorter: what the first one left in the buffers must not be seen."""
    writing = writer("bert")
    for prompts in (writing.prompts[2:3], writing.prompts[1:2], writing.prompts[2:3]):
        wanted = generate(writing.model, prompts, writing.decoding(cuda_graphs=False))
        same(generate(writing.model, prompts, writing.decoding()), wanted)
    assert len(step_pool(writing.model).ready) == 1
    assert tape.recorded == 1 + 3


def test_other_weights_are_recorded_anew(tape: TapeRecorder) -> None:
    writing = writer("gpt2")
    generate(writing.model, writing.prompts, writing.decoding())
    weight = writing.model.blocks[0].attention.q.weight
    with torch.no_grad():
        weight.mul_(-3)  # in place: the recording reads the new values
    wanted = generate(writing.model, writing.prompts, writing.decoding(cuda_graphs=False))
    before = tape.recorded
    same(generate(writing.model, writing.prompts, writing.decoding()), wanted)
    assert tape.recorded == before + 1
    weight.data = -weight.detach()  # elsewhere: it would read the old ones
    wanted = generate(writing.model, writing.prompts, writing.decoding(cuda_graphs=False))
    same(generate(writing.model, writing.prompts, writing.decoding()), wanted)
    assert tape.recorded == before + 3
    assert len(step_pool(writing.model).ready) == 1


@pytest.mark.usefixtures("tape")
def test_two_streams_of_one_model_do_not_meet() -> None:
    writing = writer("glm")
    decoding = writing.decoding(num_beams=3, stop_token_ids=())
    wanted = generate(
        writing.model, writing.prompts, writing.decoding(num_beams=3, stop_token_ids=(), cuda_graphs=False)
    )
    generate(writing.model, writing.prompts, decoding)
    both = [stream(writing.model, writing.prompts, decoding) for _ in range(2)]
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


def test_whoever_listens_to_a_module_is_called_at_every_step(tape: TapeRecorder) -> None:
    """A recording of before knows nothing of them, and one with them in it would go on when they have left."""
    writing, heard = writer("gpt2"), []
    plain, decoding = (writing.decoding(stop_token_ids=(), cuda_graphs=graphs) for graphs in (False, True))

    def turned(_: Any, __: Any, output: Any) -> Any:
        heard.append(1)
        return -output

    generate(writing.model, writing.prompts, decoding)
    before = tape.recorded
    handle = writing.model.blocks[1].register_forward_hook(turned)
    wanted = generate(writing.model, writing.prompts, plain)
    calls = len(heard)
    same(generate(writing.model, writing.prompts, decoding), wanted)
    assert len(heard) == 2 * calls
    assert tape.recorded == before
    handle.remove()
    wanted = generate(writing.model, writing.prompts, plain)
    same(generate(writing.model, writing.prompts, decoding), wanted)
    assert tape.recorded == before + 1, "the model's step of before is there still"


@pytest.mark.usefixtures("tape")
def test_two_threads_take_no_step_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, lent, meeting = writer("gpt2"), [], threading.Barrier(2)
    wanted = generate(writing.model, writing.prompts, writing.decoding(cuda_graphs=False))
    generate(writing.model, writing.prompts, writing.decoding())
    equal, use_recorded = StepKey.__eq__, DecodingState.use_recorded

    def compared(self: StepKey, other: object) -> bool:
        with suppress(threading.BrokenBarrierError):  # nobody comes while one is looking
            meeting.wait(0.3)
        return equal(self, other)

    def noted(self: DecodingState, step: Any) -> None:
        lent.append(step)
        use_recorded(self, step)

    monkeypatch.setattr(StepKey, "__eq__", compared)
    monkeypatch.setattr(DecodingState, "use_recorded", noted)
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


def test_each_device_has_a_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has moved from one GPU to another is recorded there."""
    monkeypatch.setattr(cuda_graph, "recorder_for", lambda _: TapeRecorder())
    steps, devices = StepPool(), (torch.device("cuda", 0), torch.device("cuda", 1))
    first, second = (steps.recorder(device) for device in devices)
    assert first is not second
    assert [steps.recorder(device) for device in devices] == [first, second]


@pytest.mark.usefixtures("tape")
def test_recordings_go_with_the_model_and_not_with_its_copies() -> None:
    writing = writer("gpt2")
    model = writing.model
    generate(model, writing.prompts, writing.decoding())
    assert len(step_pool(model).ready) == 1
    assert not step_pool(copy.deepcopy(model)).ready
    gone = weakref.ref(step_pool(model).ready[0])
    gc.disable()
    try:
        del model, writing
        assert gone() is None, "nothing but the model holds its recordings, and they do not hold it"
    finally:
        gc.enable()


@pytest.mark.usefixtures("tape")
def test_few_steps_are_kept() -> None:
    writing = writer("gpt2")
    for size in range(1, 4):
        for beams in (1, 2, 3):
            generate(writing.model, writing.prompts[:size], writing.decoding(num_beams=beams))
    assert len(step_pool(writing.model).ready) <= 4


@pytest.mark.parametrize(("size", "room"), [(1, 128), (128, 128), (129, 192), (193, 256), (257, 384), (385, 512)])
def test_capacities_are_few(size: int, room: int) -> None:
    assert bucket(size) == room
