"""The rows of many.py by transformers: a GPT-2 of the same shape, as it runs by default and tuned."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks._items import noted
from benchmarks._many_common import LAYERS, POSITIONS, VOCABULARY, WIDTH, Plan, significant, steady, step_seconds
from flagai.generation import Prompt

# The search that this library's beams are, with as many tokens.
BEAMS: dict[str, Any] = {"num_beams": 4, "early_stopping": "never", "length_penalty": 0.0}
# A step of 512 texts takes long without being faster a text; two sorted halves have less padding.
_MOST_TOGETHER = 256


def gpt2(config: dict[str, Any], dtype: torch.dtype, device: str) -> Any:
    """A model without an end token, so that all answers are as long as they may be."""
    import transformers

    with torch.device(device):
        settings = transformers.GPT2Config(**config, bos_token_id=1, eos_token_id=None)
        return transformers.GPT2LMHeadModel(settings).to(dtype).eval()


def _model(plan: Plan) -> Any:
    shape = plan.config
    return gpt2(
        {"n_layer": shape[LAYERS], "n_embd": shape[WIDTH], "n_head": shape["num_attention_heads"],
         "vocab_size": shape[VOCABULARY], "n_positions": shape[POSITIONS]}, plan.dtype, plan.device,
    )  # fmt: skip


@torch.inference_mode()
def written(
    model: Any, texts: Sequence[Prompt], new: int, together: int, *, ordered: bool = False, **given: Any
) -> list[tuple[int, ...]]:
    """Answers in batches padded on the left, in the order of the texts.

    Args:
        model: the peer's.
        texts: the prompts.
        new: tokens of an answer.
        together: texts of a batch.
        ordered: whether batches are of texts sorted by length, the longest first.
        **given: options of the peer's generate().
    """
    rows = sorted(range(len(texts)), key=lambda row: -len(texts[row].ids)) if ordered else list(range(len(texts)))
    found: dict[int, tuple[int, ...]] = {}
    for begin in range(0, len(rows), together):
        part = rows[begin : begin + together]
        width = max(len(texts[row].ids) for row in part)
        missing = [width - len(texts[row].ids) for row in part]
        ids = torch.tensor([[0] * pad + list(texts[row].ids) for pad, row in zip(missing, part, strict=True)])
        mask = (torch.arange(width) >= torch.tensor(missing)[:, None]).long()
        options = {"do_sample": False, **given}
        answers = model.generate(
            ids.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=new, pad_token_id=0, **options
        )
        count = len(answers) // len(part)
        for row, answer in zip(part, answers[::count, width:].tolist(), strict=True):
            found[row] = tuple(answer)
    return [found[row] for row in range(len(texts))]


def eager(plan: Plan) -> dict[str, Any]:
    """As it runs by default, and its continuous batching."""
    model, found = _model(plan), {}
    _single(plan, model, found)
    for count in plan.batches:
        noted(found, f"batch {count}", lambda count=count: _batch(plan, model, count, ordered=False))
    _samples_and_beams(plan, model, found)
    if plan.device == "cuda":
        noted(found, "titles", lambda: _titles(plan))
        noted(found, f"generate_batch {plan.batches[-1]}", lambda: _continuous(plan, model, plan.batches[-1]))
    return found


def tuned(plan: Plan) -> dict[str, Any]:
    """A static cache, the forward pass compiled (mode reduce-overhead), texts sorted by length."""
    import transformers

    static: dict[str, Any] = {"cache_implementation": "static"}
    if plan.device == "cuda":
        # Each size is compiled for itself: dynamic sizes go without CUDA graphs.
        static["compile_config"] = transformers.CompileConfig(mode="reduce-overhead", dynamic=False)
    model, found = _model(plan), {}
    for count in reversed(plan.batches):
        noted(found, f"batch {count}", lambda count=count: _batch(plan, model, count, ordered=True, **static))
    _single(plan, model, found, **static)
    _samples_and_beams(plan, model, found, **static)
    return found


def _single(plan: Plan, model: Any, found: dict[str, Any], **given: Any) -> None:
    def step(past: int) -> dict[str, float]:
        text = [Prompt(tuple(range(10, 10 + past)))]
        short, long = plan.new // 4 + 1, plan.new + 16
        seconds = step_seconds(plan, lambda count: written(model, text, count, 1, **given), short, long)
        return {"ms": significant(1e3 * seconds)}

    def first() -> dict[str, float]:
        text = plan.texts(1)
        return {"ms": significant(1e3 * steady(plan, lambda: written(model, text, 1, 1, **given)))}

    for past in plan.past[:1]:
        noted(found, f"step after {past}", lambda past=past: step(past))
    noted(found, "first token", first)


def _batch(plan: Plan, model: Any, count: int, *, ordered: bool, **given: Any) -> dict[str, float]:
    texts = plan.texts(count)
    together = min(count, _MOST_TOGETHER) if ordered else count
    seconds = steady(plan, lambda: written(model, texts, plan.new, together, ordered=ordered, **given))
    return {"tokens/s": significant(count * plan.new / seconds)}


def _samples_and_beams(plan: Plan, model: Any, found: dict[str, Any], **given: Any) -> None:
    def samples() -> dict[str, float]:
        count, tokens = plan.samples[-1], plan.answers[-1]
        text = [Prompt(tuple(range(10, 10 + min(128, plan.config[POSITIONS] // 2))))]
        drawn = {"do_sample": True, "num_return_sequences": count, "top_k": 0, **given}
        seconds = steady(plan, lambda: written(model, text, tokens, 1, **drawn))
        return {"tokens/s": significant(count * tokens / seconds)}

    def beams() -> dict[str, float]:
        texts = plan.texts(plan.beam_texts)
        seconds = steady(plan, lambda: written(model, texts, plan.new, len(texts), **BEAMS, **given))
        return {"answers/s": significant(len(texts) / seconds)}

    noted(found, f"samples {plan.samples[-1]}", samples)
    noted(found, f"beams, batch {plan.beam_texts}", beams)


def _titles(plan: Plan) -> dict[str, float]:
    """As many titles by a GPT-2 of GLM-mini-ch's shape, sorted by length."""
    from benchmarks._many_titles import MINI, law_prompts

    model, texts = gpt2(MINI, torch.float32, plan.device), law_prompts(plan.titles[-1])
    seconds = steady(plan, lambda: written(model, texts, 16, 128, ordered=True, **BEAMS))
    return {"titles/s": significant(len(texts) / seconds)}


def _continuous(plan: Plan, model: Any, count: int) -> dict[str, Any]:
    """The peer's own scheduler over a paged cache."""
    import transformers

    texts = [list(text.ids) for text in plan.texts(count)]
    asked = transformers.GenerationConfig(max_new_tokens=plan.new, do_sample=False, eos_token_id=-1, pad_token_id=0)
    lengths: list[int] = []

    def run() -> None:
        answers = model.generate_batch(inputs=texts, generation_config=asked)
        lengths[:] = [len(answer.generated_tokens) for answer in answers.values()]

    seconds = steady(replace(plan, rounds=1, seconds=0), run)  # twice: each run is long
    return {"tokens/s": significant(sum(lengths) / seconds), "answers": len(lengths)}
