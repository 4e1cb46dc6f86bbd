"""Decoding and encoding by transformers, for decode.py: as it runs by default, and as an engineer would tune it."""

import statistics
from typing import Any

import torch

from benchmarks._decode_common import clocked, noted
from flagai.generation import Prompt

# A static cache of one size; generate() then compiles the forward pass of a step (torch.compile, CUDA graphs).
TUNED: dict[str, Any] = {"cache_implementation": "static"}
_BATCH = 256


def gpt2_peer(text: Prompt, config: dict[str, Any], short: int, long: int) -> dict[str, Any]:
    import transformers

    model = _made(transformers.GPT2LMHeadModel, transformers.GPT2Config, config)
    return _steps(model, torch.tensor([text.ids], device="cuda"), short, long, {"num_beams": 4})


def t5_peer(texts: list[Prompt], config: dict[str, Any]) -> dict[str, Any]:
    import transformers

    model = _made(transformers.T5ForConditionalGeneration, transformers.T5Config, config)
    return _steps(model, torch.tensor([text.ids for text in texts], device="cuda"), 8, 40)


def _made(cls: Any, config_class: Any, config: dict[str, Any]) -> Any:
    settings = {key: value for key, value in config.items() if key != "model_type"}
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return cls(config_class(**settings)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def _steps(model: Any, ids: torch.Tensor, short: int, long: int, beams: dict[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    noted(found, "greedy", lambda: _step(model, ids, short, long))
    if beams:
        noted(found, "beams 4", lambda: _step(model, ids, short, long, **beams))
    noted(found, "greedy, tuned", lambda: _step(model, ids, short, long, **TUNED))
    if beams:
        noted(found, "beams 4, tuned", lambda: _step(model, ids, short, long, **TUNED, **beams))
    return found


def _step(model: Any, ids: torch.Tensor, short: int, long: int, **given: Any) -> dict[str, Any]:
    def run(count: int) -> float:
        lengths = {"max_new_tokens": count, "min_new_tokens": count}
        return clocked(lambda: model.generate(ids, **lengths, do_sample=False, pad_token_id=0, **given))

    run(long), run(short)  # the longer one first: it makes the static cache that both use
    run(long)
    seconds = statistics.median((run(long) - run(short)) / (long - short) for _ in range(2))
    return {"ms a step": round(1e3 * seconds, 3), "steps per second": round(1 / seconds, 1)}


def bert_peer(ids: list[list[int]], config: dict[str, Any]) -> dict[str, Any]:
    """Sentences a second of padded batches of 256: in the order given, sorted by length, sorted and compiled."""
    import transformers

    model = _made(transformers.BertModel, transformers.BertConfig, config)
    compiled = torch.compile(model, dynamic=True)
    in_order = sorted(ids, key=len)
    found: dict[str, Any] = {}
    for name, runner, rows in (
        ("as they come", model, ids),
        ("sorted", model, in_order),
        ("sorted, compiled", compiled, in_order),
    ):
        noted(found, name, lambda runner=runner, rows=rows: _sentences(runner, rows))
    return found


def _sentences(model: Any, rows: list[list[int]]) -> dict[str, Any]:
    def embed() -> None:
        for begin in range(0, len(rows), _BATCH):
            part = rows[begin : begin + _BATCH]
            longest = max(map(len, part))
            tokens = torch.tensor([row + [0] * (longest - len(row)) for row in part], device="cuda")
            mask = (torch.arange(longest) < torch.tensor([len(row) for row in part])[:, None]).long().cuda()
            hidden = model(tokens, attention_mask=mask).last_hidden_state
            ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).float().cpu()

    embed()
    seconds = statistics.median(clocked(embed) for _ in range(2))
    return {"sentences/s": round(len(rows) / seconds)}
