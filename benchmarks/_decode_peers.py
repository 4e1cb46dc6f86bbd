"""Decoding and encoding by transformers, for decode.py."""

import statistics
from typing import Any

import torch

from benchmarks._decode_common import clocked
from flagai.generation import Prompt


def gpt2_peer(text: Prompt, config: dict[str, Any], short: int, long: int) -> dict[str, Any]:
    import transformers

    settings = {key: value for key, value in config.items() if key != "model_type"}
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    ids = torch.tensor([text.ids], device="cuda")
    found = {"greedy": peer_step(model, {"input_ids": ids}, short, long)}
    found["beams 4"] = peer_step(model, {"input_ids": ids}, short, long, num_beams=4)
    return found


def peer_step(model: Any, inputs: dict[str, Any], short: int, long: int, **given: Any) -> dict[str, Any]:
    def run(count: int) -> float:
        lengths = {"max_new_tokens": count, "min_new_tokens": count}
        return clocked(lambda: model.generate(**inputs, **lengths, do_sample=False, pad_token_id=0, **given))

    run(short)
    seconds = statistics.median((run(long) - run(short)) / (long - short) for _ in range(2))
    return {"ms a step": round(1e3 * seconds, 3), "steps a second": round(1 / seconds, 1)}


def t5_peer(texts: list[Prompt], config: dict[str, Any]) -> dict[str, Any]:
    import transformers

    settings = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("cuda"):
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**settings)).eval().to(torch.bfloat16)
    ids = torch.tensor([text.ids for text in texts], device="cuda")
    return peer_step(model, {"input_ids": ids}, 8, 40)


def bert_peer(ids: list[list[int]], config: dict[str, Any]) -> dict[str, Any]:
    """Sentences a second of padded batches of 256, as they come and sorted by length."""
    import transformers

    settings = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("cuda"):
        model = transformers.BertModel(transformers.BertConfig(**settings)).eval().to(torch.bfloat16)

    def embed(rows: list[list[int]]) -> None:
        for begin in range(0, len(rows), 256):
            part = rows[begin : begin + 256]
            longest = max(map(len, part))
            tokens = torch.tensor([row + [0] * (longest - len(row)) for row in part], device="cuda")
            mask = (torch.arange(longest) < torch.tensor([len(row) for row in part])[:, None]).long().cuda()
            hidden = model(tokens, attention_mask=mask).last_hidden_state
            ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).float().cpu()

    found = {}
    for name, rows in (("as they come", ids), ("sorted", sorted(ids, key=len))):
        embed(rows)
        seconds = statistics.median(clocked(lambda rows=rows: embed(rows)) for _ in range(2))
        found[name] = {"sentences/s": round(len(ids) / seconds)}
    return found
