"""Options, hooks and their limits."""

from dataclasses import replace
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from flagai import generation
from flagai.errors import InputError
from flagai.generation import Decoding, Prompt, Request, generate, generate_each, remaining_positions, stream
from flagai.generation.keywords import AdapterChoice, GenerationOptions, SamplingOptions, SharedOptions
from flagai.generation.options import RENAMED_IDS
from flagai.generation.processors import no_repeat_ngram
from flagai.generation.sampling import sample
from flagai.generation.types import LogitsProcessor
from tests import tiny
from tests.generation.writers import PLAIN, Writer, lively, writer

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0}, "temperature is 0; expected a number, more than 0"),
    ({"temperature": -1.5}, "temperature is -1.5"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"temperature": "hot"}, "temperature is 'hot'; expected a number"),
    ({"top_p": 1.5}, "top_p is 1.5; expected a number, at least 0 and at most 1"),
    ({"top_k": -1}, "top_k is -1; expected an integer, at least 0"),
    ({"top_k": 2.5}, "top_k is 2.5; expected an integer"),
    ({"repetition_penalty": 0}, "repetition_penalty is 0"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0; expected an integer, at least 1"),
    ({"num_beams": True}, "num_beams is True"),
    ({"length_penalty": float("inf")}, "length_penalty is inf"),
    ({"early_stopping": "maybe"}, "early_stopping is 'maybe'"),
    ({"processors": ("top_k", "top_q")}, "top_q"),
    ({"stop_token_ids": (1, -2)}, "stop_token_ids holds -2"),
    ({"stop_token_ids": 5}, "stop_token_ids is 5; expected a sequence"),
    ({"bad_words_ids": ((),)}, "empty sequence"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences 3 exceeds num_beams 2"),
    ({"num_return_sequences": 3}, "needs do_sample=True or num_beams"),
    ({"do_sample": True, "num_beams": 2}, "choose one"),
    ({"penalty_alpha": 0.5}, "needs top_k"),
    ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens 5 exceeds max_new_tokens 4"),
    ({"num_beams": 4, "num_beam_groups": 3}, "not a multiple of 3 groups"),
    ({"force_words_ids": ((1,),)}, "force_words_ids needs num_beams"),
    ({"seed": 1, "seeds": (1,)}, "not both"),
    (
        {"prompt_lookup_num_tokens": -1},
        "prompt_lookup_num_tokens is -1; expected an integer, at least 0 and at most 63",
    ),
    ({"prompt_lookup_num_tokens": 4, "num_beams": 2}, "prompt_lookup_num_tokens needs one answer"),
    (
        {"prompt_lookup_num_tokens": 4, "num_return_sequences": 2, "do_sample": True},
        "prompt_lookup_num_tokens needs one answer",
    ),
    (
        {"prompt_lookup_num_tokens": 4, "penalty_alpha": 0.5, "top_k": 2},
        "prompt_lookup_num_tokens needs one answer",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Decoding(**options)
    assert message in str(error.value)


def test_whole_numbers_do_for_real_ones_and_lists_for_tuples() -> None:
    decoding = Decoding(
        temperature=2, top_p=1, repetition_penalty=1, stop_token_ids=[1], bad_words_ids=[[1, 2]], top_k=0
    )
    assert (decoding.stop_token_ids, decoding.bad_words_ids) == ((1,), ((1, 2),))
    hash(decoding)


FORMER: dict[str, tuple[Any, dict[str, Any], str]] = {
    "n_best": (2, {"num_beams": 2}, "num_return_sequences"),
    "beam_groups": (2, {"num_beams": 2}, "num_beam_groups"),
    "contrastive_alpha": (0.5, {"top_k": 2}, "penalty_alpha"),
    "prompt_lookup": (3, {}, "prompt_lookup_num_tokens"),
    "stop_ids": ((1,), {}, "stop_token_ids"),
    "banned_ids": ((1,), {}, "suppress_tokens"),
    "bad_words": (((1, 2),), {}, "bad_words_ids"),
    "forced_words": (((1, 2),), {"num_beams": 2}, "force_words_ids"),
    "forced_choices": ((((1, 2), (3,)),), {"num_beams": 2}, "force_words_ids"),
}


@pytest.mark.parametrize("old", RENAMED_IDS)
def test_former_names_mean_the_same_and_warn(old: str) -> None:
    value, others, new = FORMER[old]
    with pytest.warns(FutureWarning, match=f"{old} is now called {new}") as told:
        found = Decoding(**{old: value}, **others)
    assert found == Decoding(**{new: value}, **others) != Decoding(**others)
    assert told[0].filename == __file__
    with pytest.raises(InputError, match=f"{old} is the former name of {new}"):
        Decoding(**{old: value, new: value}, **others)


def test_the_keywords_of_users_have_the_types_of_the_engine() -> None:
    """Options in texts are the predictor's own; all others are Decoding's fields."""
    texts = {"bad_words", "force_words", "stop", "logits_processors", "truncation", "adapter"}
    own = get_type_hints(Decoding)
    keywords = get_type_hints(GenerationOptions, localns={"LogitsProcessor": LogitsProcessor})
    assert keywords.keys() - texts <= own.keys()
    assert {name: kind for name, kind in keywords.items() if name not in {*texts, "seeds"}}.items() <= own.items()
    documented = "".join(kind.__doc__ for kind in (AdapterChoice, SharedOptions, SamplingOptions, GenerationOptions))
    assert [name for name in keywords if f"        {name}: " not in documented] == []


def test_a_word_may_be_forced_in_several_spellings() -> None:
    found = Decoding(num_beams=2, force_words_ids=[[1, 2], [[3], [4, 5]]])
    assert found.forced == (((1, 2),), ((3,), (4, 5)))
    assert replace(found, num_beams=3).forced == found.forced


def test_the_former_name_of_a_function_warns() -> None:
    with pytest.warns(FutureWarning, match="now flagai.generation.remaining_positions"):
        assert generation.room is remaining_positions


def refused(message: str, kind: str = "gpt2", prompts: Any = PLAIN, **options: Any) -> None:
    writing = writer(kind)
    with pytest.raises(InputError) as error:
        generate(writing.model, prompts, writing.decoding(**options))
    assert message in str(error.value)


def test_impossible_prompts_are_refused() -> None:
    refused("Prompt 1 has no ids", prompts=[Prompt((1,)), Prompt(())])
    refused("Only GLM fills blanks", prompts=[Prompt((1, 2), (1,))])
    refused("a blank at 2", "glm-blanks", [Prompt((1, 2), (2,))])
    refused("start_id", "glm-blanks", [Prompt((1, 2), (1,))], start_id=None)
    refused("stop_token_ids", "glm-blanks", [Prompt((1, 2), (1,))], stop_token_ids=())
    refused("seeds has 2 entries for 4 prompts", do_sample=True, seeds=(1, 2))
    for option in ("stop_token_ids", "suppress_tokens"):
        refused(f"{option} has the id 37, but the model's tokens are 0..36", **{option: (37,)})
    refused("bad_words_ids has the id 40", bad_words_ids=((1, 40),))
    refused("force_words_ids has the id 41", num_beams=2, force_words_ids=((41,),))
    refused("start_id has the id 50", "glm-blanks", [Prompt((1, 2), (1,))], start_id=50)
    refused("Prompt 1 has the id -1", prompts=[Prompt((1, 2)), Prompt((3, -1))])
    assert generate(writer("gpt2").model, []) == []
    assert list(stream(writer("gpt2").model, [])) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": Prompt((1,))}, "expected prompts: a list"),
        ({"prompts": 5}, "prompts is 5; expected prompts"),
        ({"prompts": [(1, 2)]}, r"Prompt 0 is \(1, 2\) \(tuple\); expected a Prompt"),
        ({"prompts": [Prompt((1,)), Prompt("ab")]}, r"Prompt 1 holds 'a' \(str\); expected integers"),
        ({"prompts": [Prompt((1, True))]}, "holds True"),
        ({"prompts": [Prompt((1, 2.0))]}, "holds 2.0"),
        ({"prompts": [Prompt(torch.tensor([1, 2]))]}, "holds tensor"),
        ({"decoding": {"num_beams": 2}}, "decoding is {'num_beams': 2}; expected Decoding"),
        ({"logits_processors": print}, "as logits_processors; expected a list"),
        ({"stop": 3}, r"3 \(int\) as stop; expected a function"),
    ],
)
def test_wrong_types_are_refused(given: dict[str, Any], message: str) -> None:
    for run in (generate, lambda *args, **options: list(stream(*args, **options))):
        with pytest.raises(InputError, match=message):
            run(writer("gpt2").model, **{"prompts": PLAIN[:1], **given})


def test_requests_of_wrong_types_are_refused() -> None:
    model = writer("gpt2").model
    with pytest.raises(InputError, match=r"Prompt\(ids=.* \(Prompt\); expected a Request"):
        next(generate_each(model, PLAIN))
    with pytest.raises(InputError, match="requests is 3; expected requests"):
        next(generate_each(model, 3))
    with pytest.raises(InputError, match="Prompt 0 is one text, but its decoding has seeds"):
        next(generate_each(model, [Request(PLAIN[0], Decoding(do_sample=True, seeds=(1,)))]))
    with pytest.raises(InputError, match="Prompt has 5 as ids"):
        Prompt(5)


def test_prompts_may_come_from_a_generator_and_ids_from_numpy() -> None:
    writing = writer("gpt2")
    wanted = generate(writing.model, PLAIN, writing.decoding())
    assert generate(writing.model, (Prompt(np.array(each.ids)) for each in PLAIN), writing.decoding()) == wanted
    assert list(stream(writing.model, iter(PLAIN), writing.decoding()))


def test_a_model_that_does_not_write_is_refused() -> None:
    with pytest.raises(InputError, match="A BertModel cannot generate"):
        generate(tiny.build("BertModel"), PLAIN)


@pytest.mark.parametrize("kind", ["gpt2", "bert", "glm", "glm-blanks"])
def test_the_room_is_used_to_the_last_position(kind: str) -> None:
    writing = writer(kind)
    rows = {"gpt2": 40, "bert": 40}.get(kind, 33)
    prompt = Prompt((3, 4, 5), (1, 2) if kind == "glm-blanks" else ())
    most = rows - 2
    assert remaining_positions(writing.model, prompt) == most
    options = {"start_id": writing.start_id, "min_new_tokens": most, "max_new_tokens": most}
    answer = generate(writing.model, [prompt], writing.decoding(**options))[0][0]
    assert {len(piece) for piece in answer.pieces} == {most}
    refused(f"only {rows} positions: there is room for {most}", kind, [prompt], max_new_tokens=most + 1)
    refused("there is room for 0", kind, [Prompt([3] * (rows + 1), prompt.blanks)], max_new_tokens=1)


def test_t5_has_no_limit() -> None:
    writing = writer("t5")
    assert remaining_positions(writing.model, PLAIN[0]) is None
    assert (
        len(generate(writing.model, PLAIN[:1], writing.decoding(stop_token_ids=(), max_new_tokens=150))[0][0].ids)
        == 150
    )


def test_no_id_twice_says_nothing_about_padding() -> None:
    """Where a history is shorter than others, there are no ids that could be repeated."""
    scores = no_repeat_ngram(torch.tensor([[[-1, -1, 3]], [[2, 3, 3]]]), torch.zeros(2, 1, 5), 1)
    assert (scores == -torch.inf).nonzero().tolist() == [[0, 0, 3], [1, 0, 2], [1, 0, 3]]


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_seeds_repeat_and_differ() -> None:
    writing = Writer(lively("GPT2Model"), (Prompt((3,)),) * 3)

    def drawn(**options: Any) -> list[list[tuple[int, ...]]]:
        decoding = writing.decoding(do_sample=True, temperature=3, stop_token_ids=(), **options)
        return [[answer.ids for answer in row] for row in generate(writing.model, writing.prompts, decoding)]

    assert drawn(seed=4) == drawn(seed=4) == drawn(seeds=(4, 4, 4))
    apart = drawn(seeds=(4, 5, 6))
    assert len({row[0] for row in apart}) == 3
    assert sorted(drawn(seed=4, num_return_sequences=3)[0]) == sorted(row[0] for row in apart), (
        "the n-th sample has seed + n"
    )
    torch.manual_seed(0)
    first = drawn()
    assert first != drawn()
    torch.manual_seed(0)
    assert first == drawn()


def test_impossible_tokens_are_never_drawn() -> None:
    nothing = -torch.inf
    scores = torch.tensor([[[nothing, 0.0, nothing, 0.0, nothing]]])
    uniforms = torch.tensor([[0.0, 0.4999, 0.5, 1 - 2**-24]]).double()
    assert sample(scores, uniforms).tolist() == [[1, 1, 3, 3]]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    model, count = lively("GPT2Model"), 4000
    with torch.no_grad():
        wanted = (model(torch.tensor([[3, 5]]))["logits"][0, -1] / 2).softmax(-1)
    decoding = Decoding(max_new_tokens=1, do_sample=True, temperature=2, seed=0, num_return_sequences=count)
    drawn = [answer.ids[0] for answer in generate(model, [Prompt((3, 5))], decoding)[0]]
    found = torch.bincount(torch.tensor(drawn), minlength=37) / count
    assert (found - wanted).abs().max() < 4 * (0.25 / count) ** 0.5


def test_samples_are_scored_by_the_model_whatever_the_temperature() -> None:
    model = lively("GPT2Model")
    for temperature in (0.5, 3):
        decoding = Decoding(max_new_tokens=1, do_sample=True, temperature=temperature, seed=1)
        answer = generate(model, [Prompt((3, 5))], decoding)[0][0]
        with torch.no_grad():
            wanted = model(torch.tensor([[3, 5]]))["logits"][0, -1].log_softmax(-1)[answer.ids[0]]
        assert answer.score == pytest.approx(float(wanted), abs=1e-5)
