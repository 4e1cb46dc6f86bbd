"""Prompt lookup on a GPU: what a step with a draft costs, what drafts are worth, and whether answers stay the same."""

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.lookup import LAWS, compare, timed
from flagai.auto_model.auto_loader import AutoLoader
from flagai.generation import Decoding, Prompt, generate
from flagai.model.predictor.writer import Writer

DRAFTS = (0, 1, 3, 7, 15)


def step_cost(model: Any, prompts: list[Prompt], draft: int, short: int, long: int) -> float:
    """Seconds of a step: the difference between a long and a short answer, over the difference of their steps."""

    def run(count: int) -> tuple[float, int]:
        decoding = Decoding(max_new_tokens=count, prompt_lookup=draft)
        return timed(lambda: generate(model, prompts, decoding))[:2]

    run(short), run(long)
    found = []
    for _ in range(3):
        (few, before), (many, after) = run(short), run(long)
        found.append((many - few) / max(after - before, 1))
    return statistics.median(found)


def costs(model: Any, prompts: list[Prompt], short: int = 24, long: int = 120) -> dict[str, Any]:
    """Milliseconds of a step with drafts of different lengths, and how that compares with none."""
    found: dict[str, Any] = {}
    first = 0.0
    for draft in DRAFTS:
        if draft and (draft + 1) * len(prompts) > 64:
            continue
        seconds = step_cost(model, prompts, draft, short, long)
        first = first or seconds
        found[str(draft)] = {"ms a step": round(1e3 * seconds, 4), "of one token's": round(seconds / first, 3)}
    return found


def ceiling(model: Any, prompts: list[Prompt], count: int = 256) -> dict[str, Any]:
    """Tokens a second if every draft is right: with blocks that add nothing, the model repeats its last token."""
    with torch.no_grad():
        for block in getattr(model, "model", model).blocks:
            for layer in (block.attention.out, block.feed_forward.down):
                layer.weight.zero_()
                layer.bias.zero_()
    found: dict[str, Any] = {}
    for draft in DRAFTS:
        decoding = Decoding(max_new_tokens=count, prompt_lookup=draft)
        generate(model, prompts, decoding), generate(model, prompts, decoding)
        seconds, steps, answers = timed(lambda decoding=decoding: generate(model, prompts, decoding))
        written = sum(len(row[0].ids) for row in answers)
        found[str(draft)] = {"tokens a second": round(written / seconds, 1), "steps": steps, "tokens": written}
    return found


def equality(models: dict[str, Any], prompts: list[Prompt]) -> dict[str, Any]:
    """Whether answers with drafts are those without, recorded and step by step."""
    found: dict[str, Any] = {}
    for name, model in models.items():
        for extra in ({}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}, {"do_sample": True, "seed": 1}):
            options: dict[str, Any] = {"max_new_tokens": 60, **extra}
            plain = generate(model, prompts, Decoding(**options))
            for graphs in (True, False):
                decoding = Decoding(**options, prompt_lookup=5, cuda_graphs=graphs)
                generate(model, prompts, decoding)
                _, steps, fast = timed(lambda model=model, decoding=decoding: generate(model, prompts, decoding))
                rows = list(zip(plain, fast, strict=True))
                same = sum(ours[0].ids == theirs[0].ids for ours, theirs in rows)
                apart = max(abs(ours[0].score - theirs[0].score) for ours, theirs in rows)
                key = f"{name} {'/'.join(extra) or 'greedy'} {'recorded' if graphs else 'step by step'}"
                found[key] = {"same": f"{same} of {len(rows)}", "scores apart": round(apart, 5), "steps": steps}
    return found


def titles(dtype: torch.dtype) -> dict[str, Any]:
    """Titles of laws by the model that comes with the package."""
    loader = AutoLoader("title-generation", model_name="GLM-mini-ch", device="cuda")
    writer = Writer(loader.get_model().to(dtype), loader.get_tokenizer())
    return {f"batch {batch}": compare(writer, LAWS, (0, 3, 7), batch, 66, rounds=4) for batch in (1, 2)}


def table(
    made: Callable[..., Any], prompt: Callable[..., Prompt], shapes: dict[str, tuple[Any, Any]]
) -> dict[str, Any]:
    """Everything.

    Args:
        made: makes a model of a class, a configuration and a type.
        prompt: makes a prompt of a length, for a vocabulary.
        shapes: "glm", "gpt2" and "t5": a class and a configuration.
    """
    found: dict[str, Any] = {}

    def noted(name: str, work: Callable[[], Any]) -> None:
        try:
            found[name] = work()
        except Exception as error:  # noqa: BLE001 - one failure must not end the run
            found[name] = {"error": f"{type(error).__name__}: {error}"[-600:]}
        print(f"{name}: {json.dumps(found[name], ensure_ascii=False)}", file=sys.stderr, flush=True)

    (glm, large), (gpt2, small), (t5, base) = shapes["glm"], shapes["gpt2"], shapes["t5"]
    few = {**large, "num_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 5000}
    texts = [prompt(11, 5000, 1), prompt(30, 5000, 2)]
    for dtype in (torch.float32, torch.bfloat16):
        models = {"glm": made(glm, few, dtype), "gpt2": made(gpt2, small, dtype), "t5": made(t5, base, dtype)}
        noted(f"equal, {dtype}", lambda models=models: equality(models, texts))
        del models
    for dtype in (torch.float32, torch.bfloat16):
        noted(f"GLM-mini-ch titles, {dtype}", lambda dtype=dtype: titles(dtype))
    noted("GPT-2 124M", lambda: costs(made(gpt2, small), [prompt(200, 50000)]))
    noted("T5-base, 1 text", lambda: costs(made(t5, base), [prompt(256, 32000)]))
    noted("T5-base, 8 texts", lambda: costs(made(t5, base), [prompt(256, 32000, seed) for seed in range(8)]))
    model = made(glm, large)
    noted("GLM-10b", lambda: costs(model, [prompt(300, 50000)]))
    noted("GLM-10b, 2 texts", lambda: costs(model, [prompt(300, 50000, seed) for seed in range(2)]))
    noted("GLM-10b, every draft right", lambda: ceiling(model, [prompt(300, 50000)]))
    return found
