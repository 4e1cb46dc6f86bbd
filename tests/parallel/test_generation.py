"""Ranks that share a model write what one process writes."""

from pathlib import Path
from typing import Any

import pytest

from flagai.generation import Hypothesis, generate
from flagai.parallel import layers
from flagai.parallel.collectives import all_gather
from flagai.parallel.world import make_mesh
from tests.generation.writers import BLANKS, PLAIN, Writer, lively
from tests.parallel.comparing import SHARED
from tests.parallel.ranks import on_ranks

KINDS = {
    "gpt2": ("GPT2Model", PLAIN, None),
    "bert": ("BertForSeq2seq", PLAIN, None),
    "glm": ("GLMForSeq2Seq", PLAIN, None),
    "glm-blanks": ("GLMModel", BLANKS, 14),
    "t5": ("T5Model", PLAIN, None),
}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 5, "num_return_sequences": 3, "temperature": 1.5, "top_k": 9, "top_p": 0.9},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "beams": {"num_beams": 4, "num_return_sequences": 3},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 4},
}
Answers = list[list[Hypothesis]]


def answers(model: Any, kind: str) -> dict[str, Answers]:
    _, prompts, start = KINDS[kind]
    writing = Writer(model, prompts, start)
    return {name: generate(model, prompts, writing.decoding(**options)) for name, options in SEARCHES.items()}


def written(root: Path) -> dict[str, dict[str, Answers]]:
    mesh = make_mesh(tp=2)
    models = {kind: type(make(kind)).from_pretrained(root / kind, mesh=mesh) for kind in KINDS}
    return {kind: answers(model, kind) for kind, model in models.items()}


def make(kind: str) -> Any:
    name = KINDS[kind][0]
    family = name[:3].lower() if name.startswith("GLM") else {"GPT": "gpt2", "Ber": "bert", "T5M": "t5"}[name[:3]]
    return lively(name, **SHARED[family], **({"spell_length": None} if family == "glm" else {}))


def test_two_ranks_write_what_one_writes(tmp_path: Path) -> None:
    expected = {}
    for kind in KINDS:
        model = make(kind)
        model.save_pretrained(tmp_path / kind)
        expected[kind] = answers(model, kind)
    for found in on_ranks(2, written, tmp_path):
        for kind, searches in expected.items():
            for search, wanted in searches.items():
                for ours, theirs in zip(found[kind][search], wanted, strict=True):
                    assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs], (kind, search)
                    scores = [answer.score for answer in theirs]
                    assert [answer.score for answer in ours] == pytest.approx(scores, abs=1e-3)


def drawn(root: Path) -> list[tuple[int, ...]]:
    model = type(make("gpt2")).from_pretrained(root / "gpt2", mesh=make_mesh(tp=2))
    decoding = Writer(model, PLAIN).decoding(do_sample=True, temperature=3.0)
    return [best.ids for (best,) in generate(model, PLAIN, decoding)]


def test_ranks_without_a_seed_agree_on_one(tmp_path: Path) -> None:
    make("gpt2").save_pretrained(tmp_path / "gpt2")
    first, second = on_ranks(2, drawn, tmp_path)
    assert first == second


def gathered(root: Path) -> dict[str, int]:
    """How often logits are gathered."""
    model = type(make("gpt2")).from_pretrained(root / "gpt2", mesh=make_mesh(tp=2))
    counts = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, options in {**SEARCHES, "careful": {"suppress_tokens": (3,)}}.items():
            calls: list[int] = []

            def spy(*arguments: Any, calls: list[int] = calls) -> Any:
                calls.append(1)
                return all_gather(*arguments)

            patch.setattr(layers, "all_gather", spy)
            generate(model, PLAIN, Writer(model, PLAIN).decoding(**options))
            counts[name] = len(calls)
    return counts


def test_greedy_search_gathers_no_logits(tmp_path: Path) -> None:
    make("gpt2").save_pretrained(tmp_path / "gpt2")
    for counts in on_ranks(2, gathered, tmp_path):
        assert not counts.pop("greedy")
        assert all(counts.values())
