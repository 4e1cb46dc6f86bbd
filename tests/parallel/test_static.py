"""Ranks that share a model decode by replay, and write what one process writes step by step."""

from pathlib import Path
from typing import Any

import pytest

from flagai.generation import static
from flagai.generation.static import steps_of
from flagai.parallel.world import make_mesh
from tests.generation.tape import TapeRecorder
from tests.parallel import test_generation as plain
from tests.parallel.ranks import on_ranks


def taped(patch: pytest.MonkeyPatch) -> TapeRecorder:
    tape = TapeRecorder()
    patch.setattr(static, "recorder_for", lambda _: tape)
    patch.setattr(static, "can_record", lambda _: True)
    return tape


def replayed(root: Path) -> dict[str, Any]:
    mesh = make_mesh(tp=2)
    found = {}
    for kind in plain.KINDS:
        with pytest.MonkeyPatch.context() as patch:
            tape = taped(patch)
            model = type(plain.make(kind)).from_pretrained(root / kind, mesh=mesh)
            first, again = (plain.answers(model, kind) for _ in range(2))
            assert tape.replayed > 20, kind
            assert steps_of(model).count
            assert first == again
            found[kind] = first
    return found


def test_two_ranks_replay_what_one_writes(tmp_path: Path) -> None:
    expected = {}
    for kind in plain.KINDS:
        model = plain.make(kind)
        model.save_pretrained(tmp_path / kind)
        expected[kind] = plain.answers(model, kind)
    for found in on_ranks(2, replayed, tmp_path):
        for kind, searches in expected.items():
            for search, wanted in searches.items():
                for ours, theirs in zip(found[kind][search], wanted, strict=True):
                    assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs], (kind, search)
                    scores = [answer.score for answer in theirs]
                    assert [answer.score for answer in ours] == pytest.approx(scores, abs=1e-3)
