"""Titles by GLM-mini-ch, and a file of titles beside transformers on a CPU.

The texts are first articles of Chinese laws, which are outside copyright (`laws.jsonl.gz`; source: LawRefBook/Laws on
GitHub). The peer has no GLM: it writes as many tokens with a GPT-2 of the same shape and random weights.
"""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import _many_peers as peers
from benchmarks._items import clocked, noted
from benchmarks._many_common import Plan, significant, steady
from flagai.auto_model.auto_loader import AutoLoader
from flagai.generation import Decoding, Prompt, generate
from flagai.model.gpt2_model import GPT2Model
from flagai.model.predictor.predictor import Predictor

_LAWS = Path(__file__).with_name("laws.jsonl.gz")
_NEW, _BEAMS, _TOGETHER = 16, 4, 32
# GLM-mini-ch's shape.
MINI = {"n_layer": 9, "n_embd": 384, "n_head": 6, "vocab_size": 6272, "n_positions": 512}


def laws(count: int) -> list[str]:
    """So many texts, all different: those of later rounds lack their last characters."""
    with gzip.open(_LAWS, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    return [texts[index % len(texts)][: -3 * (index // len(texts)) or None] for index in range(count)]


def titles(plan: Plan) -> dict[str, Any]:
    """Titles a second, with the packaged model as it is loaded and in half precision."""
    found: dict[str, Any] = {}

    options: dict[str, Any] = {"input_max_length": 318, "out_max_length": plan.title_tokens, "num_beams": _BEAMS}

    def write(predictor: Predictor, count: int) -> dict[str, float]:
        texts = laws(count)
        return {"titles/s": significant(count / steady(plan, lambda: predictor.write(texts, **options)))}

    for dtype, name in ((None, ""), (torch.bfloat16, ", bf16"))[: 1 + (plan.device == "cuda")]:
        loader = AutoLoader("title-generation", model_name="GLM-mini-ch", device=plan.device)
        writer = Predictor(
            loader.get_model() if dtype is None else loader.get_model().to(dtype), loader.get_tokenizer()
        )
        for count in plan.titles:
            noted(found, f"titles {count}{name}", lambda writer=writer, count=count: write(writer, count))
    return found


def law_prompts(count: int) -> list[Prompt]:
    """The texts' ids by the model's tokenizer."""
    tokenizer = AutoLoader("title-generation", model_name="GLM-mini-ch", only_download_config=True).get_tokenizer()
    return [Prompt(tuple(tokenizer.encode(text))) for text in laws(count)]


def file(plan: Plan) -> dict[str, Any]:
    """A file of titles on a CPU, with 4 beams: this library in one call, transformers in batches.

    Both run the same GPT-2. Transformers writes every n-th of its batches.
    """
    torch.manual_seed(0)
    peer = peers.gpt2(MINI, torch.float32, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        model = GPT2Model.from_pretrained(folder, pad_token_id=None)
    texts = law_prompts(plan.file)
    new = min(_NEW, plan.title_tokens)
    found: dict[str, Any] = {"texts": len(texts)}
    answers: dict[str, list[tuple[int, ...]]] = {}

    def ours() -> dict[str, float]:
        decoding = Decoding(max_new_tokens=new, num_beams=_BEAMS)
        generate(model, texts[:_TOGETHER], decoding)

        def run() -> None:
            answers["flagai"] = [row[0].ids for row in generate(model, texts, decoding)]

        return {"titles/s": significant(len(texts) / clocked(run))}

    def theirs(order: list[int]) -> dict[str, Any]:
        batches = [order[begin : begin + _TOGETHER] for begin in range(0, len(order), _TOGETHER)]
        rows = [row for part in batches[:: max(plan.file // plan.peer_texts, 1)] for row in part]

        def run() -> None:
            answers["transformers"] = peers.written(peer, [texts[row] for row in rows], new, _TOGETHER, **peers.BEAMS)

        seconds = clocked(run)
        pairs = zip((answers["flagai"][row] for row in rows), answers["transformers"], strict=True)
        different = sum(one != other for one, other in pairs)
        return {"titles/s": significant(len(rows) / seconds), "texts": len(rows), "different": different}

    in_order = sorted(range(len(texts)), key=lambda row: len(texts[row].ids))
    noted(found, "flagai", ours)
    noted(found, "transformers, as they come", lambda: theirs(list(range(len(texts)))))
    noted(found, "transformers, sorted", lambda: theirs(in_order))
    return found
