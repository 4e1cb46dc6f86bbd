"""Functions of the caller that end pieces or change scores, and the mode in which a model writes."""

from typing import Any

import pytest
import torch

from flagai.errors import InputError
from flagai.generation import generate, stream
from tests.generation.writers import GRID, KINDS, PLAIN, SEARCHES, writer


@pytest.mark.parametrize(("kind", "search"), GRID)
def test_the_stop_hook_ends_pieces(kind: str, search: str) -> None:
    """Every piece ends with the first id above 20; the ids before are as they were."""
    writing = writer(kind)
    decoding = writing.decoding(**SEARCHES[search])

    def above(row: int, piece: tuple[int, ...]) -> bool:
        assert not any(token > 20 for token in piece[:-1]), "never asked about what has ended"
        return piece[-1] > 20

    ended = 0
    for answers in generate(writing.model, writing.prompts, decoding, stop=above):
        for answer in answers:
            for piece in answer.pieces:
                assert not any(token > 20 for token in piece[:-1])
            ended += bool(answer.pieces[-1] and answer.pieces[-1][-1] > 20 and answer.finished)
    assert ended or search == "forced beams"  # there, stop ids may be the better ends


def test_the_stop_hook_is_told_rows_and_ids() -> None:
    writing = writer("gpt2")
    asked: list[tuple[int, tuple[int, ...]]] = []
    decoding = writing.decoding(stop_token_ids=())
    answers = generate(writing.model, writing.prompts, decoding, stop=lambda *given: asked.append(given) or False)
    wanted = [(row, found[0].ids[:count]) for count in range(1, 8) for row, found in enumerate(answers)]
    assert asked == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_processors_see_text_and_answer(kind: str) -> None:
    writing = writer(kind)
    seen: list[torch.Tensor] = []

    def watch(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert ids.shape[:2] == scores.shape[:2]
        assert torch.allclose(scores.exp().sum(-1), torch.ones(()), atol=1e-4)
        seen.append(ids)
        return scores.index_fill(-1, torch.tensor([28]), -torch.inf)

    answers = generate(
        writing.model, writing.prompts, writing.decoding(stop_token_ids=(30,)), logits_processors=[watch]
    )
    assert not any(28 in answer.ids for row in answers for answer in row)
    start = [writing.start_id] if kind == "glm-blanks" else [0] if kind == "t5" else []
    for row, prompt in enumerate(writing.prompts):
        first = [token for token in seen[0][row, 0].tolist() if token >= 0]
        assert first == ([] if kind == "t5" else list(prompt.ids)) + start
        assert seen[1][row, 0, -1] == answers[row][0].ids[0]


def test_nothing_allowed_gives_an_empty_answer() -> None:
    for options in ({}, {"num_beams": 3}, {"do_sample": True}, {"penalty_alpha": 0.5, "top_k": 2}):
        writing = writer("gpt2")
        decoding = writing.decoding(**options)
        forbid = [lambda _, scores: torch.full_like(scores, -torch.inf)]
        answers = generate(writing.model, PLAIN, decoding, logits_processors=forbid)
        assert [row[0].pieces for row in answers] == [((),)] * 4
        assert not any(row[0].finished for row in answers)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True}])
def test_processors_return_numbers(value: float, options: dict[str, Any]) -> None:
    writing = writer("gpt2")

    def spoil(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(-1, torch.tensor([5]), value)

    with pytest.raises(InputError, match=f"returned {value} as a score of token 5"):
        generate(writing.model, PLAIN, writing.decoding(**options), logits_processors=[spoil])


def test_the_model_keeps_its_mode() -> None:
    writing = writer("gpt2")
    wanted = generate(writing.model, PLAIN, writing.decoding())
    writing.model.train()
    writing.model.blocks[0].eval()
    assert generate(writing.model, PLAIN, writing.decoding()) == wanted, "dropout is off"
    assert writing.model.training
    assert not writing.model.blocks[0].training
    events = stream(writing.model, PLAIN, writing.decoding())
    next(events)
    events.close()
    assert writing.model.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_answers_that_overlap_are_written_without_dropout() -> None:
    writing = writer("gpt2")
    wanted = list(stream(writing.model, PLAIN, writing.decoding()))
    writing.model.train()
    first, second = (stream(writing.model, PLAIN, writing.decoding()) for _ in range(2))
    next(first)
    found = [next(second)]
    first.close()
    assert [*found, *second] == wanted, "the end of one answer turned dropout on for another"
    assert writing.model.training
