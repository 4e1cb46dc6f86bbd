"""Long lists of texts are generated in windows: bounded memory, and the answers do not depend on the window."""

import weakref

import pytest
import torch

from flagai.errors import InputError
from flagai.generation import Decoding, Prompt
from flagai.model.predictor import prompt_windows
from flagai.model.predictor.prompt_windows import generate_in_windows
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
def small_windows(monkeypatch):
    monkeypatch.setattr(prompt_windows, "CPU_BYTES", 1)  # one text per window


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_answers_do_not_depend_on_the_window(predictor, monkeypatch, options):
    run, texts = predictor("GLM-large-ch", "GLMModel"), [*CHINESE, "北京是[MASK]的首都，[sMASK]。"]
    if "prompt_lookup_num_tokens" in options or "penalty_alpha" in options:
        texts = texts[:4]
    whole = run.write(texts, out_max_length=4, **options)
    monkeypatch.setattr(prompt_windows, "CPU_BYTES", 1)
    assert_same(run.write(texts, out_max_length=4, **options), whole)


def test_unseeded_draws_follow_torchs_generator_whatever_the_window(predictor, monkeypatch):
    run = predictor("GPT2-base-ch", "GPT2Model")
    found = []
    for budget in (2**30, 1):
        monkeypatch.setattr(prompt_windows, "CPU_BYTES", budget)
        torch.manual_seed(4)
        found.append(run.write(CHINESE, out_max_length=4, do_sample=True))
    assert found[0] == found[1]


def test_blanks_are_filled_in_windows(predictor, monkeypatch):
    run = predictor("GLM-large-ch", "GLMModel")
    texts = ["北京是[MASK]的首都", "[MASK]是法国的[MASK]，也是城市。", "今天[MASK]"]
    whole = run.fill_blanks(texts, num_return_sequences=2, out_max_length=3)
    monkeypatch.setattr(prompt_windows, "CPU_BYTES", 1)
    assert_same(run.fill_blanks(texts, num_return_sequences=2, out_max_length=3), whole)


@pytest.mark.usefixtures("small_windows")
def test_a_bad_prompt_is_named_by_its_own_number_before_anything_runs(predictor, monkeypatch):
    monkeypatch.setattr(prompt_windows, "generate", lambda *_, **__: pytest.fail("ran"))
    model = predictor("GPT2-base-ch", "GPT2Model").model
    with pytest.raises(InputError, match="Prompt 1 has 300 ids"):
        generate_in_windows(model, [Prompt((5, 6)), Prompt((5,) * 300)], Decoding(max_new_tokens=2))


@pytest.mark.parametrize("seeds", [5, None, [1], "ab", {1, 2}, [1, None], [1, -1]], ids=repr)
def test_seeds_are_one_for_each_text(predictor, seeds):
    run = predictor("GPT2-base-ch", "GPT2Model")
    if seeds is None:
        assert len(run.write(["今", "天"], out_max_length=2, do_sample=True, seeds=None)) == 2
        return
    with pytest.raises(InputError, match="seeds"):
        run.write(["今", "天"], out_max_length=2, do_sample=True, seeds=seeds)


def test_five_thousand_texts_hold_one_window_at_a_time(predictor, monkeypatch):
    run = predictor("GPT2-base-ch", "GPT2Model")
    rows, alive, caches = [], [], weakref.WeakSet()
    generate, new_cache = prompt_windows.generate, run.model.new_cache

    def counted(model, prompts, *arguments, **options):
        rows.append(len(prompts))
        alive.append(len(caches))
        return generate(model, prompts, *arguments, **options)

    def watched(capacity=0):
        cache = new_cache(capacity)
        if capacity:
            caches.add(cache)
        return cache

    monkeypatch.setattr(prompt_windows, "generate", counted)
    monkeypatch.setattr(run.model, "new_cache", watched)
    monkeypatch.setattr(prompt_windows, "CPU_BYTES", 2**27)
    texts = [f"{number}天" for number in range(5000)]
    answers = run.write(texts, out_max_length=1)
    assert len(answers) == 5000
    assert max(rows) < 500
    assert max(alive) <= 1
    assert answers[4321] == run.write(texts[4321], out_max_length=1)
