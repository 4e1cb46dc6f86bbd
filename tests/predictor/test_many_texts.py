"""Long lists of texts: an answer does not depend on how many others are written at the same time."""

import itertools

import pytest
import torch

from flagai.errors import InputError
from flagai.generation import Decoding, Prompt, Scheduler, engine, generate
from flagai.generation.memory import CacheMemory
from tests.predictor.test_writing import CHINESE

OPTIONS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "samples": {"do_sample": True, "num_return_sequences": 2, "seed": 3, "top_k": 5},
    "seeds": {"do_sample": True, "seeds": [5, 6, 7, 8, 9]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 3},
    "lookup": {"prompt_lookup_num_tokens": 3},
}


def parts(answers):
    """Texts, and scores apart: they differ in the last digit with the shape of a batch."""
    flat = [best for row in answers for best in (row if isinstance(row, list) else [row])]
    return [getattr(best, "text", best) for best in flat], [getattr(best, "score", 0.0) for best in flat]


def assert_same(found, expected):
    assert parts(found)[0] == parts(expected)[0]
    assert parts(found)[1] == pytest.approx(parts(expected)[1], abs=1e-4)


@pytest.fixture
def few_at_a_time(monkeypatch):
    """When it is called, the next calls have memory for few texts."""

    def little(model, **options):
        return Scheduler(model, **options | {"memory": 16 * CacheMemory(model, 2**30).bytes_per_block})

    return lambda: monkeypatch.setattr(engine, "Scheduler", little)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_answers_do_not_depend_on_how_many_are_written_at_once(predictor, few_at_a_time, options):
    run, texts = predictor("GLM-large-ch", "GLMModel"), [*CHINESE, "北京是[MASK]的首都，[sMASK]。"]
    if "prompt_lookup_num_tokens" in options or "penalty_alpha" in options:
        texts = texts[:4]
    whole = run.write(texts, out_max_length=4, **options)
    few_at_a_time()
    assert_same(run.write(texts, out_max_length=4, **options), whole)


def test_unseeded_draws_follow_torchs_generator(predictor, few_at_a_time):
    run = predictor("GPT2-base-ch", "GPT2Model")
    torch.manual_seed(4)
    whole = run.write(CHINESE, out_max_length=4, do_sample=True)
    few_at_a_time()
    torch.manual_seed(4)
    assert run.write(CHINESE, out_max_length=4, do_sample=True) == whole


def test_blanks_are_filled_few_texts_at_a_time(predictor, few_at_a_time):
    run = predictor("GLM-large-ch", "GLMModel")
    texts = ["北京是[MASK]的首都", "[MASK]是法国的[MASK]，也是城市。", "今天[MASK]"]
    whole = run.fill_blanks(texts, num_return_sequences=2, out_max_length=3)
    few_at_a_time()
    assert_same(run.fill_blanks(texts, num_return_sequences=2, out_max_length=3), whole)


def test_a_bad_prompt_is_named_by_its_own_number_before_anything_runs(predictor, monkeypatch):
    model = predictor("GPT2-base-ch", "GPT2Model").model
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(InputError, match="Prompt 1 has 300 ids"):
        generate(model, [Prompt((5, 6)), Prompt((5,) * 300)], Decoding(max_new_tokens=2))


@pytest.mark.parametrize("seeds", [5, None, [1], "ab", {1, 2}, [1, None], [1, -1]], ids=repr)
def test_seeds_are_one_for_each_text(predictor, seeds):
    run = predictor("GPT2-base-ch", "GPT2Model")
    if seeds is None:
        assert len(run.write(["今", "天"], out_max_length=2, do_sample=True, seeds=None)) == 2
        return
    with pytest.raises(InputError, match="seeds"):
        run.write(["今", "天"], out_max_length=2, do_sample=True, seeds=seeds)


def test_five_thousand_texts_are_answered(predictor):
    run = predictor("GPT2-base-ch", "GPT2Model")
    texts = [f"{number}天" for number in range(5000)]
    answers = run.write(texts, out_max_length=1)
    assert len(answers) == 5000
    assert answers[4321] == run.write(texts[4321], out_max_length=1)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_texts_one_after_the_other_are_answered_as_a_list(predictor, options):
    """Blanks and plain texts mixed, from an iterator."""
    run, texts = predictor("GLM-large-ch", "GLMModel"), [*CHINESE, "北京是[MASK]的首都，[sMASK]。"]
    if "seeds" in options:
        with pytest.raises(InputError, match="give seed, not seeds"):
            run.write_each(texts, **options)
        return
    wanted = run.write(texts, out_max_length=4, **{"num_return_sequences": 1, **options})
    found = list(run.write_each(iter(texts), out_max_length=4, **options))
    assert_same(found, wanted)


def test_an_endless_iterator_of_texts_is_taken_as_it_is_needed(predictor):
    run = predictor("GPT2-base-ch", "GPT2Model")
    answers = run.write_each((f"{number}天" for number in itertools.count()), out_max_length=2)
    found = [best.text for best, *_ in itertools.islice(answers, 30)]
    assert found == run.write([f"{number}天" for number in range(30)], out_max_length=2)
    answers.close()
