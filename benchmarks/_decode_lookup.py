"""Prompt lookup on a GPU: what a step with a draft costs, what drafts are worth, and whether answers stay the same."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks._decode_common import clocked, made, noted, prompt
from benchmarks.lookup import LAWS, compare, timed
from flagai.auto_model.auto_loader import AutoLoader
from flagai.generation import Decoding, Prompt, generate
from flagai.generation.replay.steps import captured_steps
from flagai.model.predictor.text_generation import TextGenerator

DRAFTS = (0, 1, 3, 7, 15)
_STEPS, _ROOM = 60, 900
# Names in the report, and options.
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy with penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    "sampling": {"do_sample": True, "seed": 1},
}


def step_cost(model: Any, prompts: list[Prompt], draft: int) -> float:
    """Seconds of a step: the difference between a long and a short answer, over the difference of their steps."""
    # Models with random weights repeat themselves, so a step may write a whole draft.
    most = _ROOM - max(len(text.ids) for text in prompts)
    times: dict[int, tuple[float, int]] = {}
    for count in (16, min(16 + _STEPS * (draft + 1), most)):
        decoding = Decoding(max_new_tokens=count, prompt_lookup_num_tokens=draft)
        runs = [timed(lambda decoding=decoding: generate(model, prompts, decoding)) for _ in range(6)]
        times[count] = min(run[:2] for run in runs[2:])
    (short, before), (long, after) = times.values()
    return (long - short) / max(after - before, 1)


@torch.inference_mode()
def replay_cost(model: Any) -> float:
    """Seconds of the model's part of the last recorded step."""
    step = next(reversed(captured_steps(model)[-1].forwards.values()))

    def replay(count: int) -> None:
        for _ in range(count):
            step.run()

    replay(3)
    return min(clocked(lambda: replay(20)) for _ in range(3)) / 20


def costs(model: Any, prompts: list[Prompt], most: int = 64) -> dict[str, Any]:
    """Milliseconds of a step with drafts of different lengths, and how that compares with none."""
    found: dict[str, Any] = {}
    first = 0.0
    for draft in DRAFTS:
        if (draft + 1) * len(prompts) > most:
            continue
        seconds = step_cost(model, prompts, draft)
        first = first or seconds
        found[str(draft)] = {
            "ms a step": round(1e3 * seconds, 4),
            "of one token's": round(seconds / first, 3),
            "ms of the model": round(1e3 * replay_cost(model), 4),
        }
    return found


def ceiling(model: Any, prompts: list[Prompt], count: int = 256) -> dict[str, Any]:
    """Tokens a second if every draft is right: with blocks that add nothing, the model repeats its last token."""
    with torch.no_grad():
        for block in model.backbone.blocks:
            for layer in (block.attention.out, block.feed_forward.down):
                layer.weight.zero_()
                layer.bias.zero_()
    found: dict[str, Any] = {}
    for draft in DRAFTS:
        decoding = Decoding(max_new_tokens=count, prompt_lookup_num_tokens=draft)
        runs = [timed(lambda decoding=decoding: generate(model, prompts, decoding)) for _ in range(4)]
        seconds, steps, answers = min(runs[2:], key=lambda run: run[0])
        written = sum(len(row[0].ids) for row in answers)
        found[str(draft)] = {"tokens per second": round(written / seconds, 1), "steps": steps, "tokens": written}
    return found


def equality(model: Any, prompts: list[Prompt]) -> dict[str, Any]:
    """Whether answers with drafts are those without, recorded and step by step."""
    found: dict[str, Any] = {}
    for way, given in WAYS.items():
        for graphs in (True, False):
            options: dict[str, Any] = {"max_new_tokens": 60, "cuda_graphs": graphs, **given}
            plain = generate(model, prompts, Decoding(**options))
            decoding = Decoding(**options, prompt_lookup_num_tokens=5)
            generate(model, prompts, decoding)
            _, steps, fast = timed(lambda decoding=decoding: generate(model, prompts, decoding))
            rows = [(ours[0], theirs[0]) for ours, theirs in zip(plain, fast, strict=True)]
            differ = [(row, *pair) for row, pair in enumerate(rows) if pair[0].ids != pair[1].ids]
            found[f"{way}, {'recorded' if graphs else 'step by step'}"] = {
                "same": f"{len(rows) - len(differ)} of {len(rows)}",
                "scores apart": round(max(abs(ours.score - theirs.score) for ours, theirs in rows), 5),
                "steps": steps,
                **({"differences": [_difference(model, prompts, options, *one) for one in differ]} if differ else {}),
            }
    return found


def _difference(model: Any, prompts: list[Prompt], options: dict[str, Any], row: int, ours: Any, theirs: Any) -> Any:
    """Where two answers part, and by how much the model prefers ours: as little as rounding, if nothing is wrong."""
    pairs = list(zip(ours.ids, theirs.ids, strict=False))
    place = next((number for number, (one, other) in enumerate(pairs) if one != other), len(pairs))
    if place == len(pairs):
        return {"token": place, "lengths": [len(ours.ids), len(theirs.ids)]}
    margins: list[float] = []

    def watch(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        one, other = (scores[row, 0, token] for token in pairs[place])
        margins.append(float(one - other))
        return scores

    generate(model, prompts, Decoding(**options), logits_processors=[watch])
    return {"token": place, "margin of log-probabilities": margins[place] if place < len(margins) else None}


def titles(dtype: torch.dtype) -> dict[str, Any]:
    """Titles of laws by the model that comes with the package."""
    loader = AutoLoader("title-generation", model_name="GLM-mini-ch", device="cuda")
    writer = TextGenerator(loader.get_model().to(dtype), loader.get_tokenizer())
    return {f"batch {batch}": compare(writer, LAWS, (0, 3, 7), batch, 66, rounds=4) for batch in (1, 2)}


def table(shapes: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Everything.

    Args:
        shapes: "glm", "gpt2" and "t5": a class and a configuration.
    """
    found: dict[str, Any] = {}
    (glm, large), (gpt2, small), (t5, base) = shapes["glm"], shapes["gpt2"], shapes["t5"]
    few = {**large, "num_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 5000}
    texts = [prompt(11, 5000, 1), prompt(30, 5000, 2)]
    for dtype in (torch.float32, torch.bfloat16):
        for name, cls, config in (("glm", glm, few), ("gpt2", gpt2, small), ("t5", t5, base)):
            model = made(cls, config, dtype)
            noted(found, f"equal, {name}, {dtype}", lambda model=model: equality(model, texts))
    for dtype in (torch.float32, torch.bfloat16):
        noted(found, f"GLM-mini-ch titles, {dtype}", lambda dtype=dtype: titles(dtype))
    work: dict[str, Callable[[], Any]] = {
        "GPT-2 124M": lambda: costs(made(gpt2, small), [prompt(60, 50000)]),
        "T5-base, 1 text": lambda: costs(made(t5, base), [prompt(256, 32000)]),
        "T5-base, 8 texts": lambda: costs(made(t5, base), [prompt(256, 32000, seed) for seed in range(8)]),
    }
    for name, measure in work.items():
        noted(found, name, measure)
    model = made(glm, large)
    noted(found, "GLM-10b", lambda: costs(model, [prompt(60, 50000)]))
    noted(found, "GLM-10b, 2 texts", lambda: costs(model, [prompt(60, 50000, seed) for seed in range(2)], most=16))
    noted(found, "GLM-10b, every draft right", lambda: ceiling(model, [prompt(300, 50000)]))
    return found
