"""Decoding by replay gives what decoding step by step gives; CUDA graphs are played by a tape of operations."""

from typing import Any

import pytest

from flagai.generation import generate, static
from flagai.generation.static import steps_of
from tests.generation.tape import TapeRecorder
from tests.generation.writers import KINDS, SEARCHES, writer


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> TapeRecorder:
    recorder = TapeRecorder()
    monkeypatch.setattr(static, "recorder_for", lambda _: recorder)
    monkeypatch.setattr(static, "can_record", lambda _: True)
    return recorder


def same(got: Any, wanted: Any) -> None:
    for ours, theirs in zip(got, wanted, strict=True):
        assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        assert [answer.finished for answer in ours] == [answer.finished for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-4)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", KINDS)
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
    assert steps_of(writing.model).count == 1
