"""Texts of one batch with different adapters: each has the answers, or the vector, that it has alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.errors import InputError
from flagai.generation import Decoding, Prompt, Request, generate, generate_each
from flagai.model.quantization import quantize
from tests import tiny
from tests.adapters.made import with_adapters

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "top_k": 9, "seed": 5},
    "beams": {"num_beams": 3},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
    "drafts": {"prompt_lookup_num_tokens": 3},
}
_SPANS = ("GLMForSeq2Seq", "ChatGLMModel")
_CASES = [(name, search) for name in ("GPT2Model", "ChatGLM2Model") for search in SEARCHES]
_CASES += [("GLMForSeq2Seq", "greedy"), ("T5Model", "greedy"), ("T5Model", "beams"), ("ChatGLMModel", "greedy")]


def prompts(name: str) -> list[Prompt]:
    sizes = (3, 7, 2, 5, 4)
    found = [Prompt(tuple(tiny.ids(30, size, seed=size).tolist())) for size in sizes]
    if name in _SPANS:
        return [Prompt(prompt.ids, (1,)) for prompt in found]
    return found


def decoding(name: str, **options: Any) -> Decoding:
    blanks: dict[str, Any] = {"start_id": 32} if name in _SPANS else {}
    return Decoding(max_new_tokens=8, stop_token_ids=(33,), **blanks, **options)


@pytest.mark.parametrize(("name", "search"), _CASES)
def test_a_batch_that_mixes_adapters_equals_separate_ones(name: str, search: str) -> None:
    model = with_adapters(tiny.build(name), "a", "b")
    how, texts = decoding(name, **SEARCHES[search]), prompts(name)
    chosen = ["a", "base", "b", None, "a"]

    def alone(text: Prompt, adapter: str | None) -> Any:
        with model.use_adapter(adapter):
            return [(each.ids, round(each.score, 4)) for each in generate(model, [text], how)[0]]

    wanted = [alone(*pair) for pair in zip(texts, chosen, strict=True)]
    assert wanted != [alone(text, "base") for text in texts]
    requests = [Request(text, how, number=index, adapter=chosen[index]) for index, text in enumerate(texts)]
    found = [[(each.ids, round(each.score, 4)) for each in each.hypotheses] for each in generate_each(model, requests)]
    assert found == wanted
    model.merge_adapter("a")
    assert alone(texts[0], None) == wanted[0]
    with pytest.raises(InputError, match="'a' is merged"):
        next(generate_each(model, [Request(texts[0], how, adapter="b")]))


def test_weights_are_quantized_before_adapters_come() -> None:
    model = tiny.build("GPT2Model", n_embd=32, n_inner=32, n_head=4)
    quantize(model, "int8")
    with pytest.raises(InputError, match="whole weights"):
        model.add_adapter("a", 2)
    with pytest.raises(InputError, match="has adapters"):
        quantize(with_adapters(tiny.build("GPT2Model", n_embd=32, n_inner=32, n_head=4), "a"), "int8")


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantized_weights_stay_and_the_adapter_is_added(bits: str, tmp_path: Path) -> None:
    shape = {"n_embd": 32, "n_inner": 32, "n_head": 4}
    plain = with_adapters(tiny.build("GPT2Model", **shape), "a")
    plain.save_adapter(tmp_path / "a", "a")
    small = tiny.build("GPT2Model", **shape)
    quantize(small, bits)
    small.load_adapter(tmp_path / "a")
    ids = tiny.ids(30, 2, 6)
    with torch.inference_mode():
        without = small(ids)["logits"]
        with plain.use_adapter("a"), small.use_adapter("a"):
            wanted, found = plain(ids)["logits"], small(ids)["logits"]
    assert (found - wanted).norm() < 0.5 * (without - wanted).norm()
    with pytest.raises(InputError, match="without quantize"):
        small.merge_adapter()
