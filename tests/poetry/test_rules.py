"""Poems under rules keep them, whatever a model prefers; by single characters, by longer tokens, and in batches."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import flagai
from flagai.data.prepare.poem import PoemForm
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.model.predictor.predictor import Predictor
from flagai.poetry import PoemRules, faults
from flagai.poetry.verse import poem_data
from tests import folders, tiny

MINI = Path(flagai.__file__).parent / "models/GLM-mini-ch"
FORMS = list(PoemForm)
PROMPTS = [f"春江花月夜：{form}" for form in FORMS]


@functools.cache
def mini() -> Any:
    """A tiny GLM with GLM-mini-ch's vocabulary."""
    model = tiny.build("GLMForSeq2Seq", vocab_size=6272, max_sequence_length=384, spell_length=None)
    return SimpleNamespace(model=model.eval(), tokenizer=Tokenizer.from_folder(MINI))


@functools.cache
def mini_rules(*, strict: bool) -> PoemRules:
    return PoemRules(mini().model, mini().tokenizer, strict=strict)


def poems(rules: PoemRules, scores_of: Any, forms: list[PoemForm]) -> list[str]:
    """What the best scores write, without a model; every poem must end by itself."""
    tokenizer, size = mini().tokenizer, mini().model.config.vocab_size
    end, pad = tokenizer.get_command_id("eop"), tokenizer.get_command_id("pad")
    rows = [[*tokenizer.encode(f"花：{form}"), tokenizer.get_command_id("sep")] for form in forms]
    written: list[list[int]] = [[] for _ in rows]
    for step in range(66):
        width = max(len(row) + step for row in rows)
        ids = torch.full((len(rows), 1, width), -1)
        for number, (row, own) in enumerate(zip(rows, written, strict=True)):
            ids[number, 0, width - len(row) - step :] = torch.tensor(row + own)
        found = rules(ids, scores_of(step, len(rows), size)[:, None])[:, 0]
        assert (found > -torch.inf).any(1).all()
        for own, token in zip(written, found.argmax(1).tolist(), strict=True):
            own.append(pad if own and own[-1] in (end, pad) else token)
    assert all(end in own for own in written)
    return [tokenizer.decode(own[: own.index(end)]) for own in written]


def random_scores(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda _, rows, size: torch.randn(rows, size, generator=generator) * 3


def stubborn_scores(characters: str) -> Any:
    """Nothing but these characters, the first ones most."""
    preferred = [mini().tokenizer.find_token(character) for character in characters]

    def scores(_: int, rows: int, size: int) -> torch.Tensor:
        found = torch.randn(rows, size, generator=torch.Generator().manual_seed(1))
        found[:, [each for each in preferred if each is not None]] += 1000
        return found

    return scores


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_every_poem_keeps_the_rules_whatever_the_scores(seed: int, strict: bool) -> None:
    forms = FORMS * 4
    for poem, form in zip(poems(mini_rules(strict=strict), random_scores(seed), forms), forms, strict=True):
        assert faults(poem, form, strict=strict) == [], poem


@pytest.mark.parametrize("rhyme", ["江", "佳", "咸", "肴", "东"])
def test_a_model_that_wants_one_rhyme_everywhere_does_not_get_stuck(rhyme: str) -> None:
    scores = stubborn_scores(poem_data().rhymes[rhyme])
    for poem, form in zip(poems(mini_rules(strict=True), scores, FORMS), FORMS, strict=True):
        assert faults(poem, form) == [], poem


def test_a_model_that_wants_one_character_does_not_get_it() -> None:
    free = poems(mini_rules(strict=False), stubborn_scores("春"), FORMS)
    for poem, form in zip(free, FORMS, strict=True):
        assert poem.startswith("春春")  # a doubled character is allowed
        assert poem.count("春") == 2
        assert faults(poem, form, strict=False) == []


def test_all_four_patterns_occur() -> None:
    tones = poem_data().tones
    found = set()
    for poem in poems(mini_rules(strict=True), random_scores(9), [PoemForm.seven_quatrain] * 40):
        found.add((tones[poem[1]], tones[poem[6]]))
    assert {("平", "平"), ("平", "仄"), ("仄", "平"), ("仄", "仄")} <= found


# -- through a model --------------------------------------------------------------------------------------------------


def test_forms_are_mixed_in_a_batch_and_written_as_alone() -> None:
    rules, run = mini_rules(strict=True), Predictor(mini().model, mini().tokenizer)
    options: dict[str, Any] = {"out_max_length": 80, "logits_processors": [rules]}
    for more in ({"do_sample": True, "seed": 3}, {"num_beams": 3}):
        together = run.write(PROMPTS, **options, **more)
        assert [faults(poem, form) for poem, form in zip(together, FORMS, strict=True)] == [[]] * 4
        assert together[2] == run.write(PROMPTS[2], **options, **more)
        assert together[1] == "".join(run.stream(PROMPTS[1], **options, **more))


def test_several_poems_come_best_first() -> None:
    found = flagai.load("poetry")("雪夜", seed=2, num_return_sequences=4)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert all(faults(each.text, "七言绝句") == [] for each in found)
    assert len({each.text for each in found}) == 4


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("GLM-large-ch", "GLMForSeq2Seq"),
        ("GPT2-base-ch", "GPT2Model"),
        pytest.param("RoBERTa-base-ch", "BertForSeq2seq", marks=pytest.mark.slow),
    ],
)
def test_other_vocabularies(name: str, class_name: str, tmp_path: Path) -> None:
    """GLM-large-ch's tokens have up to four characters, and write a half-width comma."""
    model, tokenizer = folders.model(name, class_name).eval(), folders.tokenizer(tmp_path, name)
    rules = PoemRules(model, tokenizer)
    found = Predictor(model, tokenizer).write(
        PROMPTS[:2], out_max_length=40, do_sample=True, seed=1, logits_processors=[rules]
    )
    assert [faults(poem, form) for poem, form in zip(found, FORMS[:2], strict=True)] == [[], []], found


def test_an_encoder_hides_the_form(tmp_path: Path) -> None:
    model, tokenizer = folders.model("T5-base-ch", "T5Model").eval(), folders.tokenizer(tmp_path, "T5-base-ch")
    with pytest.raises(InputError, match=r"T5Model needs the form of its poems"):
        PoemRules(model, tokenizer)
    rules = PoemRules(model, tokenizer, form=FORMS[0])
    poem = Predictor(model, tokenizer).write(
        PROMPTS[0], out_max_length=40, do_sample=True, seed=1, logits_processors=[rules]
    )
    assert faults(poem, FORMS[0]) == []


def test_what_cannot_write_poems_says_so(tmp_path: Path) -> None:
    model, tokenizer = folders.model("GPT2-base-en", "GPT2Model"), folders.tokenizer(tmp_path, "GPT2-base-en")
    with pytest.raises(InputError, match=r"The vocabulary has \d+ characters for places of the kind .*, too few"):
        PoemRules(model, tokenizer)
    with pytest.raises(InputError, match=r"cannot generate text"):
        PoemRules(folders.model("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3), tokenizer)
    with pytest.raises(InputError, match=r"strict"):
        flagai.load("poetry")("花", strict="yes")  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"strict"):
        flagai.load("title", "GLM-mini-ch")("花", strict=True)
