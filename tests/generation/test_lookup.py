"""Drafts from the text change how many steps an answer takes, and nothing else."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flagai.auto_model.auto_loader import AutoLoader
from flagai.generation import Hypothesis, Prompt, generate, stream
from flagai.generation.prompt_lookup import look_up
from flagai.model.predictor.predictor import Predictor
from tests import tiny
from tests.generation.mixing import looking_late
from tests.generation.writers import KINDS, Writer, writer

TEXT = "为了加强对金银的管理，保证国家经济建设对金银的需要，特制定本条例。本条例所称金银，包括矿藏生产金银。"
writer_of = functools.cache(writer)


def same(ours: list[list[Hypothesis]], theirs: list[list[Hypothesis]]) -> None:
    for (our,), (their,) in zip(ours, theirs, strict=True):
        assert (our.pieces, our.finished) == (their.pieces, their.finished)
        assert our.score == pytest.approx(their.score, rel=1e-4, abs=2e-4)


@contextmanager
def steps_of(model: Any) -> Iterator[list[int]]:
    """How many tokens each step of a model has; prompts are no steps."""
    widths: list[int] = []

    def count(_: Any, given: Any, named: Any, output: Any) -> None:
        if named["cache"].attn_mask.table is not None:
            widths.append(output["logits"].shape[1])

    handle = model.register_forward_hook(count, with_kwargs=True)
    try:
        yield widths
    finally:
        handle.remove()


# -- drafts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "draft", "worth"),
    [
        ([1, 2, 3, 4, 5, 6, 2, 3], [4, 5, 6, 2], 3),  # two tokens match: a chain of four with the newest one
        ([2, 3, 8, 7, 1, 2, 3, 9, 1, 2, 3], [9, 1, 2, 3], 7),  # the longest match, of three, and not the first of two
        ([3, 8, 7, 3, 9, 7, 3], [9, 7, 3, 9], 3),
        ([5, 8, 1, 2, 5, 9, 4, 5], [9, 4, 5, 9], 1),  # the latest of the matches
        ([4, 7, 7], [7, 7, 7, 7], 1),  # what repeats itself goes on
        ([-1, -1, 1, 2, 1], [2, 1, 2, 1], 1),
        ([1, 2, 3], None, 0),
        ([-1, -1, 5], None, 0),
        ([-1, 6, 5], None, 0),
        ([3], None, 0),
    ],
    ids=str,
)
def test_what_followed_the_newest_tokens_is_the_draft(ids: list[int], draft: list[int] | None, worth: int) -> None:
    # The same with more room in front and behind, beside a text that says nothing.
    for rows, end in (
        ([ids], len(ids) - 1),
        ([[-1] * 3 + ids + ids, list(range(20, 23 + 2 * len(ids)))], len(ids) + 2),
    ):
        drafts, matched = look_up(torch.tensor(rows), torch.tensor([[end]] * len(rows)), 4)
        assert 2 ** int(matched[0]) - 1 == worth
        assert draft is None or drafts[0].tolist() == draft
        assert (drafts >= 0).all()
        assert not matched[1:].any()


# -- answers ----------------------------------------------------------------------------------------------------------

OPTIONS = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(1, 14),
        "min_new_tokens": st.integers(0, 1),
        "stop_token_ids": st.sampled_from([(2, 17), (11,), (2, 3, 4, 5, 6, 7, 8)]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.7, 0.6]),
        "no_repeat_ngram_size": st.sampled_from([0, 0, 1, 2, 3]),
        "bad_words_ids": st.sampled_from([(), ((5,), (28, 7)), ((4, 4), (3, 5, 7))]),
        "suppress_tokens": st.sampled_from([(), (9, 12)]),
    },
    optional={"seed": st.integers(0, 9)},
)
TEXTS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=16), min_size=1, max_size=3)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(TEXTS, OPTIONS, st.integers(1, 9), st.integers(0, 3), st.integers(0, 40), st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_without_drafts(
    kind: str, texts: Any, options: Any, draft: int, seed: int, modulus: int, data: Any
) -> None:
    """Whatever the text, the options and the hooks; and each text has the answer that it has alone."""
    writing = writer_of(kind, seed)
    blanks: list[tuple[int, ...]] = [()] * len(texts)
    if kind == "glm-blanks":
        blanks = [tuple(data.draw(st.lists(st.integers(0, len(text) - 1), min_size=1, max_size=3))) for text in texts]
    prompts = [Prompt(tuple(text), places) for text, places in zip(texts, blanks, strict=True)]
    if "seed" in options:
        options = {**options, "do_sample": True, "temperature": 1.5, "top_p": 0.9}

    def run(prompts: list[Prompt], **more: Any) -> tuple[list[list[Hypothesis]], list[list[Any]]]:
        asked: list[list[Any]] = [[] for _ in prompts]

        def stop(row: int, ids: tuple[int, ...]) -> bool:
            asked[row].append(ids)
            return sum(ids) % modulus == 0

        hooks = {"stop": stop} if modulus else {}
        return generate(writing.model, prompts, writing.decoding(**options, **more), **hooks), asked

    plain, wanted = run(prompts)
    answers, asked = run(prompts, prompt_lookup_num_tokens=draft)
    same(answers, plain)
    assert asked == wanted
    for row, prompt in enumerate(prompts):
        same(run([prompt], prompt_lookup_num_tokens=draft)[0], [plain[row]])


@pytest.mark.parametrize("kind", KINDS)
def test_processors_see_every_beginning_of_the_draft(kind: str) -> None:
    """A processor of the caller, which depends on the whole history, is asked about what a greedy search asks."""
    writing = writer(kind)

    def like_the_third_last(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        found = ids[..., -3:-2]
        return scores.scatter_add(-1, found.clamp(min=0), 6 * (found >= 0).to(scores.dtype))

    def answers(**options: Any) -> list[list[Hypothesis]]:
        decoding = writing.decoding(max_new_tokens=15, stop_token_ids=(17,), **options)
        return generate(writing.model, writing.prompts, decoding, logits_processors=[like_the_third_last])

    plain = answers()
    with steps_of(writing.model) as widths:
        same(answers(prompt_lookup_num_tokens=4), plain)
    assert max(widths) > len(writing.prompts)


@pytest.mark.parametrize("kind", ["gpt2", "bert", "glm", "glm-blanks"])
def test_the_room_is_used_to_the_last_position(kind: str) -> None:
    """Drafts that reach beyond the model's positions harm nothing."""
    writing = writer(kind)
    most = {"gpt2": 40, "bert": 40}.get(kind, 33) - 2
    prompt = Prompt((3, 4, 5), (1, 2) if kind == "glm-blanks" else ())
    options = {"min_new_tokens": most, "max_new_tokens": most}
    plain = generate(writing.model, [prompt], writing.decoding(**options))
    for draft in (1, 15):
        answers = generate(writing.model, [prompt], writing.decoding(**options, prompt_lookup_num_tokens=draft))
        same(answers, plain)
        assert {len(piece) for piece in answers[0][0].pieces} == {most}


def test_nothing_allowed_gives_an_empty_answer() -> None:
    writing = writer("gpt2")
    forbid = [lambda _, scores: torch.full_like(scores, -torch.inf)]
    answers = generate(
        writing.model, writing.prompts, writing.decoding(prompt_lookup_num_tokens=3), logits_processors=forbid
    )
    assert [(row[0].pieces, row[0].finished) for row in answers] == [(((),), False)] * 4


# -- steps ------------------------------------------------------------------------------------------------------------


def copying(period: int) -> Any:
    """A GPT-2 that writes the token that stood ``period`` places before, which it finds through its slot table."""

    class Copying(tiny.CLASSES["GPT2Model"]):  # type: ignore[misc]
        def forward(self, input_ids: Any, position_ids: Any, cache: Any, **_: Any) -> Any:
            entries = torch.stack([input_ids, position_ids], dim=-1)[:, None].float()
            kept = cache.append(0, entries, entries)[0]
            table = cache.attn_mask.table
            if table is None:  # a prompt, whose logits nobody wants
                return {"logits": torch.zeros(*input_ids.shape, 37), "hidden_states": entries[:, 0]}
            ids, places = kept[table.slots.long(), 0].unbind(-1)  # [T, L] each
            seen = torch.arange(ids.shape[1]) < table.lengths[:, None]
            wanted = seen & (places == position_ids[0, :, None] + 1 - period)
            token = torch.where(wanted, ids, 0).sum(-1).long()
            logits = torch.nn.functional.one_hot(token, 37).float()[None] * 9
            return {"logits": logits, "hidden_states": logits}

    return Copying(tiny.config("GPT2Model", n_positions=200)).eval()


def test_a_text_that_is_copied_takes_few_steps() -> None:
    text = (3, 5, 8, 13, 21, 34, 18, 15, 33, 11, 7, 29, 19, 4)
    model, prompts = copying(len(text)), [Prompt(text), Prompt((9, *text))]
    decoding = Writer(model, ()).decoding(stop_token_ids=(), max_new_tokens=28)
    plain = generate(model, prompts, decoding)
    assert plain[0][0].ids == text * 2
    for draft, most in ((1, 17), (3, 10), (7, 8)):
        with steps_of(model) as widths:
            same(generate(model, prompts[:1], Writer(model, ()).decoding(
                stop_token_ids=(), max_new_tokens=28, prompt_lookup_num_tokens=draft)), plain[:1])  # fmt: skip
        assert len(widths) <= most
        assert max(widths) == draft + 1
    same(
        generate(
            model, prompts, Writer(model, ()).decoding(stop_token_ids=(), max_new_tokens=28, prompt_lookup_num_tokens=7)
        ),
        plain,
    )


def test_a_text_that_is_done_is_fed_on_for_a_step() -> None:
    """As on a GPU, where that is known a step later: it must neither change nor run out of room."""
    model, end = copying(30), 36
    easy = (*range(27), end, 27, 28)
    hard = (1, 2, 2, 1, 1, 1, 2, 1, 2, 2, 2, 2, 1, 2, 1, 1, 2, 2, 1, 2, 2, 2, 1, 1, 2, 1, 2, 1, 1, 2)
    prompts = [Prompt(easy), Prompt(hard)]
    options = {"stop_token_ids": (end,), "max_new_tokens": 29}
    plain = generate(model, prompts, Writer(model, ()).decoding(**options))
    assert [row[0].ids for row in plain] == [easy[:27], hard[:29]]
    with looking_late():
        same(generate(model, prompts, Writer(model, ()).decoding(**options, prompt_lookup_num_tokens=15)), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_answer_is_fed_on_for_a_step(kind: str) -> None:
    for seed in range(3):
        writing = writer_of(kind, seed)
        options = {"stop_token_ids": (17,), "max_new_tokens": 12, "do_sample": True, "seed": seed}
        plain = generate(writing.model, writing.prompts, writing.decoding(**options))
        decoding = writing.decoding(**options, prompt_lookup_num_tokens=4)
        with looking_late():
            same(generate(writing.model, writing.prompts, decoding), plain)


def test_where_nothing_is_copied_steps_are_no_wider() -> None:
    """A draft is only made where something matches, from the second step on."""
    writing = writer("gpt2")
    decoding = writing.decoding(
        no_repeat_ngram_size=1, stop_token_ids=(), max_new_tokens=20, prompt_lookup_num_tokens=9
    )
    with steps_of(writing.model) as widths:
        generate(writing.model, [Prompt((3, 4, 5))], decoding)
    assert widths[1:] == [1] * 19


def test_titles_of_laws_take_fewer_steps() -> None:
    """Real weights and a real text, whose title repeats some of its words."""
    loader = AutoLoader("title-generation", model_name="GLM-mini-ch")
    run = Predictor(loader.get_model(), loader.get_tokenizer())
    found: list[tuple[Any, int]] = []
    for options in ({}, {"prompt_lookup_num_tokens": 7}):
        with steps_of(run.model) as widths:
            (best,) = run.write(TEXT, out_max_length=40, num_return_sequences=1, **options)
            found.append((best, len(widths)))
    (plain, all_steps), (fast, steps) = found
    assert fast.text == plain.text
    assert fast.score == pytest.approx(plain.score, abs=1e-3)
    assert steps < all_steps
    assert "".join(run.stream(TEXT, out_max_length=40, prompt_lookup_num_tokens=7)) == plain.text


def test_a_stream_tells_tokens_in_order_and_several_at_once() -> None:
    text = (3, 5, 8, 13, 21, 34, 18, 15, 33, 11)
    model = copying(len(text))
    decoding = Writer(model, ()).decoding(stop_token_ids=(), max_new_tokens=20, prompt_lookup_num_tokens=7)
    events = list(stream(model, [Prompt(text)], decoding))
    assert [token for event in events for token in event.ids] == list(text * 2)
    assert max(len(event.ids) for event in events) == 8
    assert events[-1].hypotheses
