"""Ranks that share a model decode by replay, and write what one process writes step by step."""

from pathlib import Path
from typing import Any

import pytest

from flagai.generation import generate
from flagai.generation.replay.steps import captured_steps
from flagai.parallel.world import make_mesh
from tests.generation.tape import taped
from tests.parallel import test_generation as plain
from tests.parallel.ranks import on_ranks

# The steps of the others are like GPT-2's.
KINDS = ("gpt2", "glm-blanks", "t5")


def replayed(root: Path) -> dict[str, Any]:
    mesh = make_mesh(tp=2)
    found = {}
    for kind in KINDS:
        with taped() as tape:
            model = type(plain.make(kind)).from_pretrained(root / kind, mesh=mesh)
            first, again = (plain.answers(model, kind) for _ in range(2))
            assert tape.replayed > 20, kind
            assert captured_steps(model)
            assert first == again
            found[kind] = first
    return found


def test_two_ranks_replay_what_one_writes(tmp_path: Path) -> None:
    expected = {}
    for kind in KINDS:
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


def at_odds(root: Path) -> list[Any]:
    """One rank would not record; later, one rank's weights have moved: all do the same all the same."""
    mesh = make_mesh(tp=2)
    first = mesh.get_local_rank() == 0
    with taped() as tape:
        model = type(plain.make("gpt2")).from_pretrained(root / "gpt2", mesh=mesh)
        writing = plain.Writer(model, plain.PLAIN)
        found = [generate(model, writing.prompts, writing.decoding(cuda_graphs=first))]
        assert not tape.recorded
        found.append(generate(model, writing.prompts, writing.decoding()))
        assert tape.recorded == 2
        if first:
            weight = model.blocks[0].attention.q.weight
            weight._local_tensor = weight._local_tensor.clone()
        found.append(generate(model, writing.prompts, writing.decoding()))
        assert tape.recorded == 4
    return found


def test_ranks_at_odds_vote(tmp_path: Path) -> None:
    model = plain.make("gpt2")
    model.save_pretrained(tmp_path / "gpt2")
    writing = plain.Writer(model, plain.PLAIN)
    wanted = [[answer.pieces for answer in row] for row in generate(model, writing.prompts, writing.decoding())]
    for found in on_ranks(2, at_odds, tmp_path):
        for answers in found:
            assert [[answer.pieces for answer in row] for row in answers] == wanted
