"""What must hold whatever the model and the way of searching."""

from typing import Any

import pytest
import torch

from flagai.generation import Hypothesis, Prompt, generate, stream
from tests import tiny
from tests.generation.mixing import looking_late
from tests.generation.toys import VOCABULARY, toy
from tests.generation.writers import GRID, KINDS, PLAIN, SEARCHES, Writer, writer


def same(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    assert [(answer.pieces, answer.finished) for answer in ours] == [
        (answer.pieces, answer.finished) for answer in theirs
    ]
    assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("kind", "search"), GRID)
def test_a_row_of_a_batch_equals_the_same_text_alone(kind: str, search: str) -> None:
    writing = writer(kind)
    decoding = writing.decoding(**SEARCHES[search])
    together = generate(writing.model, writing.prompts, decoding)
    for prompt, answers in zip(writing.prompts, together, strict=True):
        same(generate(writing.model, [prompt], decoding)[0], answers)


@pytest.mark.parametrize(("kind", "search"), GRID)
def test_answers_that_are_looked_at_a_step_late_are_the_same(kind: str, search: str) -> None:
    """As on a GPU: a text that is done is fed on until then."""
    writing = writer(kind)
    decoding = writing.decoding(**SEARCHES[search])
    wanted = generate(writing.model, writing.prompts, decoding)
    with looking_late():
        for ours, theirs in zip(generate(writing.model, writing.prompts, decoding), wanted, strict=True):
            same(ours, theirs)


@pytest.mark.parametrize(("kind", "search"), GRID)
def test_a_stream_tells_the_best_answer(kind: str, search: str) -> None:
    writing = writer(kind)
    decoding = writing.decoding(**SEARCHES[search])
    wanted = generate(writing.model, writing.prompts, decoding)
    told: dict[int, dict[int, tuple[int, ...]]] = {row: {} for row in range(len(wanted))}
    last = {}
    for event in stream(writing.model, writing.prompts, decoding):
        assert event.row not in last, "nothing comes after the answers"
        told[event.row][event.piece] = (*told[event.row].get(event.piece, ()), *event.ids)
        if event.hypotheses:
            last[event.row] = list(event.hypotheses)
    for row, answers in enumerate(wanted):
        same(last[row], answers)
        assert [told[row].get(piece, ()) for piece in range(len(answers[0].pieces))] == list(answers[0].pieces)


def test_a_greedy_stream_tells_every_token_at_once() -> None:
    writing = writer("gpt2")
    sizes = [
        len(event.ids) for event in stream(writing.model, writing.prompts[:1], writing.decoding(stop_token_ids=()))
    ]
    assert sizes == [1] * 7 + [0]


def test_beams_tell_their_stable_prefix_before_the_end() -> None:
    writing = writer("gpt2")
    events = list(stream(writing.model, writing.prompts, writing.decoding(num_beams=3, max_new_tokens=20)))
    ends = {event.row: place for place, event in enumerate(events) if event.hypotheses}
    early = [event for place, event in enumerate(events) if event.ids and place < min(ends.values())]
    assert early


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_computing_everything_anew(kind: str) -> None:
    """Without a cache: the whole text is run again for every token."""
    for seed in range(3):
        writing = writer(kind, seed)
        for prompt, answers in zip(
            writing.prompts, generate(writing.model, writing.prompts, writing.decoding()), strict=True
        ):
            assert answers[0].pieces == anew(kind, writing, prompt, 7, (2, 17))


@torch.no_grad()
def anew(kind: str, writing: Writer, prompt: Prompt, limit: int, stops: tuple[int, ...]) -> Any:
    """The greedy answer, by the plain definitions of the families' inputs."""
    pieces: list[tuple[int, ...]] = []
    model, context = writing.model, list(prompt.ids)
    answered: list[int] = []
    positions = [[place, 0] for place in range(len(context))]
    for blank in prompt.blanks or (None,):
        piece: list[int] = []
        if blank is not None:
            answered.append(writing.start_id or 0)
            positions.append([blank, 1])
        while len(piece) < limit:
            ids = torch.tensor([context + answered])
            place = torch.tensor(positions).T[None]
            if kind == "t5":
                output = model(torch.tensor([context]), decoder_input_ids=torch.tensor([[0, *answered]]))
            elif kind == "bert":
                segments = (torch.arange(ids.shape[1]) >= len(context)).long()[None]
                output = model(ids, segment_ids=segments)
            elif kind == "gpt2":
                output = model(ids)
            else:
                separator = torch.tensor(len(context) if prompt.blanks else 0)
                output = model(ids, place[:, 0] if kind == "glm-one-position" else place, separator)
            token = int(output["logits"][0, -1].argmax()) if blank is None else best_but(output, writing.start_id)
            if token in stops:
                break
            piece.append(token)
            answered.append(token)
            positions.append([len(context) + len(piece) - 1, 0] if blank is None else [blank, len(piece) + 1])
        pieces.append(tuple(piece))
    return tuple(pieces)


def best_but(output: dict[str, Any], banned: int | None) -> int:
    """The best token; a blank never holds another start of a blank."""
    logits = output["logits"][0, -1].clone()
    logits[banned] = -torch.inf
    return int(logits.argmax())


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_without_a_penalty_are_greedy(kind: str) -> None:
    writing = writer(kind)
    greedy = generate(writing.model, writing.prompts, writing.decoding())
    contrastive = generate(writing.model, writing.prompts, writing.decoding(penalty_alpha=0, top_k=5))
    for ours, theirs in zip(contrastive, greedy, strict=True):
        same(ours, theirs)


@torch.no_grad()
def contrastive_anew(model: Any, ids: tuple[int, ...], alpha: float, count: int, length: int) -> tuple[int, ...]:
    """Contrastive search by its definition, without a cache."""
    text = list(ids)
    for _ in range(length):
        output = model(torch.tensor([text]))
        context = torch.nn.functional.normalize(output["hidden_states"][0], dim=-1)
        chances, candidates = output["logits"][0, -1].softmax(-1).topk(count)
        worth = []
        for chance, token in zip(chances.tolist(), candidates.tolist(), strict=True):
            state = model(torch.tensor([[*text, token]]))["hidden_states"][0, -1]
            alike = float((context @ torch.nn.functional.normalize(state, dim=-1)).max())
            worth.append((1 - alpha) * chance - alpha * alike)
        text.append(int(candidates[worth.index(max(worth))]))
    return tuple(text[len(ids) :])


def test_contrastive_search_follows_its_definition() -> None:
    """Also in a batch: the padding of a shorter text is not among what a candidate must be unlike."""
    differ = 0
    for seed in range(4):
        model = tiny.build("GPT2Model", seed, pad_token_id=None)
        decoding = Writer(model, ()).decoding(stop_token_ids=(), penalty_alpha=0.7, top_k=5)
        answers = [row[0].ids for row in generate(model, PLAIN, decoding)]
        assert answers == [contrastive_anew(model, prompt.ids, 0.7, 5, 7) for prompt in PLAIN]
        greedy = generate(model, PLAIN, Writer(model, ()).decoding(stop_token_ids=()))
        differ += answers != [row[0].ids for row in greedy]
    assert differ == 4


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_the_best_alone_is_greedy(kind: str) -> None:
    writing = writer(kind)
    greedy = generate(writing.model, writing.prompts, writing.decoding())
    for options in ({"top_k": 1}, {"top_p": 0}):
        drawn = generate(writing.model, writing.prompts, writing.decoding(do_sample=True, seed=1, **options))
        for ours, theirs in zip(drawn, greedy, strict=True):
            same(ours, theirs)


@pytest.mark.parametrize("penalty", [0, 1])
@pytest.mark.parametrize("family", ["gpt", "bert", "t5", "glm"])
def test_wide_beams_find_the_best_of_all_answers(family: str, penalty: float) -> None:
    """So wide a beam loses nothing: its answers are the best of all 11 + 11 * 11 + ... that can be written."""
    length, stop, prompt = 3, 4, Prompt((1, 7, 8))
    model = toy(family, 0)
    options = {"max_new_tokens": length, "stop_token_ids": (stop,), "start_id": 1, "length_penalty": penalty}
    wide = generate(model, [prompt], Writer(model, ()).decoding(**options, num_beams=150, num_return_sequences=5))[0]
    best = sorted(exhaustive(model, prompt, length, stop, penalty), reverse=True)[:5]
    assert [answer.ids for answer in wide] == [ids for _, ids in best]
    assert [answer.score for answer in wide] == pytest.approx([score for score, _ in best], abs=1e-4)


def exhaustive(model: Any, prompt: Prompt, length: int, stop: int, penalty: float) -> list[tuple[float, Any]]:
    """All answers and their scores; the log-probabilities come from greedy runs that are forced along each answer."""
    found = []

    def grow(ids: tuple[int, ...], score: float) -> None:
        scores = next_scores(model, prompt, ids)
        found.append(((score + scores[stop]) / (len(ids) + 1) ** penalty, ids))
        for token in set(range(VOCABULARY)) - {stop}:
            if len(ids) + 1 == length:
                found.append(((score + scores[token]) / length**penalty, (*ids, token)))
            else:
                grow((*ids, token), score + scores[token])

    grow((), 0.0)
    return found


def next_scores(model: Any, prompt: Prompt, ids: tuple[int, ...]) -> list[float]:
    seen: list[list[float]] = []

    def follow(history: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(scores[0, 0].tolist())
        token = (*ids, 0)[len(seen) - 1]
        return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor([token]), 0)

    decoding = Writer(model, ()).decoding(stop_token_ids=(), start_id=1, max_new_tokens=len(ids) + 1)
    generate(model, [prompt], decoding, logits_processors=[follow])
    return seen[-1]
