"""Whether a request's answers are the same alone and among others, for many.py: float32, random mixed requests."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks._items import made, noted
from benchmarks._many_common import LAYERS, POSITIONS, VOCABULARY, WIDTH, Plan
from flagai.generation import Decoding, Prompt, generate
from flagai.generation.request import Request
from flagai.generation.scheduler import Scheduler
from flagai.model.glm_model import GLMModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.t5_model import T5Model

_IDS, _LAYERS, _WIDTH, _LONGEST, _NEW = 500, 3, 128, 96, 40
_ENDS = tuple(range(20, 60))  # answers end early and at different steps
_MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "GLM": (GLMModel, {LAYERS: _LAYERS, VOCABULARY: _IDS, WIDTH: _WIDTH, "num_attention_heads": 4, POSITIONS: 256}),
    "GPT-2": (GPT2Model, {"model_type": "gpt2", "vocab_size": _IDS, "n_embd": _WIDTH, "n_layer": _LAYERS, "n_head": 4,
                          "n_positions": 256, "bos_token_id": 1}),
    "T5": (T5Model, {"model_type": "t5", "vocab_size": _IDS, "d_model": _WIDTH, "d_kv": 32, "d_ff": 2 * _WIDTH,
                     "num_layers": _LAYERS, "num_heads": 4, "decoder_start_token_id": 0}),
}  # fmt: skip


def equal(plan: Plan) -> dict[str, Any]:
    """Differences among mixed requests of three families, with memory for all of them and for a few at a time."""
    found: dict[str, Any] = {}
    for name, (cls, config) in _MODELS.items():
        model = made(cls, config, torch.float32, plan.device)
        count, longest = plan.checks // len(_MODELS), min(_NEW, plan.answers[-1])
        asked = [_request(number, longest, blanks=name == "GLM") for number in range(count)]
        noted(found, name, lambda model=model, asked=asked: _compare(model, asked))
    found["different"] = sum(each.get("different", each.get("requests", 1)) for each in found.values())
    return found


Asked = tuple[str, Prompt, Decoding]


def _request(number: int, longest: int, *, blanks: bool) -> Asked:
    """A random text with random options; kinds take turns."""
    chance = random.Random(number)
    length = min(max(round(20 * 2.718 ** chance.gauss(0, 1)), 2), _LONGEST)
    ids = tuple(chance.randrange(10, _IDS) for _ in range(length))
    kinds: dict[str, dict[str, Any]] = {
        "greedy": {},
        "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 2},
        "sampling": {"do_sample": True, "seed": chance.randrange(1000), "num_return_sequences": chance.randint(1, 4),
                     "top_k": 50, "top_p": 0.9, "temperature": chance.choice((0.7, 1.3))},
        "beams": {"num_beams": chance.randint(2, 4), "length_penalty": chance.choice((0.0, 1.0))},
        "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
        "lookup": {"prompt_lookup_num_tokens": chance.randint(1, 5)},
    }  # fmt: skip
    if blanks:
        kinds["blanks"] = {"start_id": 5}  # they need stops
    kind = list(kinds)[number % len(kinds)]
    most = chance.randint(3, longest)
    text = Prompt(ids, tuple(sorted(chance.sample(range(length), 2)))) if kind == "blanks" else Prompt(ids)
    ends = _ENDS if kind == "blanks" or chance.random() < 0.7 else ()
    return kind, text, Decoding(max_new_tokens=most, stop_token_ids=ends, **kinds[kind])


def _compare(model: Any, asked: Sequence[Asked]) -> dict[str, Any]:
    alone = [_ids(generate(model, [text], decoding)[0]) for _, text, decoding in asked]
    found: dict[str, Any] = {"requests": len(asked), "kinds": dict(Counter(kind for kind, _, _ in asked))}
    wrong: Counter[str] = Counter()
    for way, memory in (("together", None), ("with little memory", _little(model))):
        answers = _together(model, asked, memory)
        kinds = [kind for (kind, _, _), one, other in zip(asked, alone, answers, strict=True) if one != other]
        wrong.update(f"{kind}, {way}" for kind in kinds)
    return found | {"different": wrong.total(), **({"which": dict(wrong)} if wrong else {})}


def _little(model: Any) -> int:
    """Bytes for the largest request and little more, so that requests are put back and answered anew."""
    token_bytes = 2 * _LAYERS * _WIDTH * 4
    return (2 * _LONGEST + 5 * (2 * _NEW + 32)) * token_bytes


def _together(model: Any, asked: Sequence[Asked], memory: int | None) -> list[Any]:
    """All of them by one scheduler, which they enter at random steps."""
    requests = [Request(text, decoding, number=number) for number, (_, text, decoding) in enumerate(asked)]
    chance, waiting = random.Random(0), list(requests)
    with Scheduler(model, memory=memory) as scheduler:
        while waiting or scheduler.has_work:
            count = chance.choice((0, 0, 1, 3, 12))
            scheduler.submit(*waiting[:count])
            del waiting[:count]
            if scheduler.has_work:
                scheduler.step()
    return [_ids(request.hypotheses) for request in requests]


def _ids(hypotheses: Sequence[Any]) -> list[Any]:
    return [hypothesis.pieces for hypothesis in hypotheses]
